"""Asking a run to stop or to write a checkpoint, and how all its processes come to do so after the same step."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from .distributed import Ranks

if TYPE_CHECKING:
    from types import TracebackType


class Stops:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the step; a second Ctrl-C ends at once.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.wish = 0
        self._old: dict[int, Any] = {}

    def _take(self, number: int, frame: object) -> None:
        if self.wish and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wish = number

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Vote:
    """Lets all ranks stop, or write a checkpoint, after the same step when any of them wants to.

    The answer to a step's question is read at the next one, so nobody waits for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._alone = ranks.world_size == 1
        self._group: Any = None if self._alone else dist.new_group(backend="gloo")
        self._asked: tuple[torch.Tensor, Any] | None = None

    def __call__(self, stop: int, save: bool) -> tuple[int, bool]:
        """Pass this rank's wishes (`stop`: 0 to go on, else a signal's number); the answer is what any of them wished
        one step ago.
        """
        if self._alone:
            return stop, save
        answer = (0, False)
        if self._asked is not None:
            flags, work = self._asked
            work.wait()
            answer = (int(flags[0]), bool(flags[1]))
        flags = torch.tensor([stop, int(save)])
        self._asked = (flags, dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True))
        return answer
