"""`open_loader`: the one place that chooses a backend, imports it, and says what to do where it cannot run."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import LoaderConfig
from ..errors import UsageError
from ..options import is_url
from ..words import counted
from .base import Batch, Loader, open_split
from .order import Int64Array, epoch_order
from .selection import chosen_records

if TYPE_CHECKING:
    from ..dataset import ShardReader

__all__ = ["Batch", "Loader", "choose_backend", "choose_records", "epoch_order", "open_loader"]

# What `auto` reckons with on CUDA, full-size ImageNet images a second. The host's are about what a core decoded here;
# DALI's are estimates, to be settled by the first run of benchmarks/gpu.py on a GPU.
_HOST_PER_WORKER = 1000
_HOST_PER_WORKER_LIBRARIES = 740
_DALI_PER_THREAD = 1500
_DALI_PER_GPU = 12_000
# The largest images, pixels a side, that `auto` keeps on the device: larger ones are rarely of one size, and a crop
# costs as much as the whole image there.
_RESIDENT_SIDE = 128


def open_loader(dataset: LoaderConfig | Path | str | None = None, /, **options: Any) -> Loader:
    """Open a loader: ``open_loader("data/tiny", split="train", batch_size=128)``, or with a `LoaderConfig`.

    Backend 'auto' says on stderr, in one line, what it took and why. A process that a launcher started beside others is
    told so once, where neither `rank` nor `world_size` is given: the loader takes them from its caller alone.

    Args:
        dataset: the folder that ``alexnet-fast pack`` made, or a whole configuration, which the options go over.
        options: the fields of `LoaderConfig`.

    Raises:
        UsageError: the data set or the device is not there, an option is not known or out of range, or the backend
            cannot run here; the text names the remedy.
        DamagedDataError: the data set is damaged.
    """
    config = _configure(dataset, options)
    # A configuration says all, so that it means it; of keywords, ranks are what a script for one process leaves out.
    if not isinstance(dataset, LoaderConfig) and not options.keys() & {"rank", "world_size"}:
        _say_who_else_reads(_processes())
    if config.backend == "synthetic":
        from .synthetic import SyntheticLoader

        return SyntheticLoader(config)
    if config.shuffle == "auto":
        whole = config.records is None and config.weights is None
        config = replace(config, shuffle="window" if is_url(config.dataset) and whole else "full")
    reader = _open_reader(config)
    if config.backend == "auto":
        name, why = choose_backend(config, reader)
        print(f"{config.split}: backend {name}, because {why}", file=sys.stderr)
        config = replace(config, backend=name)
    if config.backend == "torchvision":
        from .torchvision import TorchvisionLoader

        return TorchvisionLoader(config, reader)
    if config.backend == "resident":
        from .resident import open_resident

        return open_resident(config, reader)
    from .dali.loader import DaliLoader

    return DaliLoader(config, reader)


def _configure(dataset: LoaderConfig | Path | str | None, options: dict[str, Any]) -> LoaderConfig:
    known = [field.name for field in fields(LoaderConfig)]
    for name in options:
        if name not in known:
            near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has: {', '.join(known)}"
            raise UsageError(f"open_loader has no option {name!r}; {hint}")
    if isinstance(dataset, LoaderConfig):
        return replace(dataset, **options)
    if dataset is None:
        return LoaderConfig(**options)
    if "dataset" in options:
        raise UsageError("the data set is given twice, as the first argument and as dataset")
    return LoaderConfig(dataset=dataset, **options)


def _processes() -> int:
    """How many train together, this one among them, as far as torch or a launcher has said."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    # torchrun sets all three; Lightning starts the first process without RANK. WORLD_SIZE alone may be anybody's.
    ours = "RANK" in os.environ or "LOCAL_RANK" in os.environ
    announced = os.environ.get("WORLD_SIZE", "1")
    return int(announced) if ours and announced.isdecimal() else 1


@cache
def _say_who_else_reads(processes: int) -> None:
    if processes > 1:
        print(
            f"open_loader: each of these {processes} processes reads every record, since rank and world_size are not "
            "given: give those of your engine, or world_size=1 where that is meant",
            file=sys.stderr,
        )


