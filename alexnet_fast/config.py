"""What can be asked for: frozen, keyword-only, checked when made. No torch here, so that ``--help`` stays quick.

Values come from the caller alone: no config reads argv or the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError
from .options import (
    INTERVAL,
    LOCATION,
    NUMBER_ABOVE_0,
    PLACE,
    SETTINGS,
    SIZE,
    SWITCH,
    TEXT,
    UP_TO_1,
    Kind,
    auto_or,
    check_options,
    declared,
    interval_seconds,
    on_off,
    one_of,
    option,
    several,
    whole,
)

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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


MOST_WORKERS = 1024  # each is a process or a thread: more are a slip of the keyboard, which would bring a machine down
CROPS = ("resized", "shorter-side")
FLIPS = ("random", "alternate", "off")
CACHE_BYTES = 50 << 30
SHUFFLES = ("auto", "full", "window")


def _device(value: object) -> str:
    if str(value).split(":")[0] not in DEVICES:
        raise ValueError
    return str(value)


def _area(value: Any) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high <= 1:
        raise ValueError
    return float(low), float(high)


def _function(value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise ValueError
    return value  # type: ignore[no-any-return]


def _share(value: Any) -> float:
    if isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError
    return float(value)


AREA = Kind("two shares of an image, 0 < from <= to <= 1", _area, "FROM,TO")
BACKEND = one_of(*BACKENDS)
DEVICE = Kind(f"one of {', '.join(DEVICES)}", _device, "|".join(DEVICES), words=DEVICES)
FUNCTION = Kind("something that can be called", _function, "FUNCTION")
SHARE = Kind("a number over 0 and up to 1", _share, "X", parse=float)
DTYPE = Kind("a dtype", dtype_name, "DTYPE")
WORKERS = auto_or(whole(0, MOST_WORKERS))
DATASET = declared(LOCATION, "Folder made by `alexnet-fast pack`, or the URL of one.", argument=True, metavar="DATASET")
CACHE = declared(PLACE, "Folder that keeps the shards of a DATASET at a URL.", metavar="DIR")
CACHE_LIMIT = declared(SIZE, "Size that the folder of --cache may reach.")


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

    crop: str = option("resized", one_of(*CROPS))
    area: tuple[float, float] = option((0.08, 1.0), AREA)
    flip: str = option("random", one_of(*FLIPS))

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Share:
    """A part of a split's records, drawn once: the same for every epoch, rank and run.

    Of two shares with one seed the smaller lies within the larger.

    Attributes:
        fraction: how much, over 0 and up to 1.
        seed: another one draws other records.
        per_class: take that fraction of each class, rounded and one record at least; else of all records together.
    """

    fraction: float = field(metadata=declared(SHARE))
    seed: int = option(0, whole(0))
    per_class: bool = option(True, SWITCH)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What a loader reads and how it hands it over.

    Attributes:
        dataset: folder made by ``alexnet-fast pack``, or the URL of one (not needed by the synthetic backend when
            num_classes is given).
        split: name of the split in dataset.json.
        train: random crops, flips and a shuffled order with the last partial batch dropped; otherwise the centre crop
            with every record once. None means: exactly when the split is called train.
        backend: 'auto', 'dali', 'torchvision', 'resident' or 'synthetic'.
        batch_size: images per batch and rank.
        image_size: side S of the square images, pixels.
        num_workers: worker processes or threads; 'auto' follows the usable cores.
        pin_memory: page-locked host buffers, where the device is CUDA; elsewhere they do not exist. 'auto' means True.
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
        shuffle: 'full' draws each epoch from all records; 'window' reads few shards at a time (see
            `alexnet_fast.loaders.order.window_order`); 'auto' is full for a folder and window for a URL.
        done: of the first epoch with shuffle 'window', how far other numbers of ranks read it: pairs of ranks and
            records that each of them read.
        cache: folder for the shards of a data set at a URL; None: alexnet-fast/shards in the user's cache folder.
        cache_bytes: bytes of shards that the cache may hold.
        options: what one backend alone understands, by name; an unknown name is refused by the backend.
        records: which records an epoch reads: record numbers, a boolean mask over the split, a `Share` or its
            fraction; training shuffles them. Or a function of (seed, epoch) that returns numbers or a mask: an epoch
            reads them in the order in which they are given. None: all.
        weights: for training: a number from 0 up for each record of the split (or for each of `records`). As many
            records as before are drawn with replacement, in proportion to them. None: each is read once.
        views: crops of each image in a batch, each drawn and mirrored by itself; for training.
        image_transform: called in the workers on each crop, a uint8 tensor (3, S, S), with random numbers of
            (seed, epoch, record); returns such a tensor, which is then normalised, or a floating-point one, which is
            handed out as it is. Not for the dali and synthetic backends, nor for resident on a GPU.
        batch_transform: called on the device on a batch's images and labels (or on the images alone, if it takes no
            more), with random numbers of (seed, epoch, records); returns what it was given, changed. Labels may become
            (N, classes), as those of torchvision's MixUp and CutMix.
        batch_transform_at: 'normalised': `batch_transform` gets images as they are handed out; 'uint8': it gets them
            before they are normalised.
    """

    dataset: Path | str | None = option(None, LOCATION)
    split: str = option("train", TEXT)
    train: bool | None = option(None, SWITCH)
    backend: str = option("auto", BACKEND)
    batch_size: int = option(128, whole(1))
    image_size: int = option(224, whole(8))
    num_workers: int | Literal["auto"] = option("auto", WORKERS)
    pin_memory: bool | str = option(True, on_off(auto=True))
    device: str = option("auto", DEVICE)
    dtype: Any = option("float32", DTYPE)
    seed: int = option(0, whole(0))
    rank: int = option(0, whole(0))
    world_size: int = option(1, whole(1))
    start_epoch: int = option(0, whole(0))
    start_step: int = option(0, whole(0))
    prefetch: int = option(2, whole(1))
    augmentation: Augmentation = field(default_factory=Augmentation)
    eval_resize: int | None = option(None, whole(1))
    shuffle: str = option("auto", one_of(*SHUFFLES))
    done: tuple[tuple[int, int], ...] = ()
    cache: Path | str | None = option(None, PLACE)
    cache_bytes: int = option(CACHE_BYTES, SIZE)
    options: Mapping[str, Any] = field(default_factory=dict)
    records: Any = field(default=None, compare=False)
    weights: Any = field(default=None, compare=False)
    views: int = option(1, whole(1))
    image_transform: Callable[..., Any] | None = option(None, FUNCTION)
    batch_transform: Callable[..., Any] | None = option(None, FUNCTION)
    batch_transform_at: str = option("normalised", one_of("normalised", "uint8"))

    def __post_init__(self) -> None:
        check_options(self)
        if self.train is None:
            object.__setattr__(self, "train", self.split == "train")
        _require(
            self.eval_resize is None or self.eval_resize >= self.image_size,
            f"eval_resize must be a whole number from image_size={self.image_size} up, got {self.eval_resize!r}",
        )
        _require(self.views == 1 or bool(self.train), f"views={self.views} needs train=True: evaluation draws no crops")
        _require(self.weights is None or bool(self.train), "weights need train=True: evaluation draws no records")
        _require(
            self.rank < self.world_size,
            f"rank must be in 0..world_size-1, got rank={self.rank!r} and world_size={self.world_size!r}",
        )
        _require(
            self.dataset is not None or self.backend == "synthetic",
            "dataset is missing: give the folder that `alexnet-fast pack` made",
        )


