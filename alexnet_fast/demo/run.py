"""The whole pipeline on images it makes itself, step by step, each with the command that does the same."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import AlexNetFastError, UsageError

# Chosen so that the network tells the shapes apart in the time that the walk has: 95.5, 95.8 and 91.0% with three
# seeds, in 34 to 45 CPU seconds. Recipe fast at 64 pixels, with a quarter of the width, reached 33.8% in 39.
TRAIN_PER_CLASS, VAL_PER_CLASS = 200, 40
IMAGE_SIZE, EPOCHS, MODEL, RECIPE, BATCH, LR = 48, 8, "alexnet-bn", "record", 32, 0.02
OVERRIDES = {"width": 0.1875, "hidden": 128, "stem_stride": 1, "area": [0.5, 1], "start_size": 0.75}
_MARK = ".alexnet-fast-demo"  # a folder with this file in it was made by the demo, and may be replaced by it


def demo(
    out: Path | str = "demo-out",
    *,
    device: str = "auto",
    epochs: int = EPOCHS,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
) -> str:
    """Make images, pack, verify, sweep the loader, train, evaluate, predict and draw; all of it goes into `out`.

    Args:
        out: folder; what an earlier demo left there is replaced.
        device: as in `TrainConfig`.
        epochs, train_per_class, val_per_class: smaller ones for a quicker look.

    Returns:
        A summary that says where to look.

    Raises:
        UsageError: `out` holds something else, or the device is not here.
    """
    from ..system import choose_device

    begin = time.perf_counter()
    choose_device(device)  # refused before the work
    folder = _empty_folder(Path(out))
    images, data, bench, run = (folder / name for name in ("images", "data", "bench", "run"))
    steps = _Steps(folder)
    _make(steps, images, train_per_class, val_per_class)
    _pack(steps, images, data)
    _inspect(steps, data)
    settings = _bench(steps, data, bench, device)
    _train(steps, data, run, settings, device, epochs)
    top1 = _evaluate(steps, run, data, device)
    _predict(steps, run, images, device)
    return _summary(folder, top1, time.perf_counter() - begin)


def _empty_folder(folder: Path) -> Path:
    if folder.exists():
        if not folder.is_dir():
            raise UsageError(f"the demo writes into a folder, and {folder} is a file: give another --out")
        if any(folder.iterdir()) and not (folder / _MARK).exists():
            raise UsageError(f"{folder} holds something that the demo did not make: give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).write_text("Made by `alexnet-fast demo`, which may replace this folder.\n")
    return folder


class _Steps:
    """Says what each step is, the command that does it, what came of it and how long it took."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0

    @contextmanager
    def step(self, title: str, *command: object) -> Iterator[None]:
        self.number += 1
        _say(f"\n{self.number}. {title}")
        if command:
            _say("   $ alexnet-fast " + " ".join(shlex.quote(str(word)) for word in command))
        begin = time.perf_counter()
        yield
        _say(f"   ({time.perf_counter() - begin:.1f} s)")


def _device_option(device: str) -> tuple[str, ...]:
    return () if device == "auto" else ("--device", device)


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def _indented(text: str) -> None:
    _say("\n".join(f"   {line}" if line else "" for line in text.splitlines()))


def _make(steps: _Steps, images: Path, train: int, val: int) -> None:
    from ..system import progress_bar
    from .images import CLASSES, make_images

    with steps.step(f"Make labelled JPEG images: {', '.join(CLASSES)}"), progress_bar("drawing") as progress:
        count = make_images(images, train=train, val=val, progress=progress)
        _indented(f"{count:,} images of several sizes in {images}/SPLIT/CLASS")


def _pack(steps: _Steps, images: Path, data: Path) -> None:
    from ..dataset import verify
    from ..packing import describe_pack, pack
    from ..system import progress_bar

    with steps.step("Pack them into shards", "pack", images, data), progress_bar("packing") as progress:
        _indented(describe_pack(pack(images, data, progress=progress), data))
    with steps.step("Verify every record", "verify", data):
        result = verify(data)
        if not result.ok:
            raise AlexNetFastError(f"verify found damage in what was just packed: {result.summary()}")
        _indented(result.summary())


