"""The most likely classes of anyone's images, by a trained network."""

from __future__ import annotations

import io
import json
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..commands import PredictConfig
from ..errors import AlexNetFastError, DamagedDataError, UsageError
from ..options import takes_options
from ..system import check_writable
from ..words import counted
from .image_files import find_images, read_image_file

if TYPE_CHECKING:
    import torch

    from ..training import LoadedRun

_BAR = 20  # columns of a probability of 1
_BESIDE = 31  # columns of a line beside the class's name: margins, bar and figure


@dataclass(frozen=True, kw_only=True)
class ClassGuess:
    """One class and the probability that the network gives it; wnid is '' where the run knows none."""

    index: int
    wnid: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's most likely classes, the likeliest first.

    Attributes:
        path: the file, or the URL as it was given.
        note: what was guessed or left out in reading it, '' where nothing was.
    """

    path: Path | str
    guesses: tuple[ClassGuess, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What `predict` found.

    Attributes:
        description: of the network.
        predictions: one an image, in the order asked for.
        unreadable: (file, why) of those that could not be read.
        passed_over: a line for each folder that holds other files than images.
        features: (images, width) float32, what the last hidden layer makes of each image (behind its ReLU), in the
            order of `predictions`; None where it was not asked for.
    """

    description: str
    predictions: tuple[Prediction, ...]
    unreadable: tuple[tuple[Path | str, str], ...] = ()
    passed_over: tuple[str, ...] = ()
    features: npt.NDArray[np.float32] | None = None

    def as_dict(self) -> dict[str, Any]:
        """{model, images: [{path, classes: [{index, wnid, name, probability}], note}], unreadable: [{path, reason}]}.

        `pictures` is the old name of images, and holds the same.
        """
        images = [
            {"path": str(p.path), "classes": [vars(g) for g in p.guesses], "note": p.note} for p in self.predictions
        ]
        return {
            "model": self.description,
            "images": images,
            "pictures": images,
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
            "passed_over": list(self.passed_over),
        }

    def write_json(self, path: Path | str) -> None:
        """Write `as_dict` to `path`."""
        from ..system import write_file_atomically

        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        write_file_atomically(Path(path), text.encode(errors="surrogateescape"))

    def write_features(self, path: Path | str) -> None:
        """Write `features` to `path` as numpy's .npy, a row an image that was read.

        Raises:
            UsageError: they were not asked for.
        """
        from ..system import write_file_atomically

        if self.features is None:
            raise UsageError("no features were computed: call predict with features=True")
        held = io.BytesIO()
        np.save(held, self.features)
        write_file_atomically(Path(path), held.getvalue())

    def closing_lines(self) -> str:
        """Each image with its classes and their probabilities as bars."""
        lines = [self.description]
        longest = max((_columns(_title(g)) for p in self.predictions for g in p.guesses), default=0)
        width = min(longest, max(20, shutil.get_terminal_size().columns - _BESIDE))
        for prediction in self.predictions:
            lines.append(f"\n{_shown(prediction.path)}")
            lines += [f"  ({prediction.note})"] if prediction.note else []
            lines += [f"  {_pad(_title(guess), width)} {_bar(guess.probability)}" for guess in prediction.guesses]
        lines += [f"\n{_shown(path)}\n  not read: it {reason}" for path, reason in self.unreadable]
        if self.passed_over:
            lines += ["", *self.passed_over]
        return "\n".join(lines)