def _open_reader(config: LoaderConfig) -> ShardReader:
    reader = open_split(config)
    if config.train and reader.cache is not None:
        print(
            f"{config.split}: shards are fetched into {reader.cache.folder} (at most "
            f"{config.cache_bytes / 2**30:,.1f} GiB), and read in order {config.shuffle}",
            file=sys.stderr,
        )
    return reader


def choose_records(config: LoaderConfig, records: Path | str | None, share: float | None) -> Int64Array | None:
    """The record numbers of a split that a file lists or a share draws; None where neither is given: all.

    Args:
        config: says which split, and where shards of a URL are kept.
        records: text with a record number a line (# begins a comment), or .npy with numbers or a mask.
        share: of each class, over 0 and up to 1.

    Raises:
        UsageError: both are given, or the file cannot be read or does not fit the split.
    """
    if records is None and share is None:
        return None
    return chosen_records(_open_reader(replace(config, train=False)).labels, records, share)


def choose_backend(config: LoaderConfig, reader: ShardReader | None = None) -> tuple[str, str]:
    """The backend that 'auto' means for this data set on this device, and why.

    Options are of one backend, so with options it is the one that every machine has.

    Args:
        reader: of the split, where it is open already.

    Raises:
        UsageError, DamagedDataError: as `open_loader`.
    """
    from ..system import choose_device, worker_count
    from .resident import MEMORY_SHARE, common_size, free_memory, resident_bytes

    device = choose_device(config.device)
    if config.options:
        return "torchvision", "options are given"
    if config.image_transform is not None and device.type != "cpu":
        return "torchvision", "image_transform runs in its workers"
    reader = reader or _open_reader(config)
    size = common_size(reader)
    short = ""
    if size is not None and max(size) <= _RESIDENT_SIDE:
        needed, free = resident_bytes(reader, size), free_memory(device)
        if free is not None and needed > MEMORY_SHARE / 2 * free:
            short = (
                f"; resident would take {needed / 2**20:.0f} MiB, more than {MEMORY_SHARE / 2:.0%} of the "
                f"{free / 2**20:.0f} MiB of memory free"
            )
        elif free is not None:
            return "resident", (
                f"{counted(len(reader), 'image')} of {size[1]}x{size[0]} take {needed / 2**20:.0f} MiB "
                f"of {free / 2**20:.0f} MiB free on {device}"
            )
    if device.type == "cuda":
        from .dali.loader import why_not

        reason = why_not(str(device))
        workers = worker_count() if config.num_workers == "auto" else config.num_workers
        if reason is not None:
            return "torchvision", reason + short
        name, why = decoder_on_cuda(workers)
        return name, why + short
    return "torchvision", f"it is the fastest on {device}{' of those that fit' if short else ''}{short}"


def decoder_on_cuda(workers: int, *, compiled: bool | None = None) -> tuple[str, str]:
    """The backend that decodes more full-size images a second on a GPU's machine, and why: the rule of 'auto'.

    Workers on the host decode `_HOST_PER_WORKER` each. DALI decodes on the GPU, up to `_DALI_PER_GPU`, and its threads
    on the host do the entropy decoding before that, `_DALI_PER_THREAD` each. The larger sum wins, DALI where they are
    equal.

    Args:
        workers: threads or processes of either.
        compiled: whether the compiled decoder is there; None looks.
    """
    from ..images import compiled_code

    compiled = compiled_code() is not None if compiled is None else compiled
    host = max(1, workers) * (_HOST_PER_WORKER if compiled else _HOST_PER_WORKER_LIBRARIES)
    dali = min(max(1, workers) * _DALI_PER_THREAD, _DALI_PER_GPU)
    backend = "dali" if dali >= host else "torchvision"
    return backend, (
        f"with {counted(workers, 'worker')} about {dali:,} full-size images/s are expected of DALI and "
        f"{host:,} of the host; bench-loader measures them"
    )
