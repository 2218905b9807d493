"""What benchmarks/gpu.py measures: the cells, in order of worth, at full scale and at the tiny one of a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NETWORKS = ("alexnet", "alexnet-bn", "alexnet-paper", "alexnet-owt")
# Shares of a batch for a GPU's JPEG engines. They were reported to write before earlier work on their stream has run
# (meta-pytorch/torchcodec, pull request 1634), so no rate with them counts before `pixels` finds nothing.
LOADS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Cell:
    """One measurement, in a process of its own.

    Attributes:
        name: unique; what a run that goes on tells cells by.
        section: of the table.
        settings: of the measurement: what `gpu_cells` reads.
        data: the data set that it reads: tiny, small or full; None for none.
        dali, cuda, module: what must be there: DALI, a GPU, an importable module.
        limit: seconds after which it counts as hung.
        resumes: whether a stopped one goes on where it was, so that it may begin with little time left.
    """

    name: str
    section: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    dali: bool = False
    cuda: bool = False
    module: str | None = None
    limit: float = 120.0
    resumes: bool = False


@dataclass(frozen=True)
class Scale:
    """Sizes of a run.

    Attributes:
        batch_size, image_size: of training from JPEGs.
        seconds, turns: of a measurement: the median of `turns` after one of warm-up.
        copies: records of each full-size image, so that an epoch is long enough.
        ceiling_batches: of the synthetic ceiling.
        width: factor on the networks' channels.
        cores: that may be used.
        dry: the tiny one, for a machine without a GPU.
    """

    batch_size: int
    image_size: int
    seconds: float
    turns: int
    copies: int
    ceiling_batches: tuple[int, ...]
    width: float
    cores: int
    dry: bool


def full_scale(cores: int) -> Scale:
    return Scale(1024, 224, 3.0, 3, 16, (1024, 128, 512, 256), 1.0, cores, False)


def dry_scale(cores: int) -> Scale:
    return Scale(8, 64, 0.2, 1, 2, (8,), 0.05, cores, True)


def cells(scale: Scale) -> Iterator[Cell]:
    """All cells, those first that say most."""
    yield Cell("imports", "setup", limit=180)
    yield Cell("tests", "setup", limit=300)
    yield from _to_sixty(scale)
    yield from _pixels(scale)
    yield from _train(scale)
    yield from _ceiling(scale)
    yield from _peers(scale)
    for backend in ("dali", "torchvision"):
        yield Cell(f"syncs-{backend}", "syncs", {"backend": backend}, "small", dali=backend == "dali", cuda=True)
    yield Cell("syncs-resident", "syncs", {"backend": "resident", "image_size": 64}, "tiny", cuda=True)
    yield _bench(scale)
    yield from _loaders(scale)


def _to_sixty(scale: Scale) -> Iterator[Cell]:
    """Tiny ImageNet to 60% top-1: the recipe as it is, then a third of its epochs."""
    shared = {"model": "alexnet-bn", "image_size": 32 if scale.dry else 64, "target": 0.6}
    yield Cell("tiny-60", "tiny", {**shared, "epochs": 2 if scale.dry else None}, "tiny", limit=560, resumes=True)
    if not scale.dry:
        short = {**shared, "share_of_epochs": 1 / 3, "compile": True}
        yield Cell("tiny-60-short", "tiny", short, "tiny", limit=400, resumes=True)


def _pixels(scale: Scale) -> Iterator[Cell]:
    for region in (True, False):
        for load in LOADS[:1] if scale.dry else LOADS:
            options = {"region": region, "hw_decoder_load": load}
            settings = {"options": options, "rounds": 2 if scale.dry else 8, "batches": 2 if scale.dry else 4}
            yield Cell(f"pixels-{_way(region)}-{load:g}", "pixels", settings, "full", dali=True)


def _way(region: bool) -> str:
    return "region" if region else "whole"


def _train(scale: Scale) -> Iterator[Cell]:
    """Training from JPEG shards: each backend beside the same step on a batch that lies on the device."""
    for data in ("small", "full"):
        for region in (True, False):
            options = {"region": region, "hw_decoder_load": 0.0}
            settings = {"backend": "dali", "options": options}
            yield Cell(f"train-{data}-dali-{_way(region)}", "train", settings, data, dali=True)
        yield Cell(f"train-{data}-workers", "train", {"backend": "torchvision"}, data)
        if not scale.dry:
            options = {"region": False, "hw_decoder_load": 0.65}
            settings = {"backend": "dali", "options": options}
            yield Cell(f"train-{data}-dali-engines", "train", settings, data, dali=True)
    yield Cell("train-tiny-resident", "train", {"backend": "resident"}, "tiny")


def _ceiling(scale: Scale) -> Iterator[Cell]:
    """The step on one batch that lies on the device, as it is, with CUDA graphs and through torch.compile."""
    batches = list(scale.ceiling_batches)
    precisions = ("auto",) if scale.dry else ("bf16", "fp16")
    for mode in ("plain", "graphs", "compile"):
        for precision in precisions:
            for network in NETWORKS:
                settings = {"model": network, "precision": precision, "mode": mode, "batch_sizes": batches}
                limit = 300 if mode == "compile" else 120
                name = f"step-{network}-{precision}-{mode}"
                yield Cell(name, "step", settings, cuda=mode == "graphs", limit=limit)
                if scale.dry and mode == "compile":
                    return  # one: compiling takes most of a minute on a CPU


def _peers(scale: Scale) -> Iterator[Cell]:
    """Other programs on the same bytes, feeding the same step."""
    for data in ("small",) if scale.dry else ("small", "full"):
        yield Cell(f"peer-{data}-dali", "peers", {"peer": "dali"}, data, dali=True)
        yield Cell(f"peer-{data}-torchvision", "peers", {"peer": "torchvision"}, data)
        yield Cell(f"peer-{data}-ffcv", "peers", {"peer": "ffcv"}, data, module="ffcv")


def _bench(scale: Scale) -> Cell:
    """`bench-loader` as typed, with page-locked memory and without."""
    workers = sorted({1, scale.cores} if scale.dry else {1, scale.cores // 4, scale.cores // 2, scale.cores})
    words = ["--num-workers", ",".join(map(str, workers)), "--pin-memory", "on,off"]
    words += ["--seconds", "0.2", "--model", "none", "--backend", "torchvision"] if scale.dry else ["--seconds", "3"]
    return Cell("bench-loader", "bench", {"words": words}, "full", limit=400)


def _loaders(scale: Scale) -> Iterator[Cell]:
    """Loaders alone: what a core of the host and what the GPU decodes, by which `auto` chooses."""
    for data in ("full",) if scale.dry else ("full", "small"):
        for workers in sorted({1, scale.cores} if scale.dry else {1, scale.cores // 2, scale.cores}):
            settings = {"backend": "torchvision", "num_workers": workers}
            yield Cell(f"loader-{data}-workers-{workers}", "loader", settings, data)
            yield Cell(f"loader-{data}-dali-{workers}", "loader", {**settings, "backend": "dali"}, data, dali=True)