def _shown(path: Path | str) -> str:
    """A name on one line of its own, whatever is in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def _title(guess: ClassGuess) -> str:
    return guess.name if guess.wnid in ("", guess.name) else f"{guess.wnid} {guess.name}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, columns: int) -> str:
    """`text` cut and padded to so many columns of a terminal, in which Chinese takes two a character."""
    if _columns(text) > columns:
        while _columns(text) > columns - 1:
            text = text[:-1]
        text += "…" if _draws_blocks() else "."
    return text + " " * (columns - _columns(text))


def _draws_blocks() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def _bar(probability: float) -> str:
    eighths = round(probability * _BAR * 8)
    if _draws_blocks():
        bar = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
    else:
        bar = "#" * round(eighths / 8)
    return f"{bar.ljust(_BAR)} {probability:6.1%}"


@takes_options(PredictConfig)
def predict(run: Path | str, images: Sequence[Path | str], **options: Any) -> PredictResult:
    """Classify images of any format that Pillow reads, cropped as in evaluation.

    Args:
        run, images, options: as in `PredictConfig`.

    Raises:
        UsageError: a path is not there, a folder holds no image, or the run is none.
        DamagedDataError: none of the images could be read, or the checkpoint is damaged.
    """
    asked = PredictConfig(run=run, images=images, **options)
    file = asked.features if isinstance(asked.features, Path) else None
    check_writable(asked.json, "--json")
    check_writable(file, "--features", (".npy",))
    result = _predict(asked)
    if asked.json is not None:
        result.write_json(asked.json)
    if file is not None:
        result.write_features(file)
    return result


def _predict(asked: PredictConfig) -> PredictResult:
    import torch

    from ..images import finish_batch
    from ..system import choose_device, follow_usable_cores, memory_format, use_device
    from ..training import load_run

    paths, passed_over = find_images(asked.images)
    loaded = load_run(asked.run)
    names = class_names(loaded)
    follow_usable_cores()
    place = choose_device(asked.device)
    use_device(place)
    model = loaded.model.to(place).to(memory_format=memory_format(place))
    predictions: list[Prediction] = []
    vectors: list[torch.Tensor] = []
    unreadable: list[tuple[Path | str, str]] = []
    with torch.inference_mode():
        for start in range(0, len(paths), asked.batch_size):
            read: list[tuple[Path | str, str]] = []
            pixels: list[torch.Tensor] = []
            for path in paths[start : start + asked.batch_size]:
                try:
                    image = read_image_file(path)
                    pixels.append(centre_crop(image.pixels, loaded.image_size))
                    read.append((path, image.note))
                except AlexNetFastError as error:
                    unreadable.append((path, str(error)))
            if not read:
                continue
            hidden = model.hidden(
                finish_batch(torch.stack(pixels).to(place), None, torch.float32).contiguous(
                    memory_format=memory_format(place)
                )
            )
            vectors += [hidden.float().cpu()] if asked.features else []
            shares = torch.softmax(model.classifier[-1](hidden).float(), 1)
            best = shares.topk(min(asked.top, shares.shape[1]), dim=1)
            for (path, note), values, labels in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
                guesses = (
                    ClassGuess(index=i, wnid=names[i][0], name=names[i][1], probability=p)
                    for i, p in zip(labels, values, strict=True)
                )
                predictions.append(Prediction(path=path, guesses=tuple(guesses), note=note))
    if not predictions:
        path, reason = unreadable[0]
        more = f"; {counted(len(unreadable) - 1, 'other image')} cannot be read either" if len(unreadable) > 1 else ""
        raise DamagedDataError(f"{_shown(path)} {reason}{more}")
    return PredictResult(
        description=loaded.description, predictions=tuple(predictions), unreadable=tuple(unreadable),
        passed_over=tuple(passed_over), features=torch.cat(vectors).numpy() if asked.features else None,
    )  # fmt: skip


def class_names(loaded: LoadedRun) -> list[tuple[str, str]]:
    """(wnid, name) of each class of a run; ImageNet's names for a bare state_dict of 1,000 classes."""
    if loaded.classes:
        return [(c.wnid, c.name) for c in loaded.classes]
    count = loaded.model.num_classes
    if count == 1000:
        from torchvision.models import AlexNet_Weights

        return [("", name) for name in AlexNet_Weights.IMAGENET1K_V1.meta["categories"]]
    return [("", f"class {i}") for i in range(count)]


def load_image(path: Path | str, image_size: int) -> torch.Tensor:
    """Read one image as evaluation shows it: shorter side to 256/224 of `image_size`, then the centre.

    Returns:
        uint8 (3, image_size, image_size), RGB.

    Raises:
        DamagedDataError: it cannot be read; the text has no subject.
    """
    return centre_crop(read_image_file(path).pixels, image_size)


def centre_crop(pixels: npt.NDArray[np.uint8], image_size: int) -> torch.Tensor:
    """An image (height, width, 3) as evaluation shows it: uint8 (3, image_size, image_size)."""
    import torch
    from torch.nn.functional import interpolate

    from ..images import plan_eval

    plan = plan_eval([pixels.shape[0]], [pixels.shape[1]], image_size)
    top, left, height, width = plan.boxes[0].tolist()
    box = torch.from_numpy(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    scaled = interpolate(
        box.permute(2, 0, 1)[None], size=plan.scaled[0].tolist(), mode="bilinear", antialias=True, align_corners=False
    )
    top, left = plan.offsets[0].tolist()
    return scaled[0, :, top : top + image_size, left : left + image_size]