def _inspect(steps: _Steps, data: Path) -> None:
    from ..inspection import inspect

    grid = steps.folder / "augmented.png"
    options = ("--grid", grid, "--augmented", "--image-size", IMAGE_SIZE)
    with steps.step("See what the network is fed", "inspect", data, *options):
        inspect(data, grid=grid, augmented=True, image_size=IMAGE_SIZE)
        _indented(f"drawn: {grid}")


def _bench(steps: _Steps, data: Path, bench: Path, device: str) -> Path | None:
    """The settings file, None where no setting could be measured."""
    from ..bench import bench_loader
    from ..config import BenchConfig
    from ..system import choose_device

    # On a CPU three settings show what there is to see; each costs a few seconds to start. No network's demand is
    # measured: those of bench-loader have their full width, and the one that is trained here a fifth of it.
    few = choose_device(device).type != "cuda"
    sweep = ("--backend", "torchvision", "--num-workers", "0,1,2") if few else ()
    options = (*sweep, "--batch-size", BATCH, "--image-size", IMAGE_SIZE, "--seconds", 1, "--model", "none")
    options += (*_device_option(device), "--out", bench)
    with steps.step("Find the fastest loader settings of this machine", "bench-loader", data, *options):
        config = BenchConfig(
            dataset=data, image_size=IMAGE_SIZE, seconds=1.0, out=bench, device=device, batch_sizes=(BATCH,),
            backends=("torchvision",) if few else None, num_workers=(0, 1, 2) if few else None, model="none",
        )  # fmt: skip
        report = bench_loader(config)
        _indented(report.closing_lines())
    return bench / "bench-loader.json" if report.recommendation is not None else None


def _train(steps: _Steps, data: Path, run: Path, settings: Path | None, device: str, epochs: int) -> None:
    from ..config import TrainConfig
    from ..options import word
    from ..training import train

    options: tuple[object, ...] = ("--model", MODEL, "--recipe", RECIPE, "--image-size", IMAGE_SIZE)
    options += ("--epochs", epochs, "--batch-size", BATCH, "--lr", LR)
    options += tuple(part for name, value in OVERRIDES.items() for part in ("--set", f"{name}={word(value)}"))
    options += _device_option(device)
    if settings is not None:
        options += ("--loader-settings", settings)
    with steps.step("Train", "train", data, "--run-dir", run, *options):
        config = TrainConfig(
            dataset=data, run_dir=run, model=MODEL, recipe=RECIPE, image_size=IMAGE_SIZE, epochs=epochs,
            batch_size=BATCH, lr=LR, device=device, overrides=OVERRIDES, loader_settings=settings,
        )  # fmt: skip
        result = train(config, say=lambda line: _indented(line))
        if result is not None:
            _indented(result.closing_lines())


def _evaluate(steps: _Steps, run: Path, data: Path, device: str) -> float:
    from ..evaluation import evaluate

    report = steps.folder / "report"
    with steps.step("Evaluate, with a report", "evaluate", run, data, "--report", report, *_device_option(device)):
        result = evaluate(run, data, device=device, report=report)
        _indented(result.closing_lines())
    return result.top1


def _predict(steps: _Steps, run: Path, images: Path, device: str) -> None:
    from ..evaluation import predict

    chosen = [next(iter(sorted((images / "val" / name).iterdir()))) for name in ("flower", "waves")]
    with steps.step("Predict", "predict", run, *chosen, "--top", 3, *_device_option(device)):
        _indented(predict(run, chosen, top=3, device=device).closing_lines())


def _summary(folder: Path, top1: float, seconds: float) -> str:
    verdict = json.loads((folder / "run" / "summary.json").read_text())["verdict"]
    places = [
        ("run/curves.png", "loss, accuracy, learning rate and speed by epoch"),
        ("report/index.html", "classes, confusion, right and wrong images (open it in a browser)"),
        ("augmented.png", "images beside what the network is fed"),
        ("bench/bench-loader.md", "how fast each loader setting is here, and why"),
        ("run/best.pt", "the network"),
    ]
    width = max(len(name) for name, _ in places) + len(str(folder)) + 1
    lines = [
        "",
        f"Done in {seconds:.0f} s: validation top-1 {top1:.1%}, where guessing gets 10%. {verdict}",
        "Where to look:",
        *(f"  {str(folder / name).ljust(width)}  {what}" for name, what in places),
    ]
    return "\n".join(lines)