MODELS = ("alexnet", "alexnet-bn", "alexnet-paper", "alexnet-owt")
RECIPES = ("fast", "paper", "notebook", "record")
FREEZES = ("none", "features")
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
METADATA = "alexnet_fast"  # the key under which an exported file says what its network is, as JSON


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, and how. A hyper-parameter left at None comes from the recipe.

    Attributes:
        dataset: packed data set with a ``train`` split.
        val_split: the split that is evaluated after every epoch, where there is one of that name with labels.
        run_dir: folder for what the run leaves; None makes runs/MODEL-RECIPE-DATE.
        model, recipe: by name; see `alexnet_fast.models` and `alexnet_fast.recipes`.
        epochs, batch_size, lr: overrides; batch_size is the global one, over all ranks.
        overrides: any other hyper-parameter of the recipe, by its field name.
        image_size: side of the images that the network sees, pixels; 'auto' is 224, or the training images' own size
            (the median of their shorter sides) where that is smaller.
        init: a run folder, a checkpoint or an AlexNet's weights to start from; the last layer is new where the classes
            are others. A resumed run starts from its checkpoint.
        freeze: 'features': the convolutional layers keep their weights; 'none': all learn.
        precision: 'auto' takes bf16 where the device has it, else fp16 on CUDA, else fp32.
        backend, num_workers, pin_memory, device, seed: as in `LoaderConfig`.
        hw_decoder_load: share of a batch for a GPU's JPEG engines, with backend dali; None: as `DaliLoader` has it.
        compile: whether the network goes through torch.compile; 'auto' means False.
        resume: go on from the newest checkpoint in run_dir.
        checkpoint_every: how often a checkpoint is written within an epoch: a number of steps, or a time such as '90s',
            '10m' or '1h'; None or 'epoch': at the end of each epoch only.
        loader_settings: a bench-loader.json whose recommendation fills backend, num_workers and pin_memory where these
            are 'auto'.
        max_steps: stop after so many optimiser steps in all.
        shuffle, cache, cache_bytes: as in `LoaderConfig`.
        records: file of the record numbers to train on: text, a number a line, or .npy with numbers or a mask.
        share: of each class to train on, over 0 and up to 1; the same records for every seed. Not with `records`.
    """

    dataset: Path | str = field(metadata=DATASET)
    run_dir: Path | str | None = option(None, PLACE, "Run folder; runs/NAME if not given.", metavar="RUN", again=False)
    model: str = option("alexnet", one_of(*MODELS), "Network.", same_run=True)
    recipe: str = option("fast", one_of(*RECIPES), "Set of hyper-parameters, by name.")
    epochs: int | None = option(None, whole(1), "Passes over the training images; the recipe's if not given.")
    batch_size: int | None = option(None, whole(1), "Images a step, over all devices; the recipe's if not given.")
    image_size: int | Literal["auto"] = option(
        "auto", auto_or(whole(1)), "Side of the network's input, pixels; auto: 224, or the images' own if smaller.",
        same_run=True,
    )  # fmt: skip
    lr: float | None = option(None, NUMBER_ABOVE_0, "Peak learning rate; the recipe's if not given.", metavar="RATE")
    overrides: Mapping[str, Any] = option({}, SETTINGS, "Any other hyper-parameter; may be repeated.", flag="--set")
    init: Path | str | None = option(None, PLACE, "Run folder, checkpoint or weights to start from.")
    freeze: str = option("none", one_of(*FREEZES), "Layers that keep their weights.", same_run=True)
    precision: str = option("auto", one_of(*PRECISIONS), "Number format of the arithmetic.", same_run=True)
    backend: str = option("auto", BACKEND, "Loader backend.", same_run=True)
    num_workers: int | Literal["auto"] = option("auto", WORKERS, "Workers that decode images.")
    pin_memory: bool | str = option("auto", on_off(auto="auto"), "Page-locked buffers; they matter with CUDA only.")
    val_split: str = option("val", TEXT, "Split to validate on after each epoch.", metavar="NAME", same_run=True)
    hw_decoder_load: float | None = option(None, UP_TO_1, "Share of a batch for a GPU's JPEG engines; for dali.")
    compile: bool | str = option(False, on_off(auto=False), "Use torch.compile; auto is off.")
    device: str = option("auto", DEVICE, "Where to compute.")
    seed: int = option(0, whole(0, 2**63 - 1), "Seed of weights, order and crops.", same_run=True)
    resume: bool = option(False, SWITCH, "Go on from the newest checkpoint of --run-dir.", again=False)
    checkpoint_every: int | str | None = option(
        "10m", INTERVAL, "How often to write a checkpoint within an epoch: 500, 90s, 10m, 1h."
    )
    loader_settings: Path | str | None = option(
        None, PLACE, "bench-loader.json to take loader settings from.", again=False
    )
    max_steps: int | None = option(None, whole(1), "Stop after N steps in all.", again=False)
    shuffle: str = option(
        "auto", one_of(*SHUFFLES), "Order of the records; auto: window for a URL, else full.", same_run=True
    )
    cache: Path | str | None = field(default=None, metadata=CACHE)
    cache_bytes: int = field(default=CACHE_BYTES, metadata=CACHE_LIMIT)
    records: Path | str | None = option(
        None, PLACE, "Train only on the records whose numbers FILE lists: a line each, or .npy."
    )
    share: float | None = option(None, SHARE, "Train only on this share of each class, such as 0.1.")

    def __post_init__(self) -> None:
        check_options(self)
        if self.hw_decoder_load is not None and self.backend != "dali":
            raise UsageError(
                f"--hw-decoder-load is for backend dali, and the backend is {self.backend}: add --backend dali"
            )

    @property
    def checkpoint_steps(self) -> int | None:
        """Steps between checkpoints within an epoch, None where they go by time or not at all."""
        return self.checkpoint_every if isinstance(self.checkpoint_every, int) else None

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between checkpoints within an epoch, None where they go by steps or not at all."""
        every = self.checkpoint_every
        return interval_seconds(every) if isinstance(every, str) else None


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What `bench_loader` sweeps: every combination of the tuples.

    Attributes:
        dataset: packed data set, or its URL: then shards are fetched for some seconds, and those are swept.
        split: the split that is read, with training's augmentation.
        backends: None: those that run on the device.
        num_workers: None: 0, 1, 2, 4 ... up to the usable cores, and one step above.
        pin_memory: None: off and on where the device is CUDA, else off.
        hw_decoder_load: share of a batch for a GPU's JPEG engines, of the dali backend; None: as `DaliLoader` has it.
        batch_sizes: of the loader.
        image_size: side, pixels.
        seconds: measuring time a cell, over all its repeats.
        device: as in `LoaderConfig`.
        out: folder for bench-loader.json, .md and .png; None: nothing is written.
        model: whose demand is measured; 'none' for no network's.
        cache, cache_bytes: as in `LoaderConfig`.
        baseline: an ordinary folder of class folders to sweep with ImageFolder and DataLoader as well.
        persistent_workers: the baseline's workers live from one epoch to the next, else each epoch starts them anew.
        seed: as in `LoaderConfig`.
        timeout: seconds without a sign of life after which a cell counts as hung.
    """

    dataset: Path | str = field(metadata=DATASET)
    split: str = option("train", TEXT)
    backends: tuple[str, ...] | None = option(
        None, several(one_of(*BACKENDS[1:]), f"some of {', '.join(BACKENDS[1:])}", "A,B"),
        "Loader backends to measure; those that run here if not given.", flag="--backend",
    )  # fmt: skip
    num_workers: tuple[int, ...] | None = option(
        None, several(whole(0, MOST_WORKERS), f"whole numbers from 0 to {MOST_WORKERS}", "0,1,2"),
        "Numbers of workers to measure; 0, 1, 2, 4 ... one step past the cores if not given.",
    )  # fmt: skip
    pin_memory: tuple[bool, ...] | None = option(
        None, several(on_off(auto=True), "on, off or auto", "on,off"), "Page-locked buffers; for CUDA only."
    )  # fmt: skip
    hw_decoder_load: float | None = option(None, UP_TO_1, "Share of a batch for a GPU's JPEG engines; for dali.")
    batch_sizes: tuple[int, ...] = option(
        (128,), several(whole(1), "whole numbers from 1 up", "N,M"), "Images a batch, or several.", flag="--batch-size"
    )  # fmt: skip
    image_size: int = option(224, whole(8), "Side of the crops, pixels.")
    seconds: float = option(5.0, NUMBER_ABOVE_0, "Seconds to measure each setting for.", metavar="S")
    persistent_workers: bool = option(True, SWITCH, "Keep the workers of --baseline from one epoch to the next.")
    model: str = option("alexnet", one_of(*MODELS, "none"), "Network whose training speed is measured too.")
    baseline: Path | str | None = option(None, PLACE, "Measure ImageFolder with DataLoader too.", metavar="FOLDER")
    timeout: float = option(
        120.0, NUMBER_ABOVE_0, "Give up a setting that shows no progress for so many seconds.", metavar="S"
    )
    device: str = option("auto", DEVICE, "Where to compute.")
    cache: Path | str | None = field(default=None, metadata=CACHE)
    cache_bytes: int = field(default=CACHE_BYTES, metadata=CACHE_LIMIT)
    out: Path | str | None = option(None, PLACE, "Write bench-loader.json, .md and .png here.", metavar="DIR")
    seed: int = option(0, whole(0))

    def __post_init__(self) -> None:
        check_options(self)
