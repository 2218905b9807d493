"""What every adapter shares: the command line, the prepared data, the clock and the check that the work was done.

An adapter is run by its peer's own interpreter, so this module needs nothing but torch, numpy and psutil. It prints one
JSON line for each epoch:

    python benchmarks/peers/ffcv_loader.py --data DIR --batch-size 128 --image-size 224 --output uint8 --epochs 2 \
        --set workers=2
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)


OUTPUTS = ("uint8", "float", "augmented")


@dataclass(frozen=True)
class Job:
    """One run: what to read, what to hand over, with which of the peer's settings.

    With `remote`, the URL at which the folder of `data` is served, the peer reads its format there through `cache`.
    """

    data: Path
    batch_size: int
    image_size: int
    output: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    remote: str = ""
    cache: Path = Path()

    @property
    def float_output(self) -> bool:
        return self.output == "float"

    @property
    def augmented(self) -> bool:
        return self.output == "augmented"

    @property
    def workers(self) -> int:
        return int(self.settings["workers"])


Epoch = Callable[[int], Iterable[tuple[Any, Any]]]


def list_images(data: Path) -> list[tuple[Path, int]]:
    """(file, label) of every record of a prepared data set, in the order in which the packed formats hold them."""
    rows = [line.split("\t") for line in (data / "pictures.tsv").read_text().splitlines()]
    return [(data / "jpeg" / path, int(label)) for path, label in rows]


def shard_bytes(data: Path, otherwise: int) -> int:
    """Bytes of images at which a shard is full: those that the data set was prepared for, or `otherwise`."""
    return int(json.loads((data / "data.json").read_text()).get("shard_bytes", otherwise))


def fresh(folder: Path) -> Path:
    """An empty folder in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def random_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height, width drawn as RandomResizedCrop does, for peers that only offer a plain crop."""
    import math

    for _ in range(10):
        area = height * width * random.uniform(*AREA)
        aspect = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


class Check:
    """What the first epoch held: enough to tell a peer that skipped images, cropped otherwise or swapped channels."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.labels: list[Any] = []
        self.means: list[Any] = []
        self.squares: list[Any] = []

    def add(self, images: Any, labels: Any) -> None:
        import torch

        job = self.job
        expected = torch.float32 if job.float_output else torch.uint8
        size = (len(labels), 3, job.image_size, job.image_size)
        if images.dtype != expected or tuple(images.shape) != size:
            raise SystemExit(f"got {images.dtype} of {tuple(images.shape)} where {expected} of {size} was expected")
        pixels = images.float()
        if job.float_output:
            pixels = pixels * (torch.tensor(STD) * 255).view(3, 1, 1) + (torch.tensor(MEAN) * 255).view(3, 1, 1)
        self.labels.append(labels.clone())
        self.means.append(pixels.mean((0, 2, 3)))
        self.squares.append((pixels**2).mean((0, 2, 3)))

    def result(self) -> dict[str, Any]:
        import torch

        mean = torch.stack(self.means).mean(0)
        std = (torch.stack(self.squares).mean(0) - mean**2).sqrt()
        counts = torch.bincount(torch.cat(self.labels).long())
        return {
            "pixel_mean": [round(x, 2) for x in mean.tolist()],
            "pixel_std": [round(x, 2) for x in std.tolist()],
            "labels": histogram_digest(counts.tolist()),
        }


