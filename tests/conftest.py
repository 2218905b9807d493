"""Fixtures that all tests share: learnable JPEG images of varied sizes, and packed data sets made of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.dataset import ClassInfo, DatasetInfo, ShardWriter, SplitInfo, shard_name, write_dataset_info

# Before torch is imported, here and in every process that a test starts. The networks of the tests are so small that a
# second thread costs more than it computes, and where tests run side by side the threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SIZES = ((64, 64), (120, 90), (90, 120), (200, 150), (333, 250), (75, 301))


def draw_image(label: int, number: int, size: tuple[int, int] | None = None, *, grey: bool = False) -> Image.Image:
    """An image whose class shows: hue and direction of its waves follow the label, the rest is random.

    `size` is (width, height); without it sizes vary with `number`.
    """
    random = np.random.default_rng([label, number])
    width, height = size or _SIZES[number % len(_SIZES)]
    y, x = np.mgrid[0:height, 0:width] / 40.0
    angle = label * 0.7
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 + label % 3) + random.uniform(0, 6))
    hue = np.array([np.cos(label), np.cos(label + 2.1), np.cos(label + 4.2)])
    pixels = 128 + 60 * hue + 50 * waves[..., None] + random.normal(0, 6, (height, width, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.convert("L") if grey else image


def encode(image: Image.Image, **options: object) -> bytes:
    """The image as a baseline JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def pack_images(
    dataset: Path, splits: dict[str, list[tuple[bytes, int, str]]], *, num_classes: int, shards: int = 2
) -> Path:
    """Write (jpeg, label, key) triples of each split as a packed data set, without the pack command."""
    dataset.mkdir(parents=True, exist_ok=True)
    infos = {}
    for split, samples in splits.items():
        cuts = np.linspace(0, len(samples), shards + 1).astype(int)
        written = []
        for i in range(shards):
            with ShardWriter(dataset, shard_name(split, i, shards)) as writer:
                for jpeg, label, key in samples[cuts[i] : cuts[i + 1]]:
                    with Image.open(io.BytesIO(jpeg)) as image:
                        width, height = image.size
                    writer.add(jpeg, label=label, width=width, height=height, key=key)
                written.append(writer.finish())
        infos[split] = SplitInfo(
            records=len(samples),
            bytes=sum(s.bytes for s in written),
            labelled=all(label >= 0 for _, label, _ in samples),
            shards=tuple(written),
        )
    classes = tuple(ClassInfo(index=i, wnid=f"n{i:08d}", name=f"class {i}") for i in range(num_classes))
    write_dataset_info(dataset, DatasetInfo(classes=classes, splits=infos, packing={"source": "tests", "seed": 0}))
    return dataset


def make_samples(
    split: str, count: int, num_classes: int, *, size: tuple[int, int] | None = None, labelled: bool = True
) -> list[tuple[bytes, int, str]]:
    """`count` images with labels going round the classes, one in eleven of them grey, in a fixed mixed order."""
    samples = []
    for i in range(count):
        label = i % num_classes
        jpeg = encode(draw_image(label, i + 1000 * len(split), size, grey=i % 11 == 7))
        samples.append((jpeg, label if labelled else -1, f"{split}/{label}/{i}.jpg"))
    return [samples[i] for i in np.random.default_rng(0).permutation(count)]


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of images of varied sizes: train 53, val 23 and an unlabelled test 9, in 4 classes."""
    splits = {
        "train": make_samples("train", 53, 4),
        "val": make_samples("val", 23, 4),
        "test": make_samples("test", 9, 4, labelled=False),
    }
    return pack_images(tmp_path_factory.mktemp("packed"), splits, num_classes=4)


@pytest.fixture(scope="session")
def packed_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same counts, every image 64 x 64, as Tiny ImageNet's are."""
    splits = {
        "train": make_samples("train", 53, 4, size=(64, 64)),
        "val": make_samples("val", 23, 4, size=(64, 64)),
        "test": make_samples("test", 9, 4, size=(64, 64), labelled=False),
    }
    return pack_images(tmp_path_factory.mktemp("packed-small"), splits, num_classes=4)


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """``make_images(folder, classes=3, per_class=4)`` writes the tree FOLDER/CLASS/*.JPEG and returns FOLDER."""

    def make(folder: Path, *, classes: int = 3, per_class: int = 4, size: tuple[int, int] | None = None) -> Path:
        for label in range(classes):
            place = folder / f"n{label:08d}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                (place / f"n{label:08d}_{i}.JPEG").write_bytes(encode(draw_image(label, i, size)))
        return folder

    return make
