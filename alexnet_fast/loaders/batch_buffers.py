"""Batch buffers that are filled again and again, in memory that worker processes can share."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
import weakref
from collections import deque
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError, WorkerError
from ..images import OutputArray, image_tensor, output_array
from ..system import available_memory

if TYPE_CHECKING:
    import torch

ByteArray = npt.NDArray[np.uint8]


class SharedMemory:
    """Anonymous memory that this process and workers of any start method write to; gone when the last of them ends.

    On Linux it is a memfd, which does not count against the size of /dev/shm (64 MiB in a container by default); else
    a temporary file without a name. Nothing is left behind, however a process ends.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        try:
            if descriptor is None:
                if hasattr(os, "memfd_create"):
                    descriptor = os.memfd_create("alexnet-fast-batches", os.MFD_CLOEXEC)
                else:
                    with tempfile.TemporaryFile() as file:
                        descriptor = os.dup(file.fileno())
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        except OSError as error:
            raise WorkerError(
                f"{size / 2**20:.0f} MiB of shared memory for batches cannot be had ({error.strerror or error}): "
                "use a smaller batch"
            ) from None
        self._descriptor = descriptor
        self._closer = weakref.finalize(self, os.close, descriptor)
        self.array: ByteArray = np.frombuffer(self._map, np.uint8)

    def __reduce__(self) -> Any:
        return _attach, (self.size, reduction.DupFd(self._descriptor))


def _attach(size: int, duplicate: Any) -> SharedMemory:
    return SharedMemory(size, duplicate.detach())


class Layout:
    """How batches lie in memory: `count` buffers, each (batch_size, S, S, 3) of one type; picklable."""

    def __init__(self, count: int, batch_size: int, image_size: int, dtype: str) -> None:
        import torch

        self.count, self.batch_size, self.image_size, self.dtype = count, batch_size, image_size, dtype
        self.image_bytes = image_size * image_size * 3 * getattr(torch, dtype).itemsize
        # Whole pages, so that every buffer is aligned for any instruction and can be page-locked by itself.
        self.batch_bytes = math.ceil(batch_size * self.image_bytes / mmap.PAGESIZE) * mmap.PAGESIZE
        self.total_bytes = count * self.batch_bytes

    def check(self) -> None:
        """Refuse what would not fit into this machine's free memory.

        Raises:
            UsageError: it would not.
        """
        free = available_memory()
        if free is not None and self.total_bytes > 0.8 * free:
            raise UsageError(
                f"{self.count} batches of {self.batch_size} images need {self.total_bytes / 2**30:.1f} GiB of memory "
                f"and {free / 2**30:.1f} GiB are free: use a smaller batch"
            )

    def tensor(self, memory: ByteArray) -> torch.Tensor:
        """(n, 3, S, S), channels_last, over the bytes of n images; holds on to this very array."""
        return image_tensor(memory, self.image_size, self.dtype)

    def outputs(self, memory: ByteArray) -> list[OutputArray]:
        """Every buffer as a `Cropper` fills it, made once."""
        whole = (self.part(memory, slot, self.batch_size) for slot in range(self.count))
        return [output_array(part, self.image_size, self.dtype) for part in whole]

    def part(self, memory: ByteArray, slot: int, images: int) -> ByteArray:
        """The bytes of the first `images` in one buffer; a new array each time."""
        begin = slot * self.batch_bytes
        return memory[begin : begin + images * self.image_bytes]


class BatchBuffers:
    """The buffers of one loader, and which of them are free.

    A batch is handed out as it lies in its buffer, and the buffer is free again when the last tensor that views it is
    gone: to allocate and fill a new 77 MB float batch takes 29 ms, most of it page faults (128 x 224 x 224 x 3, one
    core of an AMD EPYC).

    Attributes:
        layout: of the buffers.
        memory: all of them, uint8; a `SharedMemory` stands behind it where one was asked for.
        shared: that, or None.
        free: numbers of the buffers that may be filled.
        spare: number of the last, for batches that are asked for out of turn; the first such takes its memory.
    """

    KEPT = 2  # buffers that a caller may hold: the batch in use and the one it has just asked for

    def __init__(self, layout: Layout, *, shared: bool) -> None:
        layout.check()
        self.layout = layout
        self.shared = SharedMemory(layout.total_bytes) if shared else None
        self.memory: ByteArray = self.shared.array if self.shared else _aligned(layout.total_bytes)
        self.spare = layout.count - 1
        self.free = deque(range(self.spare))
        self._lent = 0

    def lend(self, slot: int, images: int) -> torch.Tensor:
        """The first `images` of a buffer, (images, 3, S, S), for good: a copy where too many are lent already."""
        lent = self.layout.part(self.memory, slot, images)
        if self._lent >= self.KEPT:
            copy = self.layout.tensor(lent).clone()
            self.free.append(slot)
            return copy
        # torch keeps the very array it was given for as long as any tensor views its memory, so the end of that array
        # is the end of the loan.
        self._lent += 1
        weakref.finalize(lent, self._returned, slot).atexit = False
        return self.layout.tensor(lent)

    def page_lock(self, device: torch.device) -> bool:
        """Pin the buffers, so that copies to a CUDA device run beside other work; False where the system refuses."""
        import torch

        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(cudart.cudaHostRegister(self.memory.ctypes.data, self.spare * self.layout.batch_bytes, 0)) != 0:
            # A call that CUDA refuses leaves its error to be raised by the next kernel, which has done nothing wrong
            # (vllm-project/vllm, pull request 50070). torch offers no call that takes it away; a small kernel does.
            with contextlib.suppress(RuntimeError):
                torch.ones(1, device=device)
            return False
        weakref.finalize(self, cudart.cudaHostUnregister, self.memory.ctypes.data).atexit = False
        return True

    def _returned(self, slot: int) -> None:
        self._lent -= 1
        self.free.append(slot)


def _aligned(size: int) -> ByteArray:
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)
