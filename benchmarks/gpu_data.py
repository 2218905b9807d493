"""The data sets of benchmarks/gpu.py: those of a kit, made longer; and tiny ones for a dry run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

REPEATED = ("small", "full")


def kit_data(kit: Path | None, copies: int) -> dict[str, Path]:
    """The packed data sets of a kit by name; those of full-size images with each image `copies` times."""
    if kit is None:
        return {}
    found = {name: kit / name for name in ("tiny", *REPEATED) if (kit / name / "dataset.json").exists()}
    return {name: repeat(path, copies) if name in REPEATED else path for name, path in found.items()}


def dry_data(folder: Path) -> dict[str, Path]:
    """Small data sets of drawn images: tiny of 64 pixels a side, small and full of several sizes."""
    from alexnet_fast import pack

    made = {}
    for name, sizes, count in (
        ("tiny", ((64, 64),), 24),
        ("small", ((250, 188), (188, 250)), 8),
        ("full", ((500, 375), (375, 500)), 8),
    ):
        target = made[name] = folder / name
        if not (target / "dataset.json").exists():
            images = folder / f"{name}-images"
            _draw(images / "train", sizes, count)
            _draw(images / "val", sizes, count // 4)
            pack(images, target, workers=0, overwrite=target.exists())
            shutil.rmtree(images)
    return made


def _draw(folder: Path, sizes: tuple[tuple[int, int], ...], count: int) -> None:
    """`count` images of each of four classes, whose colours and waves tell them apart."""
    import numpy as np
    from PIL import Image

    for label in range(4):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            random = np.random.default_rng([label, number, len(folder.name)])
            width, height = sizes[number % len(sizes)]
            y, x = np.mgrid[0:height, 0:width] / 20.0
            waves = np.sin(x * np.cos(label) + y * np.sin(label) + random.uniform(0, 6))
            colour = 128 + 70 * np.cos(label + np.array([0.0, 2.0, 4.0]))
            pixels = colour + 40 * waves[..., None] + random.normal(0, 6, (height, width, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(place / f"{number}.jpg", "JPEG", quality=90)


def repeat(dataset: Path, copies: int) -> Path:
    """The training split of `dataset` with every record `copies` times, beside it, made where it is not there."""
    from alexnet_fast.dataset import (
        DatasetInfo,
        ShardReader,
        ShardWriter,
        SplitInfo,
        read_dataset_info,
        shard_name,
        write_dataset_info,
    )

    target = dataset.with_name(f"{dataset.name}-x{copies}")
    if (target / "dataset.json").exists():
        return target
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    reader, shards = ShardReader(dataset, "train"), []
    for i in range(copies):
        with ShardWriter(aside, shard_name("train", i, copies)) as writer:
            for record in range(len(reader)):
                row = reader.index[record]
                writer.add(
                    bytes(reader.read(record)), label=int(row["label"]), width=int(row["width"]),
                    height=int(row["height"]), key=reader.key(record),
                )  # fmt: skip
            shards.append(writer.finish())
    split = SplitInfo(
        records=sum(shard.records for shard in shards), bytes=sum(shard.bytes for shard in shards), labelled=True,
        shards=tuple(shards),
    )  # fmt: skip
    classes = read_dataset_info(dataset).classes
    write_dataset_info(aside, DatasetInfo(classes=classes, splits={"train": split}, packing={"copies": copies}))
    reader.close()
    os.replace(aside, target)
    return target
