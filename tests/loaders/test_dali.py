"""The DALI backend beyond the contract: its pixels and crops beside torchvision's, damage, memory, and the trial."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import draw_image, encode, make_samples, pack_images
from PIL import Image
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from alexnet_fast import DamagedDataError, Loader, LoaderConfig, ShardReader, UsageError, open_loader
from alexnet_fast.config import Augmentation
from alexnet_fast.errors import MissingDependencyError, WorkerError
from alexnet_fast.loaders.dali import loader as dali
from alexnet_fast.loaders.dali import trial as dali_probe
from alexnet_fast.loaders.dali.pipeline import Decoding, build_pipeline

pytestmark = pytest.mark.skipif(dali.why_not("cpu") is not None, reason="DALI cannot run here")

BIG = [(500, 375), (375, 500), (640, 480), (400, 300), (300, 451), (256, 256)]


@pytest.fixture
def open_dali() -> Iterator[Callable[..., Loader]]:
    """``open_dali(dataset, ...)`` opens the backend on the CPU, uint8, batch size 8; closed at the end."""
    opened = []

    def open_(dataset: Path, **settings: Any) -> Loader:
        defaults: dict[str, Any] = {"batch_size": 8, "image_size": 64, "dtype": "uint8", "num_workers": 2}
        loader = open_loader(LoaderConfig(dataset=dataset, backend="dali", device="cpu", **{**defaults, **settings}))
        opened.append(loader)
        return loader

    yield open_
    for loader in opened:
        loader.close()


@pytest.fixture(scope="module")
def packed_big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of ImageNet's sizes, one in eleven grey, as train and as val."""
    samples = [
        (encode(draw_image(i % 4, i, BIG[i % len(BIG)], grey=i % 11 == 7)), i % 4, f"{i}.jpg") for i in range(48)
    ]
    return pack_images(tmp_path_factory.mktemp("big"), {"train": samples, "val": samples}, num_classes=4)


def images(dataset: Path, split: str) -> list[torch.Tensor]:
    """Every image of a split, uint8 (3, H, W), in record order, decoded by Pillow."""
    reader = ShardReader(dataset, split)
    return [
        torch.from_numpy(np.array(Image.open(_file(reader.read(i))).convert("RGB"))).permute(2, 0, 1)
        for i in range(len(reader))
    ]


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_evaluated_pixels_are_torchvisions(packed_big: Path, open_dali: Callable[..., Loader]) -> None:
    for size in (64, 224):
        loader = open_dali(packed_big, split="val", image_size=size)
        ours = torch.cat([batch.images for batch in loader])
        show = v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)])
        theirs = torch.stack([show(image) for image in images(packed_big, "val")])
        difference = (ours.int() - theirs.int()).abs()
        # Only rounding differs: torchvision rounds to uint8 between its two passes, DALI does not.
        assert difference.max() <= 2
        assert difference.float().mean() < 0.3


def test_training_pixels_are_those_of_the_same_crop_in_torchvision(
    packed_big: Path, open_dali: Callable[..., Loader]
) -> None:
    loader = open_dali(packed_big, image_size=96)
    source = images(packed_big, "train")
    order = loader.order(0)
    ours = torch.cat([batch.images for batch in loader])
    cuts = loader.cuts(0, order)  # type: ignore[attr-defined]
    mirrored = cuts.starts[:, 1] > cuts.ends[:, 1]
    assert 10 < mirrored.sum() < 38
    for i, record in enumerate(order):
        (top, left), (height, width) = cuts.anchors[i].tolist(), cuts.shapes[i].tolist()
        theirs = F.resized_crop(source[record], top, left, height, width, [96, 96], antialias=True)
        theirs = theirs.flip(2) if mirrored[i] else theirs
        difference = (ours[i].int() - theirs.int()).abs().float()
        # A region's outermost columns are upsampled in chroma without their neighbours.
        assert difference.mean() < 0.6, (i, difference.mean())
        assert difference[:, 2:-2, 2:-2].max() <= 4


