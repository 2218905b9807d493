"""What a network made of a split: accuracies, what each image was taken for, what was confused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import CACHE_BYTES
from ..dataset import ClassInfo, ShardReader
from ..system import write_file_atomically
from ..words import counted


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """What a network made of a split.

    Attributes:
        run, dataset, split, tta: what was evaluated, and how.
        description: of the network: its name, size and checkpoint.
        images: records that were evaluated. loss: mean cross-entropy, nats. top1, top5: fractions.
        seconds: of the pass.
        classes: of the data set, in label order.
        records: (images,) int64, their numbers, in the order of what follows.
        labels: (images,) int64.
        predictions: (images, 5 or fewer) int64, the most likely classes first.
        probabilities: (images, 5 or fewer) float32, theirs.
        classes_checked: whether the network says which classes it was trained for, so that they were compared with the
            data set's; else its first output was taken for label 0, and so on.
        report: the page that was written, None where none was asked for.
        cache, cache_bytes: of the shards of a data set at a URL, as in `LoaderConfig`.
    """

    run: Path
    dataset: Path | str
    split: str
    tta: str
    description: str
    images: int
    loss: float
    top1: float
    top5: float
    seconds: float
    classes: tuple[ClassInfo, ...]
    records: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    classes_checked: bool = True
    report: Path | None = None
    cache: Path | str | None = None
    cache_bytes: int = CACHE_BYTES

    def __repr__(self) -> str:
        return (
            f"<{self.description} on split {self.split} of {self.dataset_name}: {counted(self.images, 'image')}, "
            f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f}>"
        )

    @property
    def dataset_name(self) -> str:
        """The last part of its path or URL."""
        return str(self.dataset).rstrip("/").rpartition("/")[2]

    def open_split(self, split: str | None = None) -> ShardReader:
        """A reader of the split that was evaluated, or of another one."""
        return ShardReader(self.dataset, split or self.split, self.cache, self.cache_bytes)

    def confusion(self, most: int = 1000) -> npt.NDArray[np.int64]:
        """(n, n) int64: images of the row's class that were taken for the column's.

        n is the number of classes; of more than `most` classes, neighbours share a row and a column, for the whole
        matrix of 12,000 classes takes 1.2 GB.
        """
        share = -(-len(self.classes) // most)
        n = -(-len(self.classes) // share)
        cells = self.labels // share * n + self.predictions[:, 0] // share
        return np.bincount(cells, minlength=n * n).reshape(n, n)

    def images_of_classes(self) -> npt.NDArray[np.int64]:
        """(classes,) int64: the images of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def hits_of_classes(self) -> npt.NDArray[np.int64]:
        """(classes,) int64: the images of each class that were taken for it."""
        return np.bincount(self.labels[self.predictions[:, 0] == self.labels], minlength=len(self.classes))

    @property
    def balanced_top1(self) -> float:
        """Top-1 where every class counts alike: the mean of the classes' own, over those that have images."""
        total, right = self.images_of_classes(), self.hits_of_classes()
        there = total > 0
        return float((right[there] / total[there]).mean())

    @property
    def largest_class(self) -> tuple[int, float]:
        """(label, share of the images) of the class with the most images."""
        total = self.images_of_classes()
        label = int(total.argmax())
        return label, float(total[label] / max(1, self.images))

    def as_dict(self) -> dict[str, Any]:
        """The figures by name: those of this class, largest_class and largest_share.

        Accuracies and the share are fractions, largest_class is a wnid, and pictures is images' old name.
        """
        names = {"split": "split", "images": "images", "pictures": "images"}
        names |= {name: name for name in ("top1", "balanced_top1", "top5", "loss", "tta")}
        label, share = self.largest_class
        return {
            **{key: getattr(self, name) for key, name in names.items()},
            "largest_class": self.classes[label].wnid,
            "largest_share": share,
            "classes_checked": self.classes_checked,
        }

    def write_json(self, path: Path) -> None:
        """Write `as_dict` to `path`."""
        write_file_atomically(Path(path), (json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def scores(self) -> str:
        """The three figures in words."""
        return f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, loss {self.loss:.4f}"

    def closing_lines(self) -> str:
        """The result in words; where there is a report, with the hardest and easiest classes and what was confused."""
        how = "" if self.tta == "none" else f", {self.tta}"
        lines = [
            f"{self.description}, on {counted(self.images, 'image')} of split {self.split}{how}:",
            f"{self.scores()} ({self.images / self.seconds:,.0f} images/s)",
            *self.caveats(),
        ]
        paper = self.beside_paper()
        if paper is not None:
            errors = "; ".join(f"{who} {top1:.1%} and {top5:.1%}" for who, top1, top5 in paper)
            lines.append(f"top-1 and top-5 error: {errors}")
        if self.report is not None:
            lines += [*class_lines(self), f"report: {self.report}"]
        return "\n".join(lines)

    def beside_paper(self) -> list[tuple[str, float, float]] | None:
        """(network, top-1 error, top-5 error) of this and the paper's; None where the classes are not ImageNet's.

        Krizhevsky et al. 2012, table 2 (one network and five, ILSVRC-2012's validation images, ten crops).
        """
        wnids = [c.wnid for c in self.classes]
        if len(wnids) != 1000 or (wnids[0], wnids[-1]) != ("n01440764", "n15075141"):
            return None
        views = {"none": "one crop", "flip": "an image and its mirror image", "ten-crop": "ten crops"}[self.tta]
        return [
            (f"this one ({views})", 1 - self.top1, 1 - self.top5),
            ("the paper's (ten crops)", 0.407, 0.182),
            ("five of the paper's (ten crops)", 0.381, 0.164),
        ]

    def caveats(self) -> list[str]:
        """What has to be known to read the accuracies, a sentence each; [] where there is nothing."""
        count = len(self.classes)
        if count == 1:
            return ["The data set has 1 class, so every answer is right and the accuracies say nothing."]
        found = []
        if not self.classes_checked:
            found.append(
                "The network does not name its classes, so they could not be compared with the data set's: its first "
                f"output is taken for {short_name(self.classes[0].name)}, its last for "
                f"{short_name(self.classes[-1].name)}."
            )
        total = self.images_of_classes()
        label, share = self.largest_class
        if total.max() != total.min():
            found.append(
                "The classes are not of one size: balanced accuracy (each class counts alike) "
                f"{self.balanced_top1:.2%}; always answering {short_name(self.classes[label].name)}, "
                f"the largest class, gives {share:.2%}."
            )
        empty = int((total == 0).sum())
        if empty:
            found.append(f"{empty:,} of {count:,} classes {'has' if empty == 1 else 'have'} no image here.")
        if count <= 5:
            found.append(f"Top-5 counts all {count} classes, so it is always 100%.")
        return found


def confused_pairs(result: EvalResult, most: int = 12) -> list[tuple[int, int, int, float]]:
    """(true label, predicted label, images, share of the true class's), the largest shares first.

    Only pairs that occur take memory, however many classes there are.
    """
    n, total = len(result.classes), result.images_of_classes()
    taken = result.predictions[:, 0]
    wrong = taken != result.labels
    cells, counts = np.unique(result.labels[wrong] * n + taken[wrong], return_counts=True)
    true, predicted = np.divmod(cells, n)
    share = counts / total[true]
    order = np.argsort(-share, kind="stable")[:most]
    return [(int(true[i]), int(predicted[i]), int(counts[i]), float(share[i])) for i in order]


def class_lines(result: EvalResult, most: int = 5) -> list[str]:
    """For the terminal: the hardest and easiest classes and the most confused pairs."""
    total, right = result.images_of_classes(), result.hits_of_classes()
    names = [short_name(c.name) for c in result.classes]
    share: Mapping[int, float] = {int(i): right[i] / total[i] for i in np.flatnonzero(total)}
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
