"""What a packed data set holds, in words and as a grid of images; and what a loader makes of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .dataset import DatasetInfo, ShardReader, read_dataset_info
from .errors import DamagedDataError, UsageError
from .images import IMAGENET_MEAN, IMAGENET_STD
from .words import counted

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
_GRID = 48  # images in a grid; half as many with what the network sees beside each
_SHOWN_CLASSES = 5
_SHOWN_KEYS = 3
_SPLITS = ("train", "val", "test")  # in this order; others after them


def inspect(
    dataset: Path | str,
    *,
    split: str | None = None,
    grid: Path | str | None = None,
    augmented: bool = False,
    seed: int = 0,
    image_size: int = 224,
    backend: str = "auto",
) -> str:
    """Describe DATASET, and draw a grid of one of its splits where `grid` names a file.

    Args:
        split: drawn; None: train if there is one, else the first.
        augmented: beside each image, draw what a loader of `backend` feeds the network from it at `image_size`.
        seed: which images are drawn, and the loader's seed.

    Returns:
        The description, in lines.

    Raises:
        UsageError: no such data set or split; `augmented` without `grid`.
        DamagedDataError: the data set is damaged.
    """
    info = read_dataset_info(dataset)
    if augmented and grid is None:
        raise UsageError("--augmented draws an image: give its file as well, as in --grid out.png --augmented")
    lines = [_head(dataset, info), *_split_lines(dataset, info), *_packing_lines(info)]
    if grid is not None:
        name = split or ("train" if "train" in info.splits else next(iter(info.splits)))
        reader = ShardReader(dataset, name)
        try:
            if augmented:
                _draw_augmented(reader, Path(grid), seed, image_size, backend)
            else:
                _draw_split(reader, Path(grid), seed)
        finally:
            reader.close()
        lines.append(f"\ngrid of {name}: {grid}")
    elif split is not None:
        info.split(split)
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Words


def _head(dataset: Path | str, info: DatasetInfo) -> str:
    packing = info.packing
    kind = f" ({packing['source_format']})" if "source_format" in packing else ""
    total = sum(s.records for s in info.splits.values())
    return (
        f"{dataset}: {counted(total, 'image')} in {counted(info.num_classes, 'class')}, "
        f"packed from {packing.get('source', 'a source that is not named')}{kind}"
    )


def _split_lines(dataset: Path | str, info: DatasetInfo) -> list[str]:
    lines = []
    for name in sorted(info.splits, key=lambda name: (*_SPLITS, name).index(name)):
        split = info.splits[name]
        reader = ShardReader(dataset, name)
        lines.append(
            f"\n{name}: {counted(split.records, 'image')}, {split.bytes / 1e6:,.1f} MB of JPEG in "
            f"{counted(len(split.shards), 'shard')}" + ("" if split.labelled else ", without labels")
        )
        if split.records:
            lines += _size_lines(reader)
            if split.labelled:
                lines += _balance_lines(reader, info)
    return lines


def _size_lines(reader: ShardReader) -> list[str]:
    width, height = reader.widths, reader.heights
    sizes = {tuple(map(int, pair)) for pair in np.unique(np.stack([width, height], axis=1), axis=0)}
    if len(sizes) == 1:
        (only,) = sizes
        first = f"  size            all {only[0]} x {only[1]} pixels"
    else:
        first = f"  shorter side    pixels: {_spread(np.minimum(width, height))}"
    lines = [first]
    if len(sizes) > 1:
        lines.append(f"  longer side     pixels: {_spread(np.maximum(width, height))}")
    lines.append(f"  an image        bytes: {_spread(reader.lengths)}")
    return lines


def _spread(values: npt.NDArray[Any]) -> str:
    least, low, middle, high, most = np.percentile(values, [0, 5, 50, 95, 100])
    return f"{middle:,.0f} in the middle, {low:,.0f} to {high:,.0f} for 9 in 10, {least:,.0f} to {most:,.0f} in all"


def _balance_lines(reader: ShardReader, info: DatasetInfo) -> list[str]:
    counts = np.bincount(reader.labels[reader.labels >= 0], minlength=info.num_classes)
    if counts.min() == counts.max():
        return [f"  class balance   even: {counted(int(counts.min()), 'image')} a class"]
    middle = f"{np.median(counts):,.0f} in the middle"
    lines = [f"  class balance   {counts.min():,} to {counts.max():,} images a class, {middle}"]
    order = np.argsort(counts, kind="stable")
    few, many = order[:_SHOWN_CLASSES], order[::-1][:_SHOWN_CLASSES]
    lines.append(f"    fewest        {_class_counts(few, counts, info)}")
    lines.append(f"    most          {_class_counts(many, counts, info)}")
    empty = int((counts == 0).sum())
    if empty:
        lines.append(f"    none at all   {counted(empty, 'class')}")
    return lines


def _class_counts(labels: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], info: DatasetInfo) -> str:
    return "; ".join(f"{info.classes[label].name.split(',')[0]} {counts[label]:,}" for label in labels)


def _packing_lines(info: DatasetInfo) -> list[str]:
    packing = info.packing
    lines = []
    options = {k: v for k, v in packing.get("options", {}).items() if v is not None}
    if options:
        lines.append(
            "\npack was given: " + ", ".join(f"{name}={_plain(value)}" for name, value in sorted(options.items()))
        )
    changed = []
    if packing.get("resized"):
        changed.append(f"{packing['resized']:,} shrunk")
    entries = packing.get("re_encoded", {})
    for reason, count in sorted(entries.get("counts", {}).items()):
        listed = entries.get("images", entries.get("pictures", ()))  # the second is of before 0.2
        keys = [e["key"] for e in listed if e["reason"].partition(":")[0] == reason]
        changed.append(f"{count:,} encoded anew ({reason}): {_some(keys, count)}")
    left_out = packing.get("left_out", ())
    if left_out:
        changed.append(f"{len(left_out):,} left out: {_some([e['key'] for e in left_out], len(left_out))}")
    if not changed:
        return [*lines, "pack changed nothing: every image is byte for byte as it was at the source"]
    return [*lines, "pack changed:", *(f"  {line}" for line in changed)]


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:_SHOWN_KEYS]) + (" ..." if count > _SHOWN_KEYS else "")


# ---------------------------------------------------------------------------------------------------------------------
# Images


def _draw_split(reader: ShardReader, path: Path, seed: int) -> None:
    from .plots import plot_grid

    records = _mixed_records(reader, seed)
    plot_grid(
        [read_image(reader, record) for record in records],
        [_caption(reader, record) for record in records],
        path,
        title=f"{reader.dataset.name}: {len(records)} of {len(reader):,} images of {reader.split}",
    )


def _mixed_records(reader: ShardReader, seed: int) -> list[int]:
    """Up to a grid full of records: the classes in turn, drawn at random within each, in label order."""
    order = np.random.default_rng(seed).permutation(len(reader))
    labels = reader.labels[order]
    by_label = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[by_label]) != 0]) if len(order) else np.empty(0, np.int64)
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    chosen = by_label[np.argsort(turn, kind="stable")][:_GRID]
    if len(starts) > _GRID:  # more classes than places: not the first classes only
        chosen = np.arange(min(_GRID, len(order)))
    return [int(order[i]) for i in chosen[np.argsort(labels[chosen], kind="stable")]]


def _caption(reader: ShardReader, record: int) -> str:
    label = int(reader.labels[record])
    name = reader.info.classes[label].name.split(",")[0] if label >= 0 else "no label"
    return f"{name}\n{reader.widths[record]} x {reader.heights[record]}"


def read_image(reader: ShardReader, record: int) -> Pixels:
    """One record as uint8 (height, width, 3), RGB.

    Raises:
        DamagedDataError: it cannot be decoded.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata in images that are sound
            with Image.open(io.BytesIO(reader.read(record))) as image:
                return np.array(image.convert("RGB"))
    except (OSError, ValueError) as error:
        what = f"{reader.describe(record)} cannot be decoded ({error})"
        raise DamagedDataError(f"{what}: run `alexnet-fast verify {reader.dataset} --decode`") from None


