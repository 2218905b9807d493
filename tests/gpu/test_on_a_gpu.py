"""What only a CUDA GPU can show: backends beside each other, no waiting for the device, resuming, damage, one rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw_image, encode, make_samples, pack_images

from alexnet_fast import DamagedDataError, Loader, LoaderConfig, open_loader
from alexnet_fast.config import Augmentation
from alexnet_fast.dataset import ShardWriter, read_dataset_info, shard_name, write_dataset_info
from alexnet_fast.loaders.dali import loader as dali
from alexnet_fast.loaders.dali.trial import region_decoding_fails
from alexnet_fast.system import memory_format

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here"),
]
needs_dali = pytest.mark.skipif(dali.why_not() is not None, reason="DALI cannot run here")
BIG = [(500, 375), (375, 500), (640, 480), (400, 300), (300, 451), (256, 256)]


@pytest.fixture(scope="module")
def packed_big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images of ImageNet's sizes, one in eleven grey, as train and as val, in four classes."""
    samples = [
        (encode(draw_image(i % 4, i, BIG[i % len(BIG)], grey=i % 11 == 7)), i % 4, f"{i}.jpg") for i in range(96)
    ]
    return pack_images(tmp_path_factory.mktemp("big"), {"train": samples, "val": samples}, num_classes=4)


@pytest.fixture
def open_on() -> Iterator[Callable[..., Loader]]:
    """``open_on(dataset, backend, ...)`` opens a loader on the GPU, uint8, batch size 16; closed at the end."""
    opened = []

    def open_(dataset: Path, backend: str, **settings: Any) -> Loader:
        defaults: dict[str, Any] = {"batch_size": 16, "image_size": 64, "dtype": "uint8", "device": "cuda"}
        loader = open_loader(LoaderConfig(dataset=dataset, backend=backend, **{**defaults, **settings}))
        opened.append(loader)
        return loader

    yield open_
    for loader in opened:
        loader.close()


def images_of(loader: Loader) -> torch.Tensor:
    return torch.cat([batch.images.cpu() for batch in loader])


# ---------------------------------------------------------------------------------------------------------------------
# Backends beside each other


@pytest.mark.parametrize("split", ["train", "val"])
def test_host_workers_fill_the_gpu_with_the_pixels_of_the_cpu(
    packed_big: Path, open_on: Callable[..., Loader], split: str
) -> None:
    for pin_memory in (True, False):
        ours = open_on(packed_big, "torchvision", split=split, pin_memory=pin_memory, dtype="float32")
        theirs = open_on(packed_big, "torchvision", split=split, device="cpu", dtype="float32")
        for a, b in zip(ours, theirs, strict=True):
            assert a.images.device.type == "cuda"
            assert a.images.is_contiguous(memory_format=memory_format(a.images.device))
            assert torch.equal(a.labels.cpu(), b.labels)
            assert (a.images.cpu() - b.images).abs().max() < 0.02


def test_batches_are_right_while_the_gpu_is_busy(packed_big: Path, open_on: Callable[..., Loader]) -> None:
    """Buffers are filled again while copies are under way, and copies go beside other work."""
    expected = images_of(open_on(packed_big, "torchvision", device="cpu"))
    a = torch.randn(4096, 4096, device="cuda")
    loader = open_on(packed_big, "torchvision", prefetch=1)
    found = []
    for batch in loader:
        for _ in range(20):
            a = (a @ a).clamp(-1, 1)
        found.append(batch.images.clone())
    assert torch.equal(torch.cat([images.cpu() for images in found]), expected)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(crop="shorter-side", flip="alternate")])
def test_resident_images_are_those_of_the_host(
    packed_small: Path, open_on: Callable[..., Loader], augmentation: Augmentation
) -> None:
    for split in ("train", "val"):
        settings = {"split": split, "image_size": 48, "augmentation": augmentation, "batch_size": 16}
        ours = open_on(packed_small, "resident", **settings)
        theirs = open_on(packed_small, "torchvision", device="cpu", **settings)
        for _ in range(2):
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a.labels.cpu(), b.labels)
                difference = (a.images.cpu().int() - b.images.int()).abs().float()
                assert difference.max() <= 3 and difference.mean() < 0.4  # weights in half precision


@needs_dali
@pytest.mark.parametrize("region", [True, False])
def test_dali_cuts_and_mirrors_as_the_host_does(packed_big: Path, open_on: Callable[..., Loader], region: bool) -> None:
    if region and (reason := region_decoding_fails(torch.device("cuda", 0))) is not None:
        pytest.skip(reason)
    for split in ("train", "val"):
        ours = open_on(packed_big, "dali", split=split, options={"region": region})
        theirs = open_on(packed_big, "torchvision", split=split, device="cpu")
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.labels.cpu(), b.labels)
            difference = (a.images.cpu().int() - b.images.int()).abs().float()
            # nvJPEG repeats halved chroma where libjpeg-turbo interpolates it; another image differs by tens.
            assert difference.mean() < 4 and difference.mean(dim=(1, 2, 3)).max() < 12


@needs_dali
def test_backends_agree_in_distribution(packed_big: Path, open_on: Callable[..., Loader]) -> None:
    """Mean and spread of each channel over eight epochs of crops."""
    found = {}
    for backend in ("dali", "torchvision"):
        loader = open_on(packed_big, backend, dtype="float32", image_size=32)
        pixels = torch.cat([images_of(loader) for _ in range(8)])
        found[backend] = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    for ours, theirs in zip(*found.values(), strict=True):
        assert (ours - theirs).abs().max() < 0.03