def test_both_backends_cut_and_mirror_alike(packed_big: Path, open_dali: Callable[..., Loader]) -> None:
    for augmentation in (Augmentation(), Augmentation(crop="shorter-side", flip="alternate")):
        settings: dict[str, Any] = {"image_size": 64, "augmentation": augmentation, "seed": 3}
        ours = open_dali(packed_big, **settings)
        theirs = open_loader(
            LoaderConfig(
                dataset=packed_big, backend="torchvision", device="cpu", batch_size=8, dtype="uint8", **settings
            )
        )
        with theirs:
            for _ in range(2):
                for a, b in zip(ours, theirs, strict=True):
                    assert torch.equal(a.labels, b.labels)
                    difference = (a.images.int() - b.images.int()).abs().float()
                    assert difference.mean() < 0.6
                    assert difference.amax(dim=(1, 2, 3)).max() < 40


def test_crops_and_flips_are_distributed_as_torchvisions(packed_big: Path, open_dali: Callable[..., Loader]) -> None:
    loader = open_dali(packed_big)
    index = ShardReader(packed_big, "train").index
    records = np.arange(len(index))
    ours, flips = [], []
    for epoch in range(100):
        cuts = loader.cuts(epoch, records)  # type: ignore[attr-defined]
        area = cuts.shapes.prod(axis=1) / (index["height"].astype(float) * index["width"])
        ours.append(np.stack([area, np.log(cuts.shapes[:, 1] / cuts.shapes[:, 0])], axis=1))
        flips.append(cuts.starts[:, 1] > cuts.ends[:, 1])
    torch.manual_seed(0)
    theirs = []
    for _ in range(100):
        for height, width in zip(index["height"].tolist(), index["width"].tolist(), strict=True):
            image = torch.empty(1, height, width)
            _, _, h, w = v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(64), [image]).values()
            theirs.append((h * w / (height * width), np.log(w / h)))
    drawn, expected = np.concatenate(ours), np.array(theirs)
    for column in range(2):
        # 4,800 draws each: a shift of 0.04 in either distribution function would be found.
        assert stats.ks_2samp(drawn[:, column], expected[:, column]).pvalue > 1e-3
    share = np.concatenate(flips).mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(4800)


