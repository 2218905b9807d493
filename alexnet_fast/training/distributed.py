"""This process among those that train together: one alone, or one of those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ..errors import AlexNetFastError, UsageError
from ..system import choose_device, use_device

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Who this process is.

    Attributes:
        rank, world_size: its number among all, and how many there are.
        device: where it computes; with CUDA, each process of a node has its own GPU.
        joined: whether a process group joins them. torchrun makes one of a single process too, so that one GPU shows
            how many will run.
    """

    rank: int
    world_size: int
    device: torch.device
    joined: bool = False

    @property
    def is_main(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place."""
        if self.joined:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for all."""
        if self.joined:
            dist.barrier()

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on the main process, for all ranks; an error that it raises there is raised on all.

        Small, picklable results only.
        """
        if not self.joined:
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

    What torchrun sets in the environment is its own interface.

    Raises:
        UsageError: the device is not there, or more processes than GPUs were started on a node.
        AlexNetFastError: the processes do not reach each other, or another ended in the midst of the work.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    # A launcher of jobs may announce a single process and mean none; torchrun leaves its mark.
    if "RANK" not in os.environ or (world_size == 1 and "TORCHELASTIC_RUN_ID" not in os.environ):
        alone = choose_device(device)
        use_device(alone)
        yield Ranks(0, 1, alone)
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing and not dist.is_initialized():
        raise UsageError(
            f"RANK and WORLD_SIZE are set in the environment, but not {' and '.join(missing)}: start the processes "
            "with torchrun, which sets them all, or unset RANK and WORLD_SIZE to train alone"
        )
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
        use_device(chosen)
    already = dist.is_initialized()
    if not already:
        _meet("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), chosen, joined=True)
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise AlexNetFastError(
            "another process of this run has ended, so this one cannot go on: with `torchrun --max-restarts N` and "
            "--resume all are started anew from the last checkpoint"
        ) from None
    finally:
        if not already:
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    restarts, world_size = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ["WORLD_SIZE"]
    try:
        if restarts == "0" or os.environ.get("LOCAL_WORLD_SIZE") != world_size:
            dist.init_process_group(backend)
            return
        # torchrun keeps its store over a restart, so the new processes would call at the dead ones' addresses
        # (pytorch/pytorch issue 135712). Over several nodes the count is not the same on all; there a variable helps,
        # see docs/training.md.
        store, rank, _ = next(rendezvous("env://"))
        dist.init_process_group(
            backend, store=PrefixStore(f"restart-{restarts}", store), rank=rank, world_size=int(world_size)
        )
    except RuntimeError as error:
        raise AlexNetFastError(
            f"the processes of this run do not reach each other ({str(error).splitlines()[0]}): check that every node "
            "reaches MASTER_ADDR and MASTER_PORT, and GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME where there are several "
            "networks"
        ) from None


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed since its other side is gone; gloo tells that by words alone."""
    return isinstance(error, dist.DistError) or any(
        words in str(error) for words in ("closed by peer", "reset by peer", "Broken pipe", "Socket closed")
    )
