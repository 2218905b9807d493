"""What can be asked for: frozen, keyword-only, checked when made. No torch here, so that ``--help`` stays quick.

Values come from the caller alone: no config reads argv or the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError

BACKENDS = ("auto", "dali", "torchvision", "resident", "synthetic")
SOURCE_FORMATS = ("auto", "tiny-imagenet", "imagefolder", "kaggle", "ilsvrc2012", "webdataset", "parquet")
DEVICES = ("auto", "cuda", "mps", "cpu")

_DTYPES = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "float16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float32": "float32",
    "float": "float32",
    "uint8": "uint8",
}


def dtype_name(dtype: Any) -> str:
    """The canonical name ('bfloat16', 'float16', 'float32' or 'uint8') of a torch dtype or of its usual short names.

    Raises:
        UsageError: the dtype is none of these.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(sorted(set(_DTYPES)))}, got {dtype!r}")
    return _DTYPES[name]


def on_off_auto(name: str, value: object) -> bool | Literal["auto"]:
    """Read a switch that is a bool or one of the words on, off, auto.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    if value in ("on", "off"):
        return value == "on"
    raise UsageError(f"{name} must be on, off or auto, got {value!r}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


MOST_WORKERS = 1024  # each is a process or a thread: more are a slip of the keyboard, which would bring a machine down
CROPS = ("resized", "shorter-side")
FLIPS = ("random", "alternate", "off")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a training loader cuts and mirrors its images; evaluation knows none of this.

    Attributes:
        crop: 'resized' draws a box of random area and aspect (Szegedy et al. 2015); 'shorter-side' scales the shorter
            side to 256/224 of the image size and cuts a square at a random place (Krizhevsky et al. 2012, section 4.1).
        area: share of the image that a 'resized' crop covers, from and to.
        flip: 'random' mirrors each image with probability one half; 'alternate' does so in the first epoch and then
            mirrors it every second epoch, so that two epochs in a row show both sides; 'off' never.
    """

    crop: str = "resized"
    area: tuple[float, float] = (0.08, 1.0)
    flip: str = "random"

    def __post_init__(self) -> None:
        _require(self.crop in CROPS, f"crop must be one of {', '.join(CROPS)}, got {self.crop!r}")
        _require(self.flip in FLIPS, f"flip must be one of {', '.join(FLIPS)}, got {self.flip!r}")
        try:
            low, high = self.area
            fits = 0 < low <= high <= 1
        except (TypeError, ValueError):
            fits = False
        _require(fits, f"area must be two shares of an image, 0 < from <= to <= 1, got {self.area!r:.40}")
        object.__setattr__(self, "area", (float(low), float(high)))


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What a loader reads and how it hands it over.

    Attributes:
        dataset: folder made by ``alexnet-fast pack`` (not needed by the synthetic backend when num_classes is given).
        split: name of the split in dataset.json.
        train: random crops, flips and a shuffled order with the last partial batch dropped; otherwise the centre crop
            with every record once. None means: exactly when the split is called train.
        backend: 'auto', 'dali', 'torchvision', 'resident' or 'synthetic'.
        batch_size: images per batch and rank.
        image_size: side S of the square images, pixels.
        num_workers: worker processes or threads; 'auto' follows the usable cores.
        pin_memory: page-locked host buffers; 'auto' and True pin only where the device is CUDA.
        device: 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'.
        dtype: of the images: 'float32', 'bfloat16', 'float16' (normalised), or 'uint8' (0-255, not normalised); the
            usual short names and torch dtypes are taken too.
        seed: of order and augmentation.
        rank, world_size: this process among those that share the data.
        start_epoch, start_step: where the first pass begins, to resume a run.
        prefetch: batches prepared ahead, by all workers together.
        augmentation: how training images are cut and mirrored.
        eval_resize: shorter side, pixels, to which evaluation scales an image before its centre `image_size` is cut
            out; None: 256/224 of image_size.
        options: what one backend alone understands, by name; an unknown name is refused by the backend.
    """

    dataset: Path | str | None = None
    split: str = "train"
    train: bool | None = None
    backend: str = "auto"
    batch_size: int = 128
    image_size: int = 224
    num_workers: int | Literal["auto"] = "auto"
    pin_memory: bool | str = "auto"
    device: str = "auto"
    dtype: Any = "float32"
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    start_epoch: int = 0
    start_step: int = 0
    prefetch: int = 2
    augmentation: Augmentation = field(default_factory=Augmentation)
    eval_resize: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dataset is not None:
            object.__setattr__(self, "dataset", Path(self.dataset))
        object.__setattr__(self, "device", str(self.device))
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        object.__setattr__(self, "pin_memory", on_off_auto("pin_memory", self.pin_memory))
        if self.train is None:
            object.__setattr__(self, "train", self.split == "train")
        _require(self.backend in BACKENDS, f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        _require(
            self.device.split(":")[0] in DEVICES, f"device must be one of {', '.join(DEVICES)}, got {self.device!r}"
        )
        for name, least in (
            ("batch_size", 1),
            ("image_size", 8),
            ("seed", 0),
            ("start_epoch", 0),
            ("start_step", 0),
            ("prefetch", 1),
        ):
            value = getattr(self, name)
            _require(_is_int(value) and value >= least, f"{name} must be a whole number from {least} up, got {value!r}")
        least = self.image_size
        _require(
            self.eval_resize is None or (_is_int(self.eval_resize) and self.eval_resize >= least),
            f"eval_resize must be a whole number from image_size={least} up, got {self.eval_resize!r}",
        )
        _require(
            self.num_workers == "auto" or (_is_int(self.num_workers) and 0 <= self.num_workers <= MOST_WORKERS),
            f"num_workers must be auto or a whole number from 0 to {MOST_WORKERS}, got {self.num_workers!r}",
        )
        _require(
            _is_int(self.rank) and _is_int(self.world_size) and 0 <= self.rank < self.world_size,
            f"rank must be in 0..world_size-1, got rank={self.rank!r} and world_size={self.world_size!r}",
        )
        _require(
            self.dataset is not None or self.backend == "synthetic",
            "dataset is missing: give the folder that `alexnet-fast pack` made",
        )


MODELS = ("alexnet", "alexnet-bn", "alexnet-paper", "alexnet-owt")
RECIPES = ("fast", "paper", "notebook")
PRECISIONS = ("auto", "bf16", "fp16", "fp32")


_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _interval(name: str, value: object) -> int | str | None:
    """A number of steps, a time such as '10m', or None for 'epoch'."""
    if value is None or value == "epoch":
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if _is_int(value) and value >= 1:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    text = value.strip().lower() if isinstance(value, str) else ""
    try:
        fits = text[-1:] in _UNIT_SECONDS and 0 < float(text[:-1]) < float("inf")
    except ValueError:
        fits = False
    _require(fits, f"{name} must be a number of steps, a time such as 90s, 10m or 1h, or epoch, got {value!r}")
    return text


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, and how. A hyper-parameter left at None comes from the recipe.

    Attributes:
        dataset: packed data set with a ``train`` split; a ``val`` split is evaluated every epoch where there is one.
        run_dir: folder for what the run leaves; None makes runs/MODEL-RECIPE-DATE.
        model, recipe: by name; see `alexnet_fast.models` and `alexnet_fast.recipes`.
        epochs, batch_size, lr: overrides; batch_size is the global one, over all ranks.
        overrides: any other hyper-parameter of the recipe, by its field name.
        image_size: side of the images that the network sees, pixels.
        precision: 'auto' takes bf16 where the device has it, else fp16 on CUDA, else fp32.
        backend, num_workers, pin_memory, device, seed: as in `LoaderConfig`.
        compile: torch.compile: 'on', 'off' or 'auto' (where it is measured to pay).
        resume: go on from the newest checkpoint in run_dir.
        checkpoint_every: how often a checkpoint is written within an epoch: a number of steps, or a time such as '90s',
            '10m' or '1h'; None or 'epoch': at the end of each epoch only.
        loader_settings: a bench-loader.json whose recommendation fills backend, num_workers and pin_memory where these
            are 'auto'.
        max_steps: stop after so many optimiser steps in all.
    """

    dataset: Path | str
    run_dir: Path | str | None = None
    model: str = "alexnet"
    recipe: str = "fast"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 224
    precision: str = "auto"
    backend: str = "auto"
    num_workers: int | Literal["auto"] = "auto"
    pin_memory: bool | str = "auto"
    compile: bool | str = "auto"
    device: str = "auto"
    seed: int = 0
    resume: bool = False
    checkpoint_every: int | str | None = "10m"
    loader_settings: Path | str | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", Path(self.dataset))
        for name in ("run_dir", "loader_settings"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        for name in ("pin_memory", "compile"):
            object.__setattr__(self, name, on_off_auto(name, getattr(self, name)))
        for name, known in (("model", MODELS), ("recipe", RECIPES), ("precision", PRECISIONS), ("backend", BACKENDS)):
            value = getattr(self, name)
            _require(value in known, f"{name} must be one of {', '.join(known)}, got {value!r}")
        object.__setattr__(self, "checkpoint_every", _interval("checkpoint_every", self.checkpoint_every))
        for name in ("epochs", "batch_size", "max_steps"):
            value = getattr(self, name)
            _require(
                value is None or (_is_int(value) and value >= 1),
                f"{name} must be a whole number from 1 up, got {value!r}",
            )
        _require(  # torch's generators take no more than 64 bits
            _is_int(self.seed) and 0 <= self.seed < 2**63,
            f"seed must be a whole number from 0 to 2^63-1, got {self.seed!r}",
        )
        _require(
            self.lr is None or (isinstance(self.lr, (int, float)) and 0 < self.lr < float("inf")),
            f"lr must be a positive number, got {self.lr!r}",
        )

    @property
    def checkpoint_steps(self) -> int | None:
        """Steps between checkpoints within an epoch, None where they go by time or not at all."""
        return self.checkpoint_every if isinstance(self.checkpoint_every, int) else None

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between checkpoints within an epoch, None where they go by steps or not at all."""
        every = self.checkpoint_every
        return float(every[:-1]) * _UNIT_SECONDS[every[-1]] if isinstance(every, str) else None


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What `bench_loader` sweeps: every combination of the tuples.

    Attributes:
        dataset: packed data set.
        split: the split that is read, with training's augmentation.
        backends: None: those that run on the device.
        num_workers: None: 0, 1, 2, 4 ... up to the usable cores, and one step above.
        pin_memory: None: off and on where the device is CUDA, else off.
        batch_sizes: of the loader.
        image_size: side, pixels.
        seconds: measuring time a cell, over all its repeats.
        device: as in `LoaderConfig`.
        out: folder for bench-loader.json, .md and .png; None: nothing is written.
        model: whose demand is measured; 'none' for no network's.
        baseline: an ordinary folder of class folders to sweep with ImageFolder and DataLoader as well.
        prefetch, seed: as in `LoaderConfig`.
        persistent_workers: workers live from one epoch to the next, else each epoch starts them anew.
        timeout: seconds without a sign of life after which a cell counts as hung.
    """

    dataset: Path | str
    split: str = "train"
    backends: tuple[str, ...] | None = None
    num_workers: tuple[int, ...] | None = None
    pin_memory: tuple[bool, ...] | None = None
    batch_sizes: tuple[int, ...] = (128,)
    image_size: int = 224
    seconds: float = 5.0
    device: str = "auto"
    out: Path | str | None = None
    model: str = "alexnet"
    baseline: Path | str | None = None
    prefetch: int = 2
    persistent_workers: bool = True
    seed: int = 0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", Path(self.dataset))
        for name in ("out", "baseline"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        for backend in self.backends or ():
            _require(backend in BACKENDS[1:], f"backend must be one of {', '.join(BACKENDS[1:])}, got {backend!r}")
        for workers in self.num_workers or ():
            _require(
                _is_int(workers) and 0 <= workers <= MOST_WORKERS,
                f"num_workers must be whole numbers from 0 to {MOST_WORKERS}, got {workers!r}",
            )
        for size in self.batch_sizes:
            _require(_is_int(size) and size >= 1, f"batch_size must be whole numbers from 1 up, got {size!r}")
        _require(self.model in (*MODELS, "none"), f"model must be {', '.join(MODELS)} or none, got {self.model!r}")
        _require(bool(self.batch_sizes), "batch_sizes must name at least one size")
        _require(
            _is_int(self.image_size) and self.image_size >= 8, f"image_size must be 8 or more, got {self.image_size!r}"
        )
        _require(_is_int(self.prefetch) and self.prefetch >= 1, f"prefetch must be 1 or more, got {self.prefetch!r}")
        for name in ("seconds", "timeout"):
            value = getattr(self, name)
            _require(
                isinstance(value, (int, float)) and 0 < value < float("inf"), f"{name} must be positive, got {value!r}"
            )
