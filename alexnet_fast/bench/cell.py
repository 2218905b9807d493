"""One measurement in a process of its own: ``python -m alexnet_fast.bench.cell``.

A task comes as a line of JSON on stdin, events go out as lines of JSON on stdout. So a crash, a hang or a leak of one
setting stays its own, the peak of memory is that setting's alone, and each start-up is a real one. When stdin closes
(the sweep has died), the process ends itself and all that it started.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import AlexNetFastError, DamagedDataError, UsageError
from ..system import synchronize
from .processes import busy_seconds, possible_cpu_seconds, tree_usage
from .results import BASELINE

Emit = Callable[..., None]


def main() -> None:
    """Read a task, carry it out, report."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the events

    def emit(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, **values}) + "\n")

    task = json.loads(_read_line())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _KINDS[task["kind"]](task, emit)
    except AlexNetFastError as error:
        emit("failed", reason=str(error), damaged=isinstance(error, DamagedDataError))
    except Exception as error:  # whatever a backend raises becomes the row's reason
        text = str(error).strip().splitlines()
        emit("failed", reason=f"{type(error).__name__}: {text[0] if text else 'no message'}")
    emit("end")
    out.flush()
    os._exit(0)  # nothing is left to save, and a backend's own shutdown may take seconds


def _read_line() -> str:
    # Unbuffered: what follows the line belongs to the thread that watches for the end.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(1)
        line += byte
    return line.decode()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


# ---------------------------------------------------------------------------------------------------------------------
# A loader


