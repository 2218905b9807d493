"""What a sweep has to know before it begins: the machine, the data set, and what each stage of reading costs."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import LoaderConfig
from ..dataset import ShardReader
from ..errors import UsageError
from ..images import Cropper, ImageDecoder, finish_batch, output_array, plan_train, sample_crops, sample_flips
from ..loaders import Loader, epoch_order, open_loader
from ..system import (
    available_memory,
    cgroup_cpu_quota,
    choose_device,
    cpu_name,
    device_name,
    memory_bytes,
    send_message,
    synchronize,
    usable_cores,
    versions,
)
from .results import Environment, Stages

if TYPE_CHECKING:
    import torch

_SAMPLE = 128  # records that each stage is measured on, at most
_STAGE_SECONDS = 1.0  # and for how long
_COLD_AT_ONCE = 8  # records dropped from the page cache before they are read: no more are left cold where time is up
_JOB = 16  # images a job, as the loader's
_BLOCK = 8 << 20
# A split is read whole before the sweep where that takes no longer, and no more of the free memory, than this.
_WARM_SECONDS, _WARM_SHARE = 10.0, 0.5
_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "simplejpeg", "lmdb", "numpy")


@dataclass(frozen=True)
class Probe:
    """What `probe` found."""

    environment: Environment
    stages: Stages


def probe(config: LoaderConfig, settings: dict[str, Any], warm_seconds: float) -> Probe:
    """Look at the machine and the data set, and time each stage; its messages are 'ready' and signs of life.

    Args:
        config: how the split would be read, its dtype still to be chosen.
        settings: what was asked for, to be kept with the result.
        warm_seconds: for how long records are read ahead of the sweep, where the split is too much to be read whole.

    Raises:
        UsageError: the device, the data set or its split is not there, or holds no images.
        DamagedDataError: the data set is damaged.
    """
    device = choose_device(config.device)
    send_message("ready")
    assert config.dataset is not None
    reader = ShardReader(config.dataset, config.split)
    if not len(reader):
        raise UsageError(f"split {config.split!r} of {config.dataset} holds no images: pack some first")
    stages = _Stages(config, reader, device)
    environment = _environment(config, settings, reader, device)
    found: dict[str, float | None] = {"collate": 0.0}
    for measure in (stages.read_cold, stages.work, stages.device_side):
        send_message("stage")
        found |= measure()
    send_message("warming")
    # All settings read the same records first, so the page cache must hold these for the first of them too.
    stages.warm(warm_seconds)
    return Probe(environment, Stages(**found))


def _environment(
    config: LoaderConfig, settings: dict[str, Any], reader: ShardReader, device: torch.device
) -> Environment:
    total, available = memory_bytes()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    backend, workers = _automatic(config)
    return Environment(
        device=device.type,
        device_name=device_name(device),
        machine=cpu_name(),
        cores=os.cpu_count() or 1,
        affinity=affinity,
        cpu_quota=cgroup_cpu_quota(),
        usable_cores=usable_cores(),
        memory_bytes=total,
        memory_available_bytes=available,
        dataset=Path(str(config.dataset)).resolve().name,
        split=config.split,
        records=len(reader),
        bytes=reader.split_info.bytes,
        classes=reader.info.num_classes,
        median_width=int(np.median(reader.widths)),
        median_height=int(np.median(reader.heights)),
        dtype=str(config.dtype),
        backends=tuple(runnable_backends(config)),
        auto_backend=backend,
        auto_workers=workers,
        versions={**versions(*_PACKAGES), "system": f"{platform.system()} {platform.machine()}"},
        settings=settings,
    )


def dtype_of_training(device_name: str) -> str:
    """The type that training asks its loader for on this device."""
    from ..models import choose_precision  # the sweep itself does without torch

    return str(choose_precision("auto", choose_device(device_name)).dtype).removeprefix("torch.")


def _with(config: LoaderConfig, backend: str) -> Loader:
    return open_loader(replace(config, backend=backend))


def _automatic(config: LoaderConfig) -> tuple[str, int]:
    """Backend and number of workers that 'auto' takes here: what a run without --loader-settings reads with."""
    with _with(config, "auto") as loader:
        name = loader.backend
        workers = getattr(loader, "num_workers", None)
    return name, usable_cores() if workers is None else int(workers)


def runnable_backends(config: LoaderConfig) -> list[str]:
    """Backends that can read this split here, the most usual first; the ceiling, synthetic, is not one."""
    found = []
    for name in ("torchvision", "dali", "resident"):
        with contextlib.suppress(UsageError, ImportError), _with(config, name):
            found.append(name)
    return found


class _Stages:
    """Times the stages one after another in one thread, on images as the first epoch draws them."""

    def __init__(self, config: LoaderConfig, reader: ShardReader, device: torch.device) -> None:
        import torch

        self._config, self.reader, self.device = config, reader, device
        self.dtype = getattr(torch, str(config.dtype))
        self._order = epoch_order(len(reader), seed=config.seed, epoch=0)
        self.sample = self._order[:_SAMPLE]
        self.heights, self.widths = reader.heights[self.sample], reader.widths[self.sample]
        self.size = config.image_size
        boxes = sample_crops(config.seed, 0, self.sample, self.heights, self.widths)
        self.plan = plan_train(boxes, self.heights, self.widths, self.size)
        self._cold_bytes_per_s: float | None = None

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_cold(self) -> dict[str, float | None]:
        """The sample's records, a few at a time just after these were dropped from the page cache.

        Little more is dropped than is read again: what the cache holds else may be wanted.
        """
        seconds, size, count = 0.0, 0, 0
        while count < len(self.sample) and seconds < 2 * _STAGE_SECONDS:
            some = self.sample[count : count + _COLD_AT_ONCE]
            if not self.reader.evict(some):
                return {"read_cold": None}
            begin = time.perf_counter()
            size += sum(len(self.reader.read(int(record))) for record in some)
            seconds += time.perf_counter() - begin
            count += len(some)
        self._cold_bytes_per_s = size / seconds
        # The stages of work read the same records again, which are in memory now.
        self.sample, self.plan = self.sample[:count], self.plan[:count]
        return {"read_cold": seconds / count * 1000}

    def warm(self, seconds: float) -> None:
        """Bring the split into the page cache, or what the sweep will read of it first, for so many seconds at most."""
        size, free = self.reader.split_info.bytes, available_memory()
        quick = self._cold_bytes_per_s is None or size / self._cold_bytes_per_s <= _WARM_SECONDS
        if quick and (free is None or size <= _WARM_SHARE * free):
            end = time.perf_counter() + _WARM_SECONDS
            for _ in self._blocks():
                if time.perf_counter() > end:
                    return
            return
        end, count = time.perf_counter() + seconds, 2 * usable_cores()

        def read(first: int) -> None:
            for record in self._order[first::count]:
                if time.perf_counter() > end:
                    return
                self.reader.read(int(record))

        # As many readers as the widest setting has, which comes the furthest.
        with ThreadPoolExecutor(count) as readers:
            list(readers.map(read, range(count)))

    def _blocks(self) -> Iterator[int]:
        for shard in self.reader.split_info.shards:
            with open(self.reader.dataset / shard.path / "data.mdb", "rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    yield len(block)

    # -- work ---------------------------------------------------------------------------------------------------------

    def work(self) -> dict[str, float | None]:
        """Read (from the cache), decode the crop's region, resize, on the CPU finish: CPU time of one thread."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            worker = _Worker(self)
            jobs = -(-len(self.sample) // _JOB)
            for job in range(jobs):  # every record is in memory, and buffers and code paths are there, from here on
                worker.do(job)
            worker.spent = dict.fromkeys(worker.spent, 0.0)
            count = job = 0
            while (total := sum(worker.spent.values())) < _STAGE_SECONDS or job < jobs:
                count += worker.do(job)
                job += 1
                if total > 4 * _STAGE_SECONDS:
                    break
            spent: dict[str, float | None] = {name: s / count * 1000 for name, s in worker.spent.items()}
            if self.device.type == "cpu":
                spent["device_augment"] = self._normalising()
        finally:
            torch.set_num_threads(threads)
        return spent

    def _normalising(self) -> float:
        """ms an image that it takes a worker longer to hand out normalised images than uint8 ones."""
        count = min(len(self.sample), 32)
        pixels = np.zeros((count, self.size, self.size, 3), np.uint8)
        boxes = np.tile(np.array([[0, 0, self.size, self.size]], np.int32), (count, 1))
        sides = np.full(count, self.size)
        plan, numbers = plan_train(boxes, sides, sides, self.size), np.arange(count)

        def milliseconds(dtype: str, value_bytes: int) -> float:
            cropper = Cropper(self.size, dtype)
            out = output_array(np.zeros(pixels.size * value_bytes, np.uint8), self.size, dtype)
            return _milliseconds(lambda: cropper.pixels(pixels, numbers, plan, None, out), count, time.thread_time)

        return max(0.0, milliseconds(str(self._config.dtype), self.dtype.itemsize) - milliseconds("uint8", 1))

    # -- the device ---------------------------------------------------------------------------------------------------

    def device_side(self) -> dict[str, float | None]:
        """Host to device, then flip and normalise there."""
        import torch

        if self.device.type == "cpu":
            return {"copy": 0.0}  # a worker's image is where it is wanted, finished
        batch = self._config.batch_size
        host = torch.zeros((batch, self.size, self.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        if self.device.type == "cuda":
            host = host.pin_memory()
        copy = _milliseconds(lambda: self._synced(lambda: host.to(self.device)), batch)
        images = host.to(self.device)
        flips = torch.from_numpy(sample_flips(0, 0, np.arange(batch))).to(self.device)
        finish = _milliseconds(lambda: self._synced(lambda: finish_batch(images, flips, self.dtype)), batch)
        return {"copy": copy, "device_augment": finish}

    def _synced(self, work: Callable[[], object]) -> None:
        work()
        synchronize(self.device)


class _Worker:
    """Does what a worker of the torchvision backend does, a job at a time, and adds up the CPU time of each part."""

    def __init__(self, stages: _Stages) -> None:
        size = stages.size
        self._stages, self._cropper, self._decoder = stages, Cropper(size), ImageDecoder()
        self._out = output_array(np.zeros(_JOB * 3 * size * size, np.uint8), size, "uint8")
        self._flips = np.arange(_JOB) % 2 == 0
        self.spent = {"read": 0.0, "decode": 0.0, "augment": 0.0}

    def do(self, number: int) -> int:
        """Job `number` of those that the sample makes, which come again and again; how many images it was."""
        s = self._stages
        begin = number * _JOB % (-(-len(s.sample) // _JOB) * _JOB)
        part = slice(begin, begin + _JOB)
        t0 = time.thread_time()
        jpegs = s.reader.view_many(s.sample[part])
        seeks = s.reader.seek_entries(s.sample[part])
        t1 = time.thread_time()
        plan, n = s.plan[part], len(jpegs)
        self._cropper.jpegs(jpegs, seeks, plan, self._flips[:n], self._out[:n])
        t2 = time.thread_time()
        # A worker decodes some rows and resizes them while they are in the cache, so decoding is timed a second time,
        # alone; the rest of the time is the resize's.
        for i, jpeg in enumerate(jpegs):
            crop = plan.crop(i)
            height, width = crop.size
            self._decoder.box(jpeg, None if seeks is None else seeks[i], height, width, crop.box)
        decoded = min(t2 - t1, time.thread_time() - t2)
        for name, seconds in zip(self.spent, (t1 - t0, decoded, t2 - t1 - decoded), strict=True):
            self.spent[name] += seconds
        return n


def _milliseconds(work: Callable[[], object], images: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of `work` on a batch, per image."""
    work()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < _STAGE_SECONDS / 4:
        start = clock()
        work()
        times.append(clock() - start)
    return float(np.median(times)) / images * 1000
