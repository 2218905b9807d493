"""The times of a run: how long it has taken, how fast its steps are, and how much of that is waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ..system import synchronize

T = TypeVar("T")


class Clock:
    """Measures one start of a run, and goes on with the times of the starts before it.

    The first step of a start is warm-up (workers, compilation, first allocations); it counts in `seconds` alone.

    Attributes:
        seconds: wall time of the run up to its last checkpoint, over all its starts.
        warm_up_seconds: from this start to the end of its first step; 0.0 before that.
        epoch_seconds, epoch_wait, timed_steps: of this epoch's steps: their time, the share of it (seconds) that the
            device stood idle for want of a batch, and their number.
        between: seconds that the last validation and checkpoint took; 0.0 before there was one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = self.warm_up_seconds = 0.0
        self.epoch_seconds = self.epoch_wait = 0.0
        self.timed_steps = 0
        self._started_at = self._saved_at = time.perf_counter()
        self.between = 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; what the caller does between two of them is the step that is timed.

        A wait counts only while the device has nothing left to do, since the host runs ahead of a GPU.
        """
        source = iter(batches)
        cuda = self._device.type == "cuda"
        idle: Any = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        mark = time.perf_counter()
        while True:
            begin = time.perf_counter()
            batch = next(source, None)
            waited = time.perf_counter() - begin
            if batch is None:
                break
            busy = idle is not None and not idle.query()
            yield batch
            if idle is not None:
                idle.record()
            now = time.perf_counter()
            if self.warm_up_seconds == 0:
                synchronize(self._device)
                now = time.perf_counter()
                self.warm_up_seconds = now - self._started_at
            else:
                self.epoch_seconds += now - mark
                self.epoch_wait += 0.0 if busy else waited
                self.timed_steps += 1
            mark = now
        synchronize(self._device)
        self.epoch_seconds += time.perf_counter() - mark

    @contextmanager
    def between_epochs(self) -> Iterator[None]:
        """Around what stands between two epochs: validation and checkpoint."""
        begin = time.perf_counter()
        yield
        self.between = time.perf_counter() - begin

    @property
    def wait(self) -> float:
        """The share of this epoch's time that went by waiting for data."""
        return self.epoch_wait / self.epoch_seconds if self.epoch_seconds else 0.0

    def images_per_s(self, batch_size: int) -> float | None:
        """The rate of this epoch's steps; None before one was timed."""
        return self.timed_steps * batch_size / self.epoch_seconds if self.timed_steps else None

    def start_epoch(self) -> None:
        """Begin an epoch at its first step."""
        self.epoch_seconds = self.epoch_wait = 0.0
        self.timed_steps = 0

    def pace(self, steps_per_epoch: int, last_epoch: float | None) -> float | None:
        """Seconds a step of this epoch, or of the epoch before, which took `last_epoch` seconds; None before either."""
        if self.timed_steps:
            return self.epoch_seconds / self.timed_steps
        return None if last_epoch is None else last_epoch / steps_per_epoch

    @property
    def since_saved(self) -> float:
        """Seconds since the last checkpoint."""
        return time.perf_counter() - self._saved_at

    def save(self) -> None:
        """Bring `seconds` up to now: a checkpoint is about to be written."""
        now = time.perf_counter()
        self.seconds += now - self._saved_at
        self._saved_at = now

    def state(self) -> list[float]:
        """What a checkpoint holds of it."""
        return [self.seconds, self.epoch_seconds, self.epoch_wait, self.timed_steps]

    def load(self, state: list[Any]) -> None:
        """Go on from what `state` returned."""
        seconds, epoch_seconds, epoch_wait, timed_steps = state
        self.seconds, self.epoch_seconds, self.epoch_wait = float(seconds), float(epoch_seconds), float(epoch_wait)
        self.timed_steps = int(timed_steps)
