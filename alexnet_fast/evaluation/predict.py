"""The most likely classes of anyone's images, by a trained network."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DamagedDataError, UsageError

if TYPE_CHECKING:
    import torch

    from ..training import LoadedRun

_BATCH = 64
_BAR = 20  # columns of a probability of 1
_BESIDE = 31  # columns of a line beside the class's name: margins, bar and figure
# Files of a folder that are taken for images; a file that is named itself is tried whatever it is called.
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}


@dataclass(frozen=True, kw_only=True)
class ClassGuess:
    """One class and the probability that the network gives it; wnid is '' where the run knows none."""

    index: int
    wnid: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's most likely classes, the likeliest first."""

    path: Path
    guesses: tuple[ClassGuess, ...]


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What `predict` found.

    Attributes:
        description: of the network.
        predictions: one an image, in the order asked for.
        unreadable: (file, why) of those that could not be decoded.
    """

    description: str
    predictions: tuple[Prediction, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """{model, images: [{path, classes: [{index, wnid, name, probability}]}], unreadable: [{path, reason}]}.

        `pictures` is the old name of images, and holds the same.
        """
        images = [{"path": str(p.path), "classes": [vars(g) for g in p.guesses]} for p in self.predictions]
        return {
            "model": self.description,
            "images": images,
            "pictures": images,
            "unreadable": [{"path": str(path), "reason": reason} for path, reason in self.unreadable],
        }

    def write_json(self, path: Path | str) -> None:
        """Write `as_dict` to `path`."""
        from ..system import write_file_atomically

        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        write_file_atomically(Path(path), text.encode(errors="surrogateescape"))

    def closing_lines(self) -> str:
        """Each image with its classes and their probabilities as bars."""
        lines = [self.description]
        longest = max((_columns(_title(g)) for p in self.predictions for g in p.guesses), default=0)
        width = min(longest, max(20, shutil.get_terminal_size().columns - _BESIDE))
        for prediction in self.predictions:
            lines.append(f"\n{prediction.path}")
            lines += [f"  {_pad(_title(guess), width)} {_bar(guess.probability)}" for guess in prediction.guesses]
        lines += [f"\n{path}\n  not read: {reason}" for path, reason in self.unreadable]
        return "\n".join(lines)


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


def predict(
    run: Path | str, images: Sequence[Path | str], *, top: int = 5, device: str = "auto", batch_size: int = _BATCH
) -> PredictResult:
    """Classify images of any format that Pillow reads, cropped as in evaluation.

    Args:
        run: a run folder, a checkpoint file, or the state_dict of an AlexNet, torchvision's among them.
        images: files, or folders whose images are taken with those of the folders within, in order of name.
        top: classes to name for each image.

    Raises:
        UsageError: a path is not there, a folder holds no image, or the run is none.
        DamagedDataError: none of the images could be decoded, or the checkpoint is damaged.
    """
    import torch

    from ..images import finish_batch
    from ..system import choose_device
    from ..training import load_run

    if top < 1:
        raise UsageError(f"top must be a whole number from 1 up, got {top!r}")
    paths = list(find_images(images))
    loaded = load_run(run)
    names = class_names(loaded)
    place = choose_device(device)
    model = loaded.model.to(place).to(memory_format=torch.channels_last)
    predictions: list[Prediction] = []
    unreadable: list[tuple[Path, str]] = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            read: list[tuple[Path, torch.Tensor]] = []
            for path in paths[start : start + batch_size]:
                try:
                    read.append((path, load_image(path, loaded.image_size)))
                except DamagedDataError as error:
                    unreadable.append((path, str(error)))
            if not read:
                continue
            pixels = torch.stack([image for _, image in read]).to(place)
            shares = torch.softmax(model(finish_batch(pixels, None, torch.float32)).float(), 1)
            best = shares.topk(min(top, shares.shape[1]), dim=1)
            for (path, _), values, labels in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
                guesses = (
                    ClassGuess(index=i, wnid=names[i][0], name=names[i][1], probability=p)
                    for i, p in zip(labels, values, strict=True)
                )
                predictions.append(Prediction(path=path, guesses=tuple(guesses)))
    if not predictions:
        path, reason = unreadable[0]
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        raise DamagedDataError(f"{path} {reason}{more}: give images in a format that Pillow reads")
    return PredictResult(
        description=loaded.description, predictions=tuple(predictions), unreadable=tuple(unreadable)
    )  # fmt: skip


def find_images(images: Sequence[Path | str]) -> Iterator[Path]:
    """The files named, and the images in the folders named.

    Raises:
        UsageError: a path is not there, or a folder holds no image.
    """
    if not images:
        raise UsageError("no image was given: name files or folders")
    for image in map(Path, images):
        if image.is_dir():
            found = sorted(p for p in image.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
            if not found:
                raise UsageError(f"the folder {image} holds no images ({', '.join(sorted(_SUFFIXES))})")
            yield from found
        elif image.exists():
            yield image
        else:
            raise UsageError(f"there is no image {image}: check its path")


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

    A camera's orientation mark is followed, transparency is laid on white, and of a moving image the first frame is
    taken.

    Returns:
        uint8 (3, image_size, image_size), RGB.

    Raises:
        DamagedDataError: it cannot be decoded; the text has no subject.
    """
    import torch
    from torch.nn.functional import interpolate

    from ..images import plan_eval

    pixels = _read_rgb(Path(path))
    plan = plan_eval([pixels.shape[0]], [pixels.shape[1]], image_size)
    top, left, height, width = plan.boxes[0].tolist()
    box = torch.from_numpy(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    scaled = interpolate(
        box.permute(2, 0, 1)[None], size=plan.scaled[0].tolist(), mode="bilinear", antialias=True, align_corners=False
    )
    top, left = plan.offsets[0].tolist()
    return scaled[0, :, top : top + image_size, left : left + image_size]


def _read_rgb(path: Path) -> np.typing.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata in images that are sound
            with Image.open(path) as opened:
                image: Image.Image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I") or image.mode == "F":
                    image = _to_eight_bits(image)
                if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                return np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UsageError(f"there is no image {path}: check its path") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).replace(repr(str(path)), "it").split())
        raise DamagedDataError(f"cannot be decoded ({reason})") from None


def _to_eight_bits(image: Any) -> Any:
    """Grey of 16 or 32 bits (or floating point) to the 8 bits that Pillow would otherwise clip it to."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    most = 65535.0 if values.max(initial=0) > 255 else 255.0
    return Image.fromarray(np.clip(values * (255 / most), 0, 255).astype(np.uint8))
