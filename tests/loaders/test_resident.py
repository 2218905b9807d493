"""The resident backend: its pixels against torchvision's, and what it refuses."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import draw_image, encode, pack_images
from PIL import Image
from torchvision.transforms.v2 import functional

from alexnet_fast import DamagedDataError, Loader, LoaderConfig, ShardReader, UsageError, open_loader
from alexnet_fast.errors import WorkerError
from alexnet_fast.images import IMAGENET_STD, eval_resize, native, sample_crops, sample_flips
from alexnet_fast.loaders import choose_backend, resident
from alexnet_fast.loaders.resident import ResidentLoader


def decoded(reader: ShardReader, record: int) -> torch.Tensor:
    pixels = np.array(Image.open(io.BytesIO(reader.read(record))).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def open_resident(resize: str, dataset: Path, split: str, batch_size: int, size: int, dtype: str = "uint8") -> Loader:
    """On the CPU as it resizes there ('images'), or as it does on a GPU ('matrices')."""
    config = LoaderConfig(
        dataset=dataset, split=split, backend="resident", batch_size=batch_size, image_size=size, dtype=dtype,
        device="cpu",
    )  # fmt: skip
    return open_loader(config) if resize == "images" else ResidentLoader(config, ShardReader(dataset, split))


@pytest.mark.parametrize("resize", ["matrices", "images"])
@pytest.mark.parametrize("size", [24, 64, 80])
def test_training_pixels_are_torchvisions(packed_small: Path, size: int, resize: str) -> None:
    reader = ShardReader(packed_small, "train")
    with open_resident(resize, packed_small, "train", 53, size) as loader:
        order = loader.order(0)
        images = next(iter(loader)).images
    boxes = sample_crops(0, 0, order, np.full(53, 64), np.full(53, 64))
    flips = sample_flips(0, 0, order)
    for image, record, (top, left, height, width), flip in zip(images, order, boxes.tolist(), flips, strict=True):
        want = functional.resized_crop(
            decoded(reader, int(record)), top, left, height, width, [size, size], antialias=True
        )
        want = want.flip(2) if flip else want
        difference = (image.int() - want.int()).abs()
        if resize == "images" and native.compiled_code() is None:
            assert difference.max() == 0
        # Two roundings in an integer resize, of rows first or columns first, and one in the matrix products.
        assert difference.max() <= 2 and difference.float().mean() < 0.3


@pytest.mark.parametrize("resize", ["matrices", "images"])
@pytest.mark.parametrize("size", [32, 64])
def test_evaluation_pixels_are_torchvisions(packed_small: Path, size: int, resize: str) -> None:
    reader = ShardReader(packed_small, "val")
    with open_resident(resize, packed_small, "val", 23, size) as loader:
        images = next(iter(loader)).images
    for record, image in enumerate(images):
        resized = functional.resize(decoded(reader, record), [eval_resize(size)], antialias=True)
        difference = (image.int() - functional.center_crop(resized, [size, size]).int()).abs()
        assert difference.max() <= 2 and difference.float().mean() < 0.3


def test_both_ways_to_resize_normalise_and_mirror_alike(packed_small: Path) -> None:
    batches = {}
    for resize in ("matrices", "images"):
        with open_resident(resize, packed_small, "train", 16, 48, "float32") as loader:
            batches[resize] = list(loader)
    for one, other in zip(batches["matrices"], batches["images"], strict=True):
        assert torch.equal(one.labels, other.labels)
        assert one.images.is_contiguous(memory_format=torch.channels_last)
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        # Two grey levels, in units of the smallest deviation.
        assert (one.images - other.images).abs().max() <= 2.01 / 255 / min(IMAGENET_STD)


def test_options_of_another_device_are_refused(packed_small: Path) -> None:
    with pytest.raises(UsageError, match="no option 'resize'"):
        open_loader(LoaderConfig(dataset=packed_small, backend="resident", options={"resize": "matrices"}))
    config = LoaderConfig(dataset=packed_small, backend="resident", device="cpu", options={"workers": "thread"})
    with pytest.raises(UsageError, match="no option 'workers'"):  # on a GPU there are none
        ResidentLoader(config, ShardReader(packed_small, "train"))


def test_images_of_several_sizes_are_refused(packed: Path) -> None:
    with pytest.raises(UsageError, match="one size"):
        open_loader(LoaderConfig(dataset=packed, backend="resident", device="cpu"))


def test_too_little_memory_is_refused_with_the_figures(packed_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_memory", lambda device: 1 << 20)
    with pytest.raises(
        UsageError, match=r"needs 0\.00 GiB for 53 images and may take 50% of the 0\.00 GiB free on cpu"
    ):
        open_loader(LoaderConfig(dataset=packed_small, backend="resident", device="cpu"))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    samples = [(encode(draw_image(i, i, (64, 64))), i, f"{i}.jpg") for i in range(4)]
    jpeg = samples[2][0]
    samples[2] = (jpeg[: len(jpeg) * 2 // 3], 2, "broken.jpg")
    dataset = pack_images(tmp_path / "data", {"train": samples}, num_classes=4, shards=1)
    config = LoaderConfig(dataset=dataset, backend="resident", device="cpu", batch_size=2, image_size=64)
    with open_loader(config) as loader, pytest.raises(DamagedDataError, match=r"record 2 of train-.*'broken\.jpg'"):
        list(loader)


def test_a_killed_worker_is_an_error_and_the_next_pass_begins_anew(packed_small: Path) -> None:
    config = LoaderConfig(
        dataset=packed_small, backend="resident", device="cpu", batch_size=4, image_size=32, num_workers=2,
        options={"workers": "process"},
    )  # fmt: skip
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with open_loader(config) as loader:
        want = [batch.images.clone() for batch in loader]
        worker = next(child for child in psutil.Process().children(recursive=True) if child.pid not in before)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL"):
            for _ in range(100):
                list(loader)
        loader.load_state({"epoch": 0, "step": 0})
        assert all(torch.equal(batch.images, images) for batch, images in zip(loader, want, strict=True))
    left = {c.pid for c in psutil.Process().children(recursive=True) if "multiprocessing" not in " ".join(c.cmdline())}
    assert left <= before


def test_auto_chooses_by_data_set_and_says_so(
    packed: Path, packed_small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = LoaderConfig(dataset=packed_small, image_size=64, device="cpu")
    assert choose_backend(small)[0] == "resident"
    assert choose_backend(LoaderConfig(dataset=packed_small, image_size=224, device="cpu"))[0] == "resident"
    mixed: dict[str, Any] = {"dataset": packed, "image_size": 64, "device": "cpu"}
    assert choose_backend(LoaderConfig(**mixed))[0] == "torchvision"
    with open_loader(LoaderConfig(**mixed)) as loader:
        assert type(loader).__name__ == "TorchvisionLoader"
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["train: backend torchvision, because it is the fastest on cpu"]
