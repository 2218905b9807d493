"""How all processes of a run come to stop, or to write a checkpoint, after the same step."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from .distributed import Ranks


class Vote:
    """Lets all ranks stop, or write a checkpoint, after the same step when any of them wants to.

    The answer to a step's question is read at the next one, so nobody waits for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._alone = not ranks.joined
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
