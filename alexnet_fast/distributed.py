"""This process among those that train together: one alone, or one of those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from .device import choose_device
from .errors import AlexNetFastError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Who this process is.

    Attributes:
        rank, world_size: its number among all, and how many there are.
        device: where it computes; with CUDA, each process of a node has its own GPU.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            dist.barrier()

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on the main process, for all ranks; an error that it raises there is raised on all.

        Small, picklable results only.
        """
        if self.world_size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = work()
            except AlexNetFastError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]  # type: ignore[no-any-return]


@contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Join the process group that torchrun announces in the environment, if any, and leave it at the end.

    RANK, WORLD_SIZE and LOCAL_RANK are torchrun's own interface, and the only environment this package reads.

    Raises:
        UsageError: the device is not there, or more processes than GPUs were started on a node.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or "RANK" not in os.environ:
        yield Ranks(0, 1, choose_device(device))
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device)
    if chosen.type == "mps":
        raise UsageError("training with several processes runs on CUDA or the CPU: use --device cpu")
    if chosen.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started process {local_rank} of this node, which has {torch.cuda.device_count()} GPUs: "
                f"use --nproc-per-node {torch.cuda.device_count()}"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    already = dist.is_initialized()
    if not already:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if not already:
            dist.destroy_process_group()


class StopVote:
    """Lets all ranks stop after the same step when any of them was asked to.

    The answer to a step's question is read at the next one, so nobody waits for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._alone = ranks.world_size == 1
        self._group: Any = None if self._alone else dist.new_group(backend="gloo")
        self._asked: tuple[torch.Tensor, Any] | None = None

    def __call__(self, wish: int) -> int:
        """Pass this rank's wish (0: go on, else a signal's number); the answer is the highest wish of one step ago."""
        if self._alone:
            return wish
        answer = 0
        if self._asked is not None:
            flag, work = self._asked
            work.wait()
            answer = int(flag.item())
        flag = torch.tensor([wish])
        self._asked = (flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True))
        return answer