def draw(job: Job, batch: tuple[Any, Any], path: Path) -> None:
    """The first images of a batch, eight a row, to be looked at; their labels and values on the terminal."""
    import torch
    from PIL import Image

    images, labels = batch
    images = images[:32].float()
    if job.float_output:
        images = images * (torch.tensor(STD) * 255).view(3, 1, 1) + (torch.tensor(MEAN) * 255).view(3, 1, 1)
    n, _, height, width = images.shape
    sheet = images.round().clamp(0, 255).to(torch.uint8).view(n // 8, 8, 3, height, width)
    sheet = sheet.permute(0, 3, 1, 4, 2).reshape(n // 8 * height, 8 * width, 3)
    Image.fromarray(sheet.contiguous().numpy()).save(path)
    print(f"labels {labels[:n].tolist()}; {int((images.amax((1, 2, 3)) == 0).sum())} of {n} are all zeros")


def histogram_digest(counts: list[int]) -> str:
    """A short name for how often each label was seen."""
    import hashlib

    return hashlib.sha256(",".join(map(str, counts)).encode()).hexdigest()[:16]


def tree_cpu_seconds() -> float:
    """CPU time, user and system, of this process and all its descendants, those that have ended included."""
    import psutil

    total = 0.0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            t = process.cpu_times()
        except psutil.Error:
            continue
        total += t.user + t.system + t.children_user + t.children_system
    return total


def measure(job: Job, epochs: int, epoch: Epoch, checked: int | None = 0) -> Iterator[dict[str, Any]]:
    """Read `epochs` epochs, and check the batches of one that is not to count, such as the first, the warm-up."""
    for number in range(epochs):
        check = Check(job) if number == checked else None
        cpu = tree_cpu_seconds()
        begin = time.perf_counter()
        first = begin
        count = batches = first_count = 0
        for images, labels in epoch(number):
            if batches == 0:
                first, first_count = time.perf_counter(), len(labels)
            if check is not None:
                check.add(images, labels)
            batches += 1
            count += len(labels)
        end = time.perf_counter()
        row = {
            "epoch": number,
            "pictures": count,
            "batches": batches,
            "seconds": end - begin,
            "first_batch_s": first - begin,
            "images_per_s": (count - first_count) / (end - first) if batches > 1 else None,
            "cpu_seconds_per_1k": (tree_cpu_seconds() - cpu) / count * 1000,
        }
        if check is not None:
            row["check"] = check.result()
        yield row


def versions(*packages: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if value in ("true", "false"):
        return name, value == "true"
    return name, int(value) if value.lstrip("-").isdigit() else value


def main(
    open_epochs: Callable[[Job], Epoch],
    prepare: Callable[[Path], None],
    defaults: Mapping[str, Any],
    packages: tuple[str, ...],
    check: bool = True,
) -> None:
    """The command line of an adapter; without `check`, what the epochs yield is counted and not looked at."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="a data set that `loaders.py prepare` made")
    parser.add_argument("--prepare", action="store_true", help="write the peer's own format and end")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--output", choices=OUTPUTS, default="uint8")
    parser.add_argument("--epochs", type=int, default=2, help="the first is a warm-up")
    parser.add_argument("--picture", type=Path, help="draw the first batch into this PNG and end")
    parser.add_argument("--remote", default="", help="URL at which the folder --data is served")
    parser.add_argument("--check-epoch", type=int, default=0, help="whose batches are looked at; it should not count")
    parser.add_argument("--cache", type=Path, default=Path(), help="folder for what comes from there")
    parser.add_argument("--import", dest="modules", nargs="*", default=[], help="loaded before the clock starts")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", type=_setting)
    args = parser.parse_args()
    if args.prepare:
        prepare(args.data.resolve())
        return
    settings = {**defaults, **dict(args.settings)}
    unknown = set(settings) - set(defaults)
    if unknown:
        parser.error(f"unknown settings: {', '.join(sorted(unknown))}")
    for name in args.modules:
        importlib.import_module(name)
    job = Job(
        args.data.resolve(), args.batch_size, args.image_size, args.output, settings, args.remote, args.cache.resolve()
    )  # fmt: skip
    started, cpu = time.perf_counter(), tree_cpu_seconds()
    epoch = open_epochs(job)
    opened, cpu = time.perf_counter() - started, tree_cpu_seconds() - cpu
    if args.picture:
        draw(job, next(iter(epoch(0))), args.picture)
        return
    print(json.dumps({"settings": settings, "versions": versions(*packages)}), flush=True)
    for row in measure(job, args.epochs, epoch, args.check_epoch if check else None):
        if row["epoch"] == 0:
            row |= {"open_s": opened, "open_cpu_s": cpu}
        print(json.dumps(row), flush=True)
    sys.stdout.flush()


def defaults_of(candidates: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The setting from which the tuning begins: the first candidate of each."""
    return {name: values[0] for name, values in candidates.items()}
