"""What a network made of a split: accuracies, what each image was taken for, what was confused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset import ClassInfo
from ..system import write_file_atomically


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """What a network made of a split.

    Attributes:
        run, dataset, split, tta: what was evaluated, and how.
        description: of the network: its name, size and checkpoint.
        images: all records of the split. loss: mean cross-entropy, nats. top1, top5: fractions.
        seconds: of the pass.
        classes: of the data set, in label order.
        labels: (images,) int64, in record order.
        predictions: (images, 5 or fewer) int64, the most likely classes first.
        probabilities: (images, 5 or fewer) float32, theirs.
        report: the page that was written, None where none was asked for.
    """

    run: Path
    dataset: Path
    split: str
    tta: str
    description: str
    images: int
    loss: float
    top1: float
    top5: float
    seconds: float
    classes: tuple[ClassInfo, ...]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    report: Path | None = None

    def confusion(self) -> npt.NDArray[np.int64]:
        """(classes, classes) int64: images of the row's class that were taken for the column's."""
        n = len(self.classes)
        cells = self.labels * n + self.predictions[:, 0]
        return np.bincount(cells, minlength=n * n).reshape(n, n)

    def as_dict(self) -> dict[str, Any]:
        """{split, images, pictures, top1, top5, loss, tta}; accuracies are fractions, pictures is images' old name."""
        names = {"split": "split", "images": "images", "pictures": "images"}
        names |= {name: name for name in ("top1", "top5", "loss", "tta")}
        return {key: getattr(self, name) for key, name in names.items()}

    def write_json(self, path: Path) -> None:
        """Write `as_dict` to `path`."""
        write_file_atomically(Path(path), (json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def closing_lines(self) -> str:
        """The result in words; where there is a report, with the hardest and easiest classes and what was confused."""
        how = "" if self.tta == "none" else f", {self.tta}"
        rate = self.images / self.seconds
        lines = [
            f"{self.description}, on {self.images:,} images of split {self.split}{how}:",
            f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f} ({rate:,.0f} images/s)",
        ]
        if self.report is not None:
            lines += [*class_lines(self), f"report: {self.report}"]
        return "\n".join(lines)


def confused_pairs(result: EvalResult, most: int = 12) -> list[tuple[int, int, int, float]]:
    """(true label, predicted label, images, share of the true class's), the largest shares first."""
    counts = result.confusion()
    total = counts.sum(1)
    off = counts.copy()
    np.fill_diagonal(off, 0)
    share = off / np.maximum(1, total)[:, None]
    order = np.argsort(-share, axis=None, kind="stable")[:most]
    pairs = [divmod(int(cell), len(counts)) for cell in order]
    return [(t, p, int(off[t, p]), float(share[t, p])) for t, p in pairs if off[t, p]]


def class_lines(result: EvalResult, most: int = 5) -> list[str]:
    """For the terminal: the hardest and easiest classes and the most confused pairs."""
    counts = result.confusion()
    total = counts.sum(1)
    names = [short_name(c.name) for c in result.classes]
    share: Mapping[int, float] = {int(i): counts[i, i] / total[i] for i in np.flatnonzero(total)}
    order = sorted(share, key=lambda label: share[label])
    lines = [f"hardest classes: {_listed(order[:most], share, names)}"]
    lines.append(f"easiest classes: {_listed(order[::-1][:most], share, names)}")
    pairs = confused_pairs(result, 3)  # more would not fit on a line
    if pairs:
        words = "; ".join(f"{names[t]} for {names[p]} {part:.0%}" for t, p, _, part in pairs)
        lines.append(f"most often taken wrongly: {words}")
    return lines


def _listed(labels: Sequence[int], share: Mapping[int, float], names: Sequence[str]) -> str:
    return ", ".join(f"{names[label]} {share[label]:.0%}" for label in labels)


def short_name(name: str) -> str:
    return name.split(",")[0]