def test_pixel_statistics_match_torchvisions(packed_big: Path, open_dali: Callable[..., Loader]) -> None:
    loader = open_dali(packed_big, dtype="float32", image_size=32)
    ours = torch.cat([batch.images for _ in range(8) for batch in loader])
    cut = v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip()])
    torch.manual_seed(0)
    source = images(packed_big, "train")
    theirs = torch.stack([cut(image) for _ in range(8) for image in source]).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = (theirs - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    # 384 crops each; 8 repetitions of torchvision's own pipeline differ in mean by 0.02 and in std by 0.01.
    assert (ours.mean(dim=(0, 2, 3)) - theirs.mean(dim=(0, 2, 3))).abs().max() < 0.08
    assert (ours.std(dim=(0, 2, 3)) - theirs.std(dim=(0, 2, 3))).abs().max() < 0.05


def test_whole_decoding_gives_the_pixels_of_region_decoding(packed_big: Path, open_dali: Callable[..., Loader]) -> None:
    for split in ("train", "val"):
        regions = torch.cat([b.images for b in open_dali(packed_big, split=split, options={"region": True})])
        whole = torch.cat([b.images for b in open_dali(packed_big, split=split, options={"region": False})])
        assert torch.equal(regions, whole)


def test_batches_outlive_the_next_ones_and_the_loader(packed_big: Path, open_dali: Callable[..., Loader]) -> None:
    loader = open_dali(packed_big)
    held, copies = [], []
    for _ in range(3):
        for batch in loader:
            held.append(batch.images)
            copies.append(batch.images.clone())
    loader.close()
    del loader, batch
    gc.collect()
    for images, copy in zip(held, copies, strict=True):
        assert torch.equal(images, copy)


def _with_damage(folder: Path, place: int, jpeg: bytes, size: tuple[int, int] | None = None) -> Path:
    """24 sound images of one size and, at `place`, `jpeg` in the guise of one of them."""
    samples = make_samples("train", 24, 4, size=(96, 80))
    damaged = [(encode(draw_image(0, 0, (96, 80))) if i == place else s[0], *s[1:]) for i, s in enumerate(samples)]
    dataset = pack_images(folder, {"train": damaged}, num_classes=4, shards=1)
    from alexnet_fast.dataset import ShardWriter, read_dataset_info, shard_name, write_dataset_info

    info = read_dataset_info(dataset)
    with ShardWriter(dataset, shard_name("other", 0, 1)) as writer:
        for i, (data, label, key) in enumerate(samples):
            writer.add(jpeg if i == place else data, label=label, width=96, height=80, key=key)
        written = writer.finish()
    from dataclasses import replace

    split = replace(info.splits["train"], bytes=written.bytes, shards=(written,))
    write_dataset_info(dataset, replace(info, splits={"train": split}))
    return dataset


@pytest.mark.parametrize(
    "jpeg",
    [b"not an image at all" * 9, encode(draw_image(0, 0))[:100], encode(draw_image(0, 0, (60, 50)))],
    ids=["garbage", "cut short", "another size"],
)
def test_a_broken_record_is_named(tmp_path: Path, open_dali: Callable[..., Loader], jpeg: bytes) -> None:
    dataset = _with_damage(tmp_path / "data", 17, jpeg)
    loader = open_dali(dataset)
    key = ShardReader(dataset, "train").key(17)
    for _ in range(2):  # and again: the loader is fit for another pass
        with pytest.raises(DamagedDataError) as caught:
            list(loader)
        assert "record 17 of other-00000-of-00001.lmdb" in str(caught.value)
        assert key in str(caught.value)
        assert "pack the data set again" in str(caught.value)


def test_a_failure_without_a_broken_record_says_so(packed: Path, open_dali: Callable[..., Loader]) -> None:
    loader = open_dali(packed)
    loader.cuts = lambda epoch, records: dali.cut_train(  # type: ignore[attr-defined]
        np.full((len(records), 4), 10_000, np.int32), np.zeros(len(records), np.bool_)
    )
    with pytest.raises(WorkerError, match=r"DALI failed.*cropping window.*try backend torchvision"):
        list(loader)


def test_an_abandoned_pass_leaves_nothing_behind(packed: Path, open_dali: Callable[..., Loader]) -> None:
    loader, fresh = open_dali(packed, start_epoch=1), open_dali(packed)
    expected = [batch.images for batch in loader]
    for taken in range(4):
        passing = iter(fresh)
        for _ in range(taken):
            next(passing)
        del passing
        fresh.load_state({"epoch": 1, "step": 0})
        for ours, theirs in zip(fresh, expected, strict=True):
            assert torch.equal(ours.images, theirs)


def test_two_loaders_of_one_split_at_once(packed: Path, open_dali: Callable[..., Loader]) -> None:
    first, second = open_dali(packed), open_dali(packed)
    alone = [batch.images for batch in open_dali(packed)]
    passing = iter(second)
    for expected, batch in zip(alone, first, strict=True):
        assert torch.equal(batch.images, expected)
        assert torch.equal(next(passing).images, expected)
    first.close()  # the shards stay mapped for the second
    assert sum(len(batch.labels) for batch in second) == 48


def test_memory_does_not_grow_over_epochs(packed: Path, open_dali: Callable[..., Loader]) -> None:
    loader = open_dali(packed, image_size=96)
    process = psutil.Process()

    def after(epochs: int) -> int:
        for _ in range(epochs):
            for _batch in loader:
                pass
        gc.collect()
        return int(process.memory_info().rss)

    after(10)
    begin = after(10)
    assert after(40) - begin < 8 << 20  # 240 batches of 216 KiB: 51 MiB if each were kept


def test_unknown_and_ill_options_are_refused(packed: Path, open_dali: Callable[..., Loader]) -> None:
    for options, text in (
        ({"hw_load": 0.5}, "has no option 'hw_load'"),
        ({"region": "sometimes"}, "region must be"),
        ({"hw_decoder_load": 1.5}, "hw_decoder_load must be"),
        ({"huffman_threshold": -1}, "huffman_threshold must be"),
        ({"fancy_upsampling": 1}, "fancy_upsampling must be"),
    ):
        with pytest.raises(UsageError, match=text):
            open_dali(packed, options=options)


def test_why_not_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, packed: Path) -> None:
    assert dali.why_not("cpu") is None
    assert "MPS" in str(dali.why_not("mps"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert "Linux only" in str(dali.why_not())
        with pytest.raises(MissingDependencyError, match=r"Linux only.*backend torchvision"):
            open_loader(LoaderConfig(dataset=packed, backend="dali"))


def test_a_missing_or_broken_installation_is_told(tmp_path: Path) -> None:

    code = "from alexnet_fast.loaders.dali.loader import why_not; print(why_not('cpu'))"
    package = Path(dali.__file__).parents[3]
    (tmp_path / "absent").mkdir()
    broken = tmp_path / "broken" / "nvidia" / "dali"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('libdali.so: no such file')")
    (broken.parent / "__init__.py").touch()
    old = tmp_path / "old" / "nvidia" / "dali"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("__version__ = '2.1.1'")
    (old / "fn.py").touch()
    (old.parent / "__init__.py").touch()
    hide = "import sys; sys.modules['nvidia'] = None; "
    for before, path, text in (
        (hide, tmp_path / "absent", "DALI is not installed: pip install nvidia-dali-cuda120"),
        ("", tmp_path / "old", "DALI 2.1.1 is older than 2.2: pip install -U nvidia-dali-cuda120"),
        ("", tmp_path / "broken", "DALI cannot be imported (OSError: libdali.so: no such file)"),
    ):
        environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{package}"}
        done = subprocess.run(
            [sys.executable, "-c", before + code], capture_output=True, text=True, env=environment, check=False
        )
        assert text in done.stdout, done.stderr


def test_the_trial_is_run_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "answers.json"
    assert dali_probe.region_decoding_fails(torch.device("cpu"), cache=cache) is None
    (key,) = json.loads(cache.read_text())
    assert "nvimgcodec" in key and "engines unused" in key
    cache.write_text(json.dumps({key: "remembered"}))
    assert dali_probe.region_decoding_fails(torch.device("cpu"), cache=cache) == "remembered"


def crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_of_the_trial_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_probe, "compare_regions", crash)
    answer, lasting = dali_probe.probe(torch.device("cpu"))
    assert answer == "decoding regions crashes here (killed by SIGSEGV)" and lasting


def run_out_of_memory(*_: object) -> None:
    raise RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory")


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("trial", "said"), [(run_out_of_memory, "fails here: out of memory"), (killed, "killed by SIGKILL")]
)
def test_a_failure_that_may_pass_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trial: Callable[..., None], said: str
) -> None:
    cache = tmp_path / "answers.json"
    monkeypatch.setattr(dali_probe, "_passing", {})
    with monkeypatch.context() as patch:
        patch.setattr(dali_probe, "compare_regions", trial)
        assert said in str(dali_probe.region_decoding_fails(torch.device("cpu"), cache=cache))
    assert not cache.exists()
    assert said in str(dali_probe.region_decoding_fails(torch.device("cpu"), cache=cache))  # this process asks once
    dali_probe._passing.clear()  # as in the next one
    assert dali_probe.region_decoding_fails(torch.device("cpu"), cache=cache) is None