# ---------------------------------------------------------------------------------------------------------------------
# Nothing waits for the device


BACKENDS = ("torchvision", "resident", pytest.param("dali", marks=needs_dali))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_does_not_wait_for_the_gpu(packed_small: Path, open_on: Callable[..., Loader], backend: str) -> None:
    from alexnet_fast.training.step import Step

    device = torch.device("cuda", torch.cuda.current_device())
    step = Step.alone(
        "alexnet-bn", num_classes=4, image_size=64, batch_size=8, device=device, overrides={"color_noise": 0.1}
    )
    loader = open_on(packed_small, backend, batch_size=8, dtype=step.precision.dtype)
    for images, labels in loader:  # an epoch of warm-up
        step(images, labels)
    batches = iter(loader)
    step(*next(batches))  # what an epoch prepares at its beginning may wait, once
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for images, labels in batches:
                step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno} {w.message}" for w in caught if "synchroniz" in str(w.message)]
    assert waits == []


def test_memory_that_cannot_be_page_locked_harms_nothing(packed_small: Path) -> None:
    from alexnet_fast.loaders.batch_buffers import BatchBuffers, Layout

    device = torch.device("cuda", torch.cuda.current_device())
    buffers = BatchBuffers(Layout(2, 16, 64, "uint8"), shared=False)
    assert buffers.page_lock(device)
    assert not buffers.page_lock(device)  # it is already
    assert float(torch.ones(3, device=device).sum()) == 3  # and no error comes up afterwards


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    program = "from alexnet_fast.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip


def train(dataset: Path, folder: Path, *more: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(
        "train", dataset, "--run-dir", folder, "--epochs", 3, "--batch-size", 16, "--image-size", 64, "--model",
        "alexnet-bn", "--set", "width=0.1", "--device", "cuda", "--num-workers", 2, *more, **variables,
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resumed_run_is_the_run_bit_for_bit(packed_small: Path, tmp_path: Path, backend: str) -> None:
    # cuBLAS and cuDNN add up in a fixed order only where they are told to.
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    (tmp_path / "sitecustomize.py").write_text(
        "import torch\ntorch.use_deterministic_algorithms(True, warn_only=True)\n"
        "torch.backends.cudnn.deterministic = True\n"
    )
    whole = train(packed_small, tmp_path / "whole", "--backend", backend, **fixed)
    assert whole.returncode == 0, whole.stderr
    assert train(packed_small, tmp_path / "cut", "--backend", backend, "--max-steps", 5, **fixed).returncode == 0
    resumed = train(packed_small, tmp_path / "cut", "--backend", backend, "--resume", **fixed)
    assert resumed.returncode == 0, resumed.stderr
    states = [torch.load(tmp_path / name / "last.pt", weights_only=False)["model"] for name in ("whole", "cut")]
    for name, values in states[0].items():
        assert torch.equal(values, states[1][name]), name


@pytest.mark.parametrize("backend", ["torchvision", pytest.param("dali", marks=needs_dali)])
def test_one_bad_record_is_named(tmp_path: Path, open_on: Callable[..., Loader], backend: str) -> None:
    samples = make_samples("train", 24, 4, size=(96, 80))
    dataset = pack_images(tmp_path / "data", {"train": samples}, num_classes=4, shards=1)
    info = read_dataset_info(dataset)
    with ShardWriter(dataset, shard_name("other", 0, 1)) as writer:
        for i, (data, label, key) in enumerate(samples):
            writer.add(b"no image" * 9 if i == 17 else data, label=label, width=96, height=80, key=key)
        written = writer.finish()
    split = replace(info.splits["train"], bytes=written.bytes, shards=(written,))
    write_dataset_info(dataset, replace(info, splits={"train": split}))
    loader = open_on(dataset, backend, batch_size=8, options={"region": False} if backend == "dali" else {})
    for _ in range(2):  # and again: the loader is fit for another pass, and the GPU for other work
        with pytest.raises(DamagedDataError, match=r"record 17 of other-00000-of-00001.lmdb"):
            list(loader)
        assert float(torch.ones(3, device="cuda").sum()) == 3


def test_one_rank_under_torchrun_trains_as_a_process_alone(packed_small: Path, tmp_path: Path) -> None:
    """One GPU takes the way of many: NCCL, DistributedDataParallel, and the sums over all ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--no-python", sys.executable]
    program = ["-c", "from alexnet_fast.cli import main; main()"]
    losses = []
    for name, words in (("alone", program), ("joined", launcher + program)):
        arguments = [
            "train", packed_small, "--run-dir", tmp_path / name, "--epochs", "1", "--batch-size", "16", "--image-size",
            "64", "--set", "width=0.1", "--set", "dropout=0", "--precision", "fp32", "--device", "cuda", "--backend",
            "resident",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *words, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["totals"]["steps"] == 3 and "gpu" in summary["hardware"]
        losses.append(summary["last"]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_gpu_alone_is_used_where_it_is_asked_for(packed_small: Path) -> None:
    code = """
import sys, torch
from alexnet_fast import TrainConfig, train
train(TrainConfig(dataset=sys.argv[1], run_dir=sys.argv[2], epochs=1, batch_size=16, image_size=64, device="cuda:1",
                  overrides={"width": 0.1}, backend="torchvision"))
print(torch.cuda.max_memory_allocated(0), torch.cuda.current_device())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(packed_small), str(packed_small.parent / "second-gpu")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["0", "1"]
