"""The torchvision backend: pixels against torchvision, worker processes that die, damaged records, bounded memory."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import draw_image, encode, make_samples, pack_images
from PIL import Image
from torchvision.transforms.v2 import functional

from alexnet_fast import DamagedDataError, LoaderConfig, ShardReader, UsageError, open_loader
from alexnet_fast.errors import WorkerError
from alexnet_fast.images import native, sample_crops, sample_flips

WAYS = [
    "plain",
    pytest.param("compiled", marks=pytest.mark.skipif(native.compiled_code() is None, reason="not compiled")),
]


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(native, "compiled_code", lambda: None)
    return str(request.param)


def config(dataset: Path, options: dict[str, Any] | None = None, **settings: Any) -> LoaderConfig:
    defaults: dict[str, Any] = {
        "backend": "torchvision", "device": "cpu", "num_workers": 2, "batch_size": 8, "image_size": 32, "dtype": "uint8"
    }  # fmt: skip
    return LoaderConfig(dataset=dataset, options=options or {}, **{**defaults, **settings})


def decoded(reader: ShardReader, record: int) -> torch.Tensor:
    pixels = np.array(Image.open(io.BytesIO(reader.read(record))).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("size", [32, 224])
def test_training_pixels_are_torchvisions(packed: Path, way: str, size: int) -> None:
    reader = ShardReader(packed, "train")
    with open_loader(config(packed, image_size=size, batch_size=53)) as loader:
        order = loader.order(0)
        images = next(iter(loader)).images
    rows = reader.index[order]
    boxes, flips = sample_crops(0, 0, order, rows["height"], rows["width"]), sample_flips(0, 0, order)
    for image, record, box, flip in zip(images, order, boxes.tolist(), flips, strict=True):
        want = functional.resized_crop(decoded(reader, int(record)), *box, [size, size], antialias=True)
        difference = (image.int() - (want.flip(2) if flip else want).int()).abs()
        # Compiled code mixes rows before columns, torch after, and both round to whole levels in between.
        assert difference.max() <= (2 if way == "compiled" else 0)
        assert difference.float().mean() < 0.25


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("size", [32, 112])
def test_evaluation_pixels_are_torchvisions(packed: Path, way: str, size: int) -> None:
    reader = ShardReader(packed, "val")
    with open_loader(config(packed, split="val", image_size=size, batch_size=23)) as loader:
        images = next(iter(loader)).images
    for record, image in enumerate(images):
        resized = functional.resize(decoded(reader, record), [round(size * 256 / 224)], antialias=True)
        want = functional.center_crop(resized, [size, size])
        difference = (image.int() - want.int()).abs().float()
        # Some boxes end a small part of a source pixel beside torchvision's; the images carry noise of 6 levels.
        assert difference.mean() < 1.0 and difference.max() <= 16


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_a_damaged_record_is_named(tmp_path: Path, workers: str) -> None:
    samples = [(encode(draw_image(i, i, (90, 70))), i, f"{i}.jpg") for i in range(8)]
    samples[5] = (samples[5][0], 5, "broken.jpg")
    dataset = pack_images(tmp_path / "data", {"val": samples}, num_classes=8, shards=1)
    data = dataset / "val-00000-of-00001.lmdb" / "data.mdb"
    content = bytearray(data.read_bytes())
    at = content.index(samples[5][0])
    content[at : at + 200] = bytes(200)
    data.write_bytes(content)
    with open_loader(config(dataset, {"workers": workers}, split="val", batch_size=4)) as loader:
        steps = iter(loader)
        assert next(steps).labels.tolist() == [0, 1, 2, 3]
        with pytest.raises(DamagedDataError, match=r"record 5 of val-00000-of-00001\.lmdb \(key 'broken\.jpg'\)"):
            next(steps)


@pytest.mark.parametrize("context", ["fork"])
def test_a_killed_worker_is_an_error_and_no_hang(packed: Path, context: str) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with open_loader(config(packed, {"workers": "process", "context": context}, batch_size=4)) as loader:
        steps = iter(loader)
        next(steps)
        workers = loader._workers._workers  # type: ignore[attr-defined]
        os.kill(workers[0][0].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL"):
            for _ in range(100):
                list(steps)
                steps = iter(loader)
        assert len(list(loader)) == 13  # a new pass starts new workers
    left = {c.pid for c in psutil.Process().children(recursive=True) if "multiprocessing" not in " ".join(c.cmdline())}
    assert left <= before


def test_spawned_workers_without_a_main_guard_name_it(tmp_path: Path) -> None:
    # More records than a pipe takes of, 28 bytes each.
    samples = make_samples("train", 3000, 2, size=(8, 8))
    dataset = pack_images(tmp_path / "many", {"train": samples}, num_classes=2)
    script = tmp_path / "script.py"
    script.write_text(
        "import alexnet_fast as af\n"
        f"loader = af.open_loader({str(dataset)!r}, batch_size=8, image_size=8, num_workers=2,\n"
        "    backend='torchvision', device='cpu', options={'workers': 'process', 'context': 'spawn'})\n"
        "next(iter(loader))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith('must stand behind `if __name__ == "__main__":`')
    assert done.stderr.count("Traceback") == 1  # the script's own


def test_spawned_workers_from_a_plain_script(packed_small: Path, tmp_path: Path) -> None:
    """Records go to them as a path, decoded images and batches as descriptors of shared memory."""
    script = tmp_path / "script.py"
    script.write_text(
        "from alexnet_fast import LoaderConfig, open_loader\n"
        "if __name__ == '__main__':\n"
        "    options = {'workers': 'process', 'context': 'spawn'}\n"
        "    sums = []\n"
        "    for backend in ('torchvision', 'resident'):\n"
        f"        config = LoaderConfig(dataset={str(packed_small)!r}, backend=backend, device='cpu', num_workers=1,\n"
        "                              batch_size=8, image_size=32, dtype='uint8', options=options)\n"
        "        with open_loader(config) as loader:\n"
        "            sums.append([(len(batch.labels), int(batch.images.sum())) for batch in loader])\n"
        "    print(sum(images for images, _ in sums[0]), sums[0] == sums[1])\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert (done.stdout, done.stderr) == ("48 True\n", "")


def test_workers_end_with_a_killed_parent(packed: Path) -> None:
    code = (
        "import os, signal\n"
        "from alexnet_fast import LoaderConfig, open_loader\n"
        f"loader = open_loader(LoaderConfig(dataset={str(packed)!r}, backend='torchvision', device='cpu',\n"
        "    batch_size=8, num_workers=2, image_size=32, options={'workers': 'process', 'context': 'fork'}))\n"
        "next(iter(loader))\n"
        "print(*(process.pid for process, _ in loader._workers._workers), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == -signal.SIGKILL
    for pid in map(int, done.stdout.split()):
        try:
            psutil.Process(pid).wait(10)
        except psutil.NoSuchProcess:
            continue


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_memory_does_not_grow_over_epochs(packed: Path, workers: str) -> None:
    def used() -> int:
        me = psutil.Process()
        return sum(p.memory_info().rss for p in [me, *me.children(recursive=True)])

    with open_loader(config(packed, {"workers": workers}, dtype="float32")) as loader:
        for _ in range(10):
            list(loader)
        before = used()
        for _ in range(60):
            assert len(list(loader)) == 6
        assert used() - before < 12 << 20


def test_batches_that_do_not_fit_are_refused(packed: Path) -> None:
    with pytest.raises(UsageError, match=r"batches of 10000000 images need .* GiB of memory"):
        open_loader(config(packed, batch_size=10_000_000))


@pytest.mark.parametrize(("option", "value"), [("workers", "fibre"), ("context", "x"), ("chunk", 0)])
def test_wrong_option_values_are_refused(packed: Path, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        open_loader(config(packed, {option: value}))
