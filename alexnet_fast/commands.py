"""What `pack`, `evaluate` and `predict` can be asked for; `config` has loading, training and measuring.

A field is an option of the function (by its name) and of the command line, and is declared here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .config import (
    BACKEND,
    CACHE,
    CACHE_BYTES,
    CACHE_LIMIT,
    DATASET,
    DEVICE,
    PRECISIONS,
    SHARE,
    SOURCE_FORMATS,
    WORKERS,
)
from .options import (
    LOCATION,
    PLACE,
    SIZE,
    SWITCH,
    TEXT,
    Kind,
    auto_or,
    check_options,
    declared,
    one_of,
    option,
    whole,
)

TTA = ("none", "flip", "ten-crop")


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ValueError
    return tuple(values)


def _places(values: Any) -> tuple[Path | str, ...]:
    if isinstance(values, (str, Path)):
        raise ValueError
    return tuple(LOCATION.read(value) for value in values)


SPLITS = Kind("names of splits, each NAME or NAME=FOLDER", _texts, "NAME[=FOLDER]", type=list[str])
CLASSES = Kind(
    "a number of classes, or a file that lists some",
    lambda value: value if isinstance(value, int) and not isinstance(value, bool) else Path(value),
    "FILE|N",
)
PLACES = Kind("paths or URLs of images", _places, "IMAGE", type=list[str])
FILE_OR_SWITCH = Kind("true, false or a file", lambda value: value if isinstance(value, bool) else Path(value), "FILE")
BAD = one_of("error", "skip")

RUN = declared(PLACE, "Run folder, checkpoint, or an AlexNet's weights.", argument=True, metavar="RUN")


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """What to pack, and how.

    Attributes:
        source: folder, zip, tar or parquet file of images (docs/sources.md lists the forms), or a URL of one.
        dataset: folder to write, made if missing; or a URL, to which shards are sent from a folder in the cache.
        splits: those to pack, each NAME or NAME=FOLDER (a folder of the source, or an archive in it); None: all.
        classes: the number of classes to take from the front, or a file with a class on each line; None: all.
        format: one of `config.SOURCE_FORMATS`; 'auto' recognises by looking.
        shard_bytes: bytes of images (as they are at the source) at which a shard is full; 'auto': what an earlier run
            in the same folder took, else a 128th of all, from 8 MiB to 1 GiB. One worker writes a shard.
        resize_shorter: shrink images whose shorter side has more pixels, keeping the aspect ratio; None: none.
        quality: of what is encoded anew, 1 to 100.
        workers: processes; 0 does all in this one; 'auto' follows the usable cores.
        seed: of the shuffle over each split.
        on_bad_image: 'error' ends at an image that cannot be decoded, 'skip' leaves it out and lists it.
        on_missing: 'error' ends at an image without a label and at a label without an image, 'skip' leaves them out.
        limit: images per split, a random sample, for trials; None: all.
        engine: 'local', or 'ray' to spread the shards over a Ray cluster with a shared file system.
        seek_index: write beside each shard where the rows of its JPEGs begin, 0.4% of the bytes, so that crops are
            decoded sooner; needs compiled code. Records are the same without.
        overwrite: replace a data set that is there.
    """

    source: Path | str = field(
        metadata=declared(
            LOCATION, "Folder, zip, tar or parquet file of images, or a URL of one.", argument=True, metavar="SOURCE"
        )
    )
    dataset: Path | str = field(
        metadata=declared(LOCATION, "Folder to write, made if missing; or a URL.", argument=True, metavar="DATASET")
    )
    splits: tuple[str, ...] | None = option(
        None, SPLITS, "Pack only this split, or take FOLDER of SOURCE for it; may be repeated.", flag="--split",
        same_run=True,
    )  # fmt: skip
    classes: int | Path | str | None = option(None, CLASSES, "Pack only the classes that FILE lists, or the first N.")
    format: str = option(
        "auto", one_of(*SOURCE_FORMATS),
        "ilsvrc2012, kaggle, tiny-imagenet, imagefolder, webdataset or parquet; auto looks at SOURCE.", metavar="KIND",
    )  # fmt: skip
    shard_bytes: int | Literal["auto"] = option(
        "auto", auto_or(SIZE), "Size of a shard; auto: a 128th of all, 8MiB to 1GiB.", same_run=True
    )
    resize_shorter: int | None = option(
        None, whole(1), "Shrink a shorter side of more than N pixels to N.", same_run=True
    )
    quality: int = option(95, whole(1, 100), "JPEG quality of images that are encoded anew, 1 to 100.", same_run=True)
    workers: int | Literal["auto"] = option("auto", WORKERS, "Worker processes.")
    seed: int = option(0, whole(0), "Seed of the shuffle.", same_run=True)
    on_bad_image: str = option("error", BAD, "What to do with an image that cannot be decoded.")
    on_missing: str = option("error", BAD, "What to do with an image without a label, or a label without an image.")
    limit: int | None = option(None, whole(1), "Pack at most N images of each split, for a trial.", same_run=True)
    engine: str = option("local", one_of("local", "ray"), "What writes the shards: processes here, or a Ray cluster.")
    seek_index: bool = option(True, SWITCH, "Write an index by which crops are decoded faster.")
    overwrite: bool = option(False, SWITCH, "Replace a data set that is there.")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate, and on what.

    Attributes:
        run: a run folder (its best.pt, else last.pt), a checkpoint file, or an AlexNet's state_dict.
        dataset: packed data set, or the URL of one.
        split: must have labels.
        tta: 'none'; 'flip' averages each image and its mirror image; 'ten-crop' averages the softmax of four corners,
            the centre and their mirror images (Krizhevsky et al. 2012, section 4.1).
        json: file for the result; None: none is written.
        report: folder for an HTML report and its drawings as PNGs; None: none is written.
        batch_size: images at a time.
        backend, num_workers, device: as in `LoaderConfig`.
        precision: as in `TrainConfig`.
        records, share: which records of the split, as in `TrainConfig`; None: all.
        cache, cache_bytes: as in `LoaderConfig`.
    """

    run: Path | str = field(metadata=RUN)
    dataset: Path | str = field(metadata=DATASET)
    split: str = option("val", TEXT, "Split to evaluate; it must have labels.", metavar="NAME")
    tta: str = option("none", one_of(*TTA), "Views of each image to average over.")
    json: Path | None = option(None, PLACE, "Write the result here.")
    report: Path | None = option(None, PLACE, "Write an HTML report here.", metavar="DIR")
    batch_size: int = option(128, whole(1), "Images a batch.")
    backend: str = option("auto", BACKEND, "Loader backend.")
    num_workers: int | Literal["auto"] = option("auto", WORKERS, "Workers that decode images.")
    device: str = option("auto", DEVICE, "Where to compute.")
    precision: str = option("auto", one_of(*PRECISIONS))
    records: Path | None = option(
        None, PLACE, "Evaluate only the records whose numbers FILE lists: a line each, or .npy."
    )
    share: float | None = option(None, SHARE, "Evaluate only this share of each class, such as 0.1.")
    cache: Path | str | None = field(default=None, metadata=CACHE)
    cache_bytes: int = field(default=CACHE_BYTES, metadata=CACHE_LIMIT)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Whose classes to name, and how.

    Attributes:
        run: a run folder, a checkpoint file, or an AlexNet's weights in any of the files that a run may be.
        images: files, URLs, or folders whose images are taken with those of the folders within, in order of name.
        top: classes to name for each image.
        json: file for the result; None: none is written.
        features: also compute what the last hidden layer makes of each image; a file: and write it there (.npy).
        device: as in `LoaderConfig`.
        batch_size: images at a time.
    """

    run: Path | str = field(metadata=RUN)
    images: Sequence[Path | str] = field(
        metadata=declared(PLACES, "Image files, folders of them, or URLs of files.", argument=True)
    )
    top: int = option(5, whole(1), "Classes to show for each image.")
    json: Path | None = option(None, PLACE, "Write the result here.")
    features: bool | Path | None = option(None, FILE_OR_SWITCH, "Write the last hidden layer's vectors here (.npy).")
    device: str = option("auto", DEVICE, "Where to compute.")
    batch_size: int = option(64, whole(1))

    def __post_init__(self) -> None:
        check_options(self)