def to_images(images: torch.Tensor) -> Pixels:
    """Undo the normalisation of a loader's batch.

    Args:
        images: (N, 3, S, S), normalised, in any float type on any device; or uint8.

    Returns:
        uint8 (N, S, S, 3).
    """
    import torch

    if images.dtype != torch.uint8:
        mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
        images = ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _draw_augmented(reader: ShardReader, path: Path, seed: int, image_size: int, backend: str) -> None:
    from .config import LoaderConfig
    from .loaders import open_loader
    from .plots import INK, MAIN, plot_grid

    count = min(_GRID // 2, len(reader))
    if not count:
        raise UsageError(f"split {reader.split!r} of {reader.dataset} is empty: there is nothing to draw")
    config = LoaderConfig(
        dataset=reader.dataset if reader.cache is None else reader.cache.url, split=reader.split, seed=seed,
        batch_size=count, image_size=image_size, num_workers=0, backend=backend,
    )  # fmt: skip
    with open_loader(config) as loader:
        records = [int(record) for record in loader.order(0)[:count]]
        images, labels = next(iter(loader))
        seen, labels_fed = to_images(images), [int(label) for label in labels]
    shown, captions, colours = [], [], []
    for record, fed, label in zip(records, seen, labels_fed, strict=True):
        name = reader.info.classes[label].name.split(",")[0] if label >= 0 else "no label"
        shown += [read_image(reader, record), fed]
        captions += [_caption(reader, record), f"fed as label {label}\n({name})"]
        colours += [INK, MAIN]
    what = "random crops and flips" if config.train else "the centre crop"
    title = (
        f"{reader.dataset.name}, {reader.split}: images, and what the network is fed at {image_size} pixels ({what})"
    )
    plot_grid(shown, captions, path, title=title, colours=colours, together=2)
