"""What a sweep has to know before it begins: the machine, the data set, and what each stage of reading costs."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataset import ShardReader
from ..errors import UsageError
from ..images import (
    Cropper,
    ImageDecoder,
    finish_batch,
    output_array,
    plan_train,
    sample_crops,
    sample_flips,
)
from ..loaders import epoch_order
from ..system import (
    cgroup_cpu_quota,
    choose_device,
    cpu_name,
    device_name,
    memory_bytes,
    synchronize,
    usable_cores,
    versions,
)
from .scaling import measure_scaling

if TYPE_CHECKING:
    import torch

_SAMPLE = 128  # records that each stage is measured on, at most
_STAGE_SECONDS = 1.0  # and for how long
_JOB = 16  # images a job, as the loader's
_MOST_AT_ONCE = 8  # threads, and processes, whose scaling is measured
_PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "simplejpeg", "lmdb", "numpy")


def probe(task: dict[str, Any], emit: Callable[..., None]) -> None:
    """Emit ``ready``, ``environment``, ``stage`` after each stage, and ``stages``.

    Args:
        task: dataset, split, image_size, batch_size, device, seed, warm_seconds.
    """
    from ..models import choose_precision

    device = choose_device(task["device"])
    # The type that training asks its loader for here.
    task = {**task, "dtype": str(choose_precision("auto", device).dtype).removeprefix("torch.")}
    emit("ready")
    reader = ShardReader(task["dataset"], task["split"])
    if not len(reader):
        raise UsageError(f"split {task['split']!r} of {task['dataset']} holds no images: pack some first")
    emit("environment", **_environment(task, reader, device))
    stages = _Stages(task, reader, device)
    results: dict[str, Any] = {}
    for measure in (stages.read_cold, stages.work, stages.threads, stages.hand_over, stages.device_side):
        results |= measure()
        emit("stage")  # a sign of life
    emit("stages", **results)
    # All settings read the same records first, so the page cache must hold these for the first of them too.
    stages.warm(task["warm_seconds"])


def _environment(task: dict[str, Any], reader: ShardReader, device: torch.device) -> dict[str, Any]:
    total, available = memory_bytes()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    backend, workers = _automatic(task, device)
    return {
        "device": device.type,
        "device_name": device_name(device),
        "machine": cpu_name(),
        "cores": os.cpu_count() or 1,
        "affinity": affinity,
        "cpu_quota": cgroup_cpu_quota(),
        "usable_cores": usable_cores(),
        "memory_bytes": total,
        "memory_available_bytes": available,
        "dataset": Path(task["dataset"]).resolve().name,
        "split": task["split"],
        "records": len(reader),
        "bytes": reader.split_info.bytes,
        "classes": reader.info.num_classes,
        "median_width": int(np.median(reader.index["width"])),
        "median_height": int(np.median(reader.index["height"])),
        "dtype": task["dtype"],
        "backends": runnable_backends(task, reader, device),
        "auto_backend": backend,
        "auto_workers": workers,
        "versions": {**versions(*_PACKAGES), "system": f"{platform.system()} {platform.machine()}"},
    }


def _sample_loader(task: dict[str, Any], backend: str) -> Any:
    from ..config import LoaderConfig
    from ..loaders import open_loader

    return open_loader(
        LoaderConfig(
            dataset=task["dataset"], split=task["split"], train=True, backend=backend, device=task["device"],
            batch_size=task["batch_size"], image_size=task["image_size"], dtype=task["dtype"], seed=task["seed"],
        )
    )  # fmt: skip


def _automatic(task: dict[str, Any], device: torch.device) -> tuple[str, int]:
    """Backend and number of workers that 'auto' takes here: what a run without --loader-settings reads with."""
    with _sample_loader(task, "auto") as loader:
        name = loader.backend
        workers = getattr(loader, "num_workers", None)
    return name, usable_cores() if workers is None else int(workers)


def runnable_backends(task: dict[str, Any], reader: ShardReader, device: torch.device) -> list[str]:
    """Backends that can read this split here, the most usual first; the ceiling, synthetic, is not one."""
    found = []
    for name in ("torchvision", "dali", "resident"):
        with contextlib.suppress(UsageError, ImportError), _sample_loader(task, name):
            found.append(name)
    return found


class _Stages:
    """Times the stages one after another in one thread, on images as the first epoch draws them."""

    def __init__(self, task: dict[str, Any], reader: ShardReader, device: torch.device) -> None:
        import torch

        self._task, self.reader, self.device = task, reader, device
        self.dtype = getattr(torch, task["dtype"])
        self._order = epoch_order(len(reader), seed=task["seed"], epoch=0)
        self.sample = self._order[:_SAMPLE]
        self.rows = reader.index[self.sample]
        self.size = int(task["image_size"])
        boxes = sample_crops(task["seed"], 0, self.sample, self.rows["height"], self.rows["width"])
        self.plan = plan_train(boxes, self.rows["height"], self.rows["width"], self.size)

    def read_cold(self) -> dict[str, float | None]:
        """Records of one shard, just after that shard was dropped from the page cache.

        One shard alone is dropped: the cache may be another program's too.
        """
        starts = np.cumsum([0] + [shard.records for shard in self.reader.split_info.shards])
        shard = int(np.argmax(np.diff(starts)))
        data = self.reader.dataset / self.reader.split_info.shards[shard].path / "data.mdb"
        records = self._order[(self._order >= starts[shard]) & (self._order < starts[shard + 1])][:_SAMPLE]
        self.reader.close()  # a mapped page is not dropped
        if not drop_from_page_cache(data):
            return {"read_cold": None}
        begin, count = time.perf_counter(), 0
        for record in records:
            self.reader.read(int(record))
            count += 1
            if time.perf_counter() - begin > 2 * _STAGE_SECONDS:
                break
        return {"read_cold": (time.perf_counter() - begin) / count * 1000}

    def work(self) -> dict[str, float]:
        """Read (from the cache), decode the crop's region, resize, on the CPU finish; and what collating would cost."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            worker = _Worker(self)
            worker.do(0)  # buffers and code paths are there from here on
            worker.spent = dict.fromkeys(worker.spent, 0.0)
            count = job = 0
            while (total := sum(worker.spent.values())) < _STAGE_SECONDS or count < len(self.sample):
                count += worker.do(job)
                job += 1
                if total > 4 * _STAGE_SECONDS:
                    break
        finally:
            torch.set_num_threads(threads)
        spent = {name: seconds / count * 1000 for name, seconds in worker.spent.items()}
        if self.device.type == "cpu":
            spent["device_augment"] = self._normalising()
        images = list(self._empty_batch(int(self._task["batch_size"])))
        return spent | {"collate": _milliseconds(lambda: torch.stack(images), len(images))}

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
            return _milliseconds(lambda: cropper.pixels(pixels, numbers, plan, None, out), count)

        return max(0.0, milliseconds(self._task["dtype"], self.dtype.itemsize) - milliseconds("uint8", 1))

    def _empty_batch(self, count: int) -> torch.Tensor:
        import torch

        return torch.zeros((count, self.size, self.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def threads(self) -> dict[str, float | int | None]:
        """How far threads of one process get in each other's way, and how far processes do in the same seconds."""
        count = min(usable_cores(), _MOST_AT_ONCE)
        if count < 2:
            return {"threads": None, "thread_scaling": None, "process_scaling": None}
        scaling = measure_scaling(_Maker(self), count, self._context())
        return {"threads": count, "thread_scaling": scaling.threads, "process_scaling": scaling.processes}

    def _context(self) -> Any:
        import torch.multiprocessing as mp

        # A process that uses a GPU must not fork; where it may, that is what a DataLoader does.
        fork = "fork" in mp.get_all_start_methods() and self.device.type == "cpu"
        return mp.get_context("fork" if fork else "spawn")

    def hand_over(self) -> dict[str, float | None]:
        """A uint8 batch from another process to this one, through shared memory, as a DataLoader's worker hands it."""
        context = self._context()
        asked, handed = context.SimpleQueue(), context.Queue()
        batch = int(self._task["batch_size"])
        worker = context.Process(target=_hand_batches, args=(asked, handed, batch, self.size), daemon=True)
        worker.start()
        try:
            times = []
            for _ in range(12):
                asked.put(True)
                begin = time.perf_counter()
                images = handed.get(timeout=60)
                times.append(time.perf_counter() - begin)
                del images
        finally:
            asked.put(False)
            worker.join(10)
        return {"hand_over": float(np.median(times[2:])) / batch * 1000}

    def device_side(self) -> dict[str, float]:
        """Host to device, then flip and normalise there."""
        import torch

        if self.device.type == "cpu":
            return {"copy": 0.0}  # a worker's image is where it is wanted, finished
        batch = int(self._task["batch_size"])
        host = self._empty_batch(batch)
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

    def warm(self, seconds: float) -> None:
        """Bring the records that the sweep will read first into the page cache, for so long at most."""
        begin = time.perf_counter()
        for record in self._order:
            self.reader.read(int(record))
            if time.perf_counter() - begin > seconds:
                return


class _Worker:
    """Does what a worker of the torchvision backend does, a job at a time, and adds up how long each part takes."""

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
        t0 = time.perf_counter()
        jpegs = s.reader.view_many(s.sample[part])
        t1 = time.perf_counter()
        plan, n = s.plan[part], len(jpegs)
        begin_cpu = time.thread_time()
        self._cropper.jpegs(jpegs, None, plan, self._flips[:n], self._out[:n])
        t2 = time.perf_counter()
        # A worker decodes some rows and resizes them while they are in the cache, so decoding is timed a second time,
        # alone; the rest of the time is the resize's. Shares of CPU time, since other programs may take the core.
        end_cpu = time.thread_time()
        for i, jpeg in enumerate(jpegs):
            crop = plan.crop(i)
            height, width = crop.size
            self._decoder.box(jpeg, None, height, width, crop.box)
        decoded = (t2 - t1) * min(1.0, (time.thread_time() - end_cpu) / (end_cpu - begin_cpu))
        for name, seconds in zip(self.spent, (t1 - t0, decoded, t2 - t1 - decoded), strict=True):
            self.spent[name] += seconds
        return n


class _Maker:
    """Makes what a thread or a process of its own needs to go through the sample; may be sent to another process."""

    def __init__(self, stages: _Stages) -> None:
        self._stages = stages

    def __call__(self, number: int, count: int) -> Callable[[], None]:
        """Work of number `number` of so many: a job a call."""
        import torch

        torch.set_num_threads(1)
        worker, jobs = _Worker(self._stages), itertools.count(number, count)

        def work() -> None:
            worker.do(next(jobs))

        return work


def _hand_batches(asked: Any, handed: Any, batch: int, size: int) -> None:
    import torch

    torch.set_num_threads(1)
    made = torch.zeros((batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    while asked.get():
        handed.put(made.clone())


def _milliseconds(work: Callable[[], object], images: int) -> float:
    """Median time of `work` on a batch, per image."""
    work()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < _STAGE_SECONDS / 4:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / images * 1000


def drop_from_page_cache(path: Path) -> bool:
    """Drop a file's clean pages from the page cache; False where the system cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