def test_what_to_install_is_said_where_the_codec_is_known_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, expected in (("0.9.0.20", "nvidia-dali-cuda120<2.3"), ("0.8.0.22", ""), ("0.10.0.1", "")):
        monkeypatch.setattr(dali_probe, "version", lambda package, v=installed: v)
        said = dali_probe.advice()
        assert expected in said and bool(said) == bool(expected)


def test_gpus_that_a_build_has_no_code_for_are_told() -> None:
    assert dali.gpu_complaint((9, 0), "nvidia-dali-cuda130") is None
    assert dali.gpu_complaint((5, 0), "nvidia-dali-cuda120") is None
    said = dali.gpu_complaint((7, 0), "nvidia-dali-cuda130")
    assert said is not None and "compute capability 7.0" in said and "nvidia-dali-cuda120 may do" in said
    assert "it needs 5.0" in str(dali.gpu_complaint((3, 7), "nvidia-dali-cuda120"))


def test_other_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali.platform, "machine", lambda: "riscv64")
    assert dali.why_not("cpu") == "DALI runs on Linux only, on x86_64 and aarch64"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the graph is not only drawn but built")
@pytest.mark.parametrize("region", [True, False])
def test_dali_knows_every_argument_of_the_gpu_graph(region: bool) -> None:
    decoding = Decoding(region=region, hw_decoder_load=0.5, largest=(500, 400), most_pixels=250_000)
    with pytest.raises(RuntimeError, match="CUDA is not available"):  # said on building, after drawing
        build_pipeline(lambda: (), batch_size=2, image_size=32, num_threads=1, device_id=0, depth=2, decoding=decoding)