class Source:
    """Something that hands out batches, epoch after epoch: one of our loaders, or ImageFolder under a DataLoader.

    Args:
        task: loader (arguments of LoaderConfig, or of the baseline), persistent (keep workers between epochs).

    Attributes:
        batch_size: images in a batch.
        stride: batches that come together, so that a time is taken over a multiple of them: a DataLoader's workers
            each make whole batches and finish them in one burst; our workers share each batch.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self._task, self._epoch = task, 0
        arguments = task["loader"]
        self.batch_size = int(arguments["batch_size"])
        self.stride = 1
        self._iterable: Any = None
        if arguments["backend"] == BASELINE:
            self.stride = max(1, int(arguments["num_workers"]))
        self._open()

    def _open(self) -> None:
        from ..config import LoaderConfig
        from ..loaders import open_loader

        arguments = self._task["loader"]
        if arguments["backend"] == BASELINE:
            self._iterable = _image_folder(arguments, self._task["persistent"])
        else:
            self._iterable = open_loader(LoaderConfig(**arguments, start_epoch=self._epoch))
        self.steps = len(self._iterable)
        if self.steps == 0:
            raise UsageError(
                f"a batch of {self.batch_size} is more than the split has images: give a smaller --batch-size"
            )

    def epoch(self) -> Iterator[Any]:
        """The batches of the next epoch, on the device."""
        if self._epoch and not self._task["persistent"] and hasattr(self._iterable, "close"):
            self._iterable.close()
            self._open()
        self._epoch += 1
        if self._task["loader"]["backend"] == BASELINE:
            return _to_device(self._iterable, self._task["device"])
        return iter(self._iterable)

    @property
    def worker_kind(self) -> str | None:
        """'thread' or 'process'; None where a backend has workers of its own."""
        if self._task["loader"]["backend"] == BASELINE:
            return "process"
        return getattr(self._iterable, "workers", None)

    def close(self) -> None:
        if hasattr(self._iterable, "close"):
            self._iterable.close()
        self._iterable = None


def _image_folder(arguments: dict[str, Any], persistent: bool) -> Any:
    """What PyTorch's ImageNet example does: ImageFolder, RandomResizedCrop, flip, ToTensor, Normalize, DataLoader."""
    from torch.utils.data import ConcatDataset, DataLoader
    from torchvision import datasets, transforms

    from ..images import IMAGENET_MEAN, IMAGENET_STD

    steps = [
        transforms.RandomResizedCrop(arguments["image_size"]),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    workers = arguments["num_workers"]
    folder = datasets.ImageFolder(arguments["folder"], transforms.Compose(steps))
    return DataLoader(
        ConcatDataset([folder] * arguments.get("times", 1)),
        batch_size=arguments["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=arguments["pin_memory"],
        persistent_workers=persistent and workers > 0,
        prefetch_factor=arguments["prefetch"] if workers else None,
    )


def _to_device(batches: Iterable[Any], device: str) -> Iterator[Any]:
    for images, labels in batches:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def measure_loader(task: dict[str, Any], emit: Emit) -> None:
    """Start-up, whole epochs where these are short, and images/s in the middle of epochs."""
    import torch  # noqa: F401 - a training program has imported it before it opens a loader

    if task["loader"]["backend"] == BASELINE:
        import torchvision  # noqa: F401 - and this

    device = task["device"]
    synchronize(device)  # makes CUDA's context, which is no part of a loader's start
    emit("ready")
    begin = time.perf_counter()
    source = Source(task)
    emit("opened", seconds=time.perf_counter() - begin, worker_kind=source.worker_kind)
    epoch = source.epoch()
    next(epoch)
    synchronize(device)
    emit("first_batch", seconds=time.perf_counter() - begin)
    if task["whole_epochs"]:
        _time_whole_epochs(source, epoch, begin, device, emit)
    if "steady" in task:
        source.close()
        task = {**task, "loader": {**task["loader"], **task["steady"]}}
        source = Source(task)
        epoch = source.epoch()
        next(epoch)
    slice_ = _Slice(source, epoch, device)
    slice_.run(task["seconds"])
    emit(
        "slice", images_per_s=slice_.images_per_s, cpu_seconds_per_1k_images=slice_.per_1k(slice_.cpu_seconds),
        cpu_wait_seconds_per_1k_images=slice_.per_1k(slice_.wait_seconds), epoch_gap_s=slice_.epoch_gap_s,
        other_cores=slice_.other_cores,
    )  # fmt: skip
    source.close()


def _time_whole_epochs(source: Source, epoch: Iterator[Any], begin: float, device: str, emit: Emit) -> None:
    for _ in epoch:
        pass
    synchronize(device)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in source.epoch():
        pass
    synchronize(device)
    emit("epochs", first_epoch_s=first, later_epoch_s=time.perf_counter() - begin)


class _Slice:
    """A stretch of reading, timed in the middle of epochs: what was begun while workers start does not count."""

    def __init__(self, source: Source, epoch: Iterator[Any], device: str) -> None:
        self._source, self._epoch, self._device = source, epoch, device
        self._clock, self._timed, self._all = 0.0, 0, 0  # batches: those timed, and all since CPU time is counted
        self.cpu_seconds: float | None = None
        self.wait_seconds: float | None = None
        self.other_cores: float | None = None
        self.epoch_gap_s: float | None = None

    @property
    def images_per_s(self) -> float:
        return self._timed * self._source.batch_size / self._clock

    def per_1k(self, seconds: float | None) -> float | None:
        """`seconds` of the whole stretch, per 1,000 images."""
        return None if seconds is None else seconds / (self._all * self._source.batch_size) * 1000

    def run(self, seconds: float) -> None:
        """Read until `seconds` are timed."""
        self._skip()
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._all, begin_cpu, busy = 0, time.perf_counter(), busy_seconds(cores)
        before = tree_usage(os.getpid())
        while True:
            counted = self._segment(seconds - self._clock)
            if self._timed and self._clock >= seconds:
                break
            if not counted:
                self._whole_epochs(seconds)
                break
            begin = time.perf_counter()
            self._epoch = self._source.epoch()
            next(self._epoch)
            synchronize(self._device)
            self.epoch_gap_s = time.perf_counter() - begin
            self._all += 1
            self._skip()
        after = tree_usage(os.getpid())
        if before is not None and after is not None:
            seconds, now = time.perf_counter() - begin_cpu, busy_seconds(cores)
            self.cpu_seconds = possible_cpu_seconds(before, after, seconds)
            if busy is not None and now is not None and self.cpu_seconds is not None:
                self.other_cores = max(0.0, (now - busy - self.cpu_seconds) / seconds)
            if before.wait_seconds is not None and after.wait_seconds is not None:
                self.wait_seconds = max(0.0, after.wait_seconds - before.wait_seconds)

    def _skip(self) -> None:
        """Pass over what was begun before all workers were at work."""
        for _ in range(2 * self._source.stride):
            if next(self._epoch, None) is None:
                return
            self._all += 1

    def _whole_epochs(self, seconds: float) -> None:
        """For an epoch too short to have a middle: its start and end are in the figure then."""
        begin = time.perf_counter()
        self._timed, self._clock = 0, 0.0
        while self._clock < seconds:
            self._timed += sum(1 for _ in self._source.epoch())
            synchronize(self._device)
            self._clock = time.perf_counter() - begin
        self._all += self._timed

    def _segment(self, seconds: float) -> int:
        """Time the rest of this epoch, or `seconds` of it; returns how many batches counted."""
        synchronize(self._device)
        begin, count, ended = time.perf_counter(), 0, 0.0
        for batch in self._epoch:
            del batch
            count += 1
            self._all += 1
            if count % self._source.stride == 0:
                ended = time.perf_counter() - begin
                if ended >= seconds:
                    synchronize(self._device)
                    ended = time.perf_counter() - begin
                    break
        counted = count - count % self._source.stride
        self._timed += counted
        self._clock += ended if counted else 0.0
        return counted


def _probe(task: dict[str, Any], emit: Emit) -> None:
    from .probe import probe

    probe(task, emit)


def _demand(task: dict[str, Any], emit: Emit) -> None:
    from .demand import measure_demand

    measure_demand(task, emit)


_KINDS: dict[str, Callable[[dict[str, Any], Emit], None]] = {
    "loader": measure_loader,
    "probe": _probe,
    "demand": _demand,
}

if __name__ == "__main__":
    main()