def _cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alexnet_fast", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_train_and_bench_loader_take_the_backend(packed_small: Path, tmp_path: Path) -> None:
    options = ("--device", "cpu", "--image-size", "32")
    run = tmp_path / "run"
    done = _cli(
        "train", packed_small, "--run-dir", run, "--backend", "dali", "--epochs", "1", "--batch-size", "16",
        "--set", "width=0.1", "--hw-decoder-load", "0.5", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loader dali: " in done.stdout
    assert json.loads((run / "summary.json").read_text())["totals"]["images"] == 48
    done = _cli(
        "bench-loader", packed_small, "--backend", "dali", "--num-workers", "1", "--batch-size", "16", "--seconds",
        "0.3", "--model", "none", "--out", tmp_path / "bench", "--hw-decoder-load", "0.25", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench" / "bench-loader.json").read_text())["rows"]
    (row,) = [row for row in rows if row["backend"] == "dali"]
    assert row["status"] == "ok" and row["images_per_s"] > 0


def test_the_share_of_the_engines_is_dali_s_alone(packed_small: Path) -> None:
    done = _cli("train", packed_small, "--hw-decoder-load", "0.5", "--backend", "torchvision")
    assert done.returncode == 2 and "--hw-decoder-load is for backend dali" in done.stderr
    done = _cli("train", packed_small, "--hw-decoder-load", "1.5", "--backend", "dali")
    assert done.returncode == 2 and "a number from 0 to 1" in done.stderr


def _accuracy(dataset: Path, backend: str, seed: int) -> float:
    """Of a small network after three epochs, on the val split."""
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    settings: dict[str, Any] = {"dataset": dataset, "backend": backend, "device": "cpu", "image_size": 32}
    settings |= {"num_workers": 2, "seed": seed}
    with open_loader(LoaderConfig(batch_size=32, **settings)) as loader:
        for _ in range(3):
            for images, labels in loader:
                torch.nn.functional.cross_entropy(network(images), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    network.eval()
    with open_loader(LoaderConfig(split="val", batch_size=160, **settings)) as loader, torch.no_grad():
        ((images, labels),) = list(loader)
        return float((network(images).argmax(1) == labels).float().mean())


def test_both_backends_train_to_one_accuracy(tmp_path: Path) -> None:
    splits = {name: make_samples(name, count, 4, size=(64, 64)) for name, count in (("train", 320), ("val", 160))}
    dataset = pack_images(tmp_path / "data", splits, num_classes=4)
    found = {name: [_accuracy(dataset, name, seed) for seed in range(3)] for name in ("dali", "torchvision")}
    assert min(map(min, found.values())) > 0.5, found  # four classes: 0.25 is chance
    # The noise: three seeds of one backend lie within 0.007 of each other, one image of the 160.
    assert abs(np.mean(found["dali"]) - np.mean(found["torchvision"])) < 0.05, found
