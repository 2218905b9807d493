"""Batches made on the host: workers cut images of a source into reused buffers, for any device."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..dataset import ShardReader
from ..errors import AlexNetFastError, UsageError, WorkerError
from ..images import CropPlan, Flips, draw_crops, draw_flips, finish_batch, plan_eval, plan_train
from ..system import to_device, worker_count
from ..words import counted
from .base import Loader, view_epochs
from .batch_buffers import BatchBuffers, Layout
from .image_sources import CropRequest, ImageSource, TransformedSource, join_requests
from .order import Int64Array
from .transforms import ImageTransform, image_seeds
from .uploads import Uploads
from .workers import CONTEXTS, KINDS, Job, Workers, start_method, start_workers

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig

_DRAWN = 2048  # images whose crops are drawn at once
_SMALL_SIDE = 96  # up to so many pixels a side the images are handed to workers in larger jobs


def _worker_kind() -> str:
    """What workers 'auto' means on this system.

    A thread waits for Python's lock between two images, a process does not. Two workers on two cores of an Intel Xeon
    with AVX512 and no compiled code, threads against forked processes: 64-pixel images 12,700/s against 24,300/s,
    longest side 375 2,960/s against 3,310/s, full-size ImageNet 1,430/s against 1,480/s. Compiled code needs the lock
    once a job, and the two are as fast (64 pixels 54,000/s and 53,000/s); processes then still leave the lock to the
    training loop. Where they cannot be forked safely, starting one takes seconds and wants a guard in the caller's
    script, so that threads are the better choice.
    """
    return "process" if sys.platform == "linux" else "thread"


@dataclass
class Pending:
    """A batch in the making.

    Attributes:
        slot: number of the buffer that it is made in.
        images: how many.
        flips: the device's to do.
        left: jobs that are not over.
        error: of the first job that failed.
    """

    slot: int
    images: int
    flips: Flips
    left: int
    error: AlexNetFastError | None = None


class HostLoader(Loader):
    """A loader with worker threads or processes.

    On the CPU the workers do everything, down to the normalised value, while an image lies in their cache. For another
    device they write uint8 into page-locked memory, and the device flips and normalises the whole batch.

    Attributes:
        num_workers, workers, workers_text: how many of which kind; the same in words.

    Raises:
        UsageError: an option is wrong, or the batches do not fit into memory.
        DamagedDataError: (on iteration) a record is damaged.
        WorkerError: (on iteration) a worker ended.
    """

    reader: ShardReader
    takes_image_transform = True

    def __init__(
        self,
        config: LoaderConfig,
        reader: ShardReader,
        source: ImageSource,
        device: torch.device,
        *,
        workers: str = "auto",
        context: str = "auto",
    ) -> None:
        """
        Args:
            reader: of the split.
            source: what is cut for each of its records.
            workers: 'auto', 'thread' or 'process'.
            context: how worker processes start: 'auto', 'fork' or 'spawn'.
        """
        for name, value, known in (("workers", workers, KINDS), ("context", context, CONTEXTS)):
            if value not in known:
                raise UsageError(f"option {name} must be one of {', '.join(known)}, got {value!r}")
        super().__init__(config, reader.labels, device)
        self.reader, self._source, self._context = reader, source, context
        self.num_workers = worker_count() if config.num_workers == "auto" else config.num_workers
        self.workers = _worker_kind() if workers == "auto" else workers
        self._on_host = device.type == "cpu"
        made = self.dtype if self._on_host else "uint8"
        self._transforms = config.image_transform is not None
        if config.image_transform is not None:
            made = self._add_transform(ImageTransform(config.image_transform, config.image_size), workers, made)
        how = counted(self.num_workers, f"worker {self.workers}")
        self.workers_text = how if self.num_workers else "no workers"
        self._pin = device.type == "cuda" and bool(config.pin_memory)
        self._layout = Layout(
            config.prefetch + BatchBuffers.KEPT + 1, config.batch_size * config.views, config.image_size, made
        )
        self._layout.check()
        self._uploads: Uploads | None = None
        self._buffers: BatchBuffers | None = None
        self._workers: Workers | None = None
        self._next_batch_id = 0
        self._pending: dict[int, Pending] = {}  # by batch id, the oldest first

    def _add_transform(self, transform: ImageTransform, workers: str, made: str) -> str:
        """Let the workers transform each image; returns the type of the images that they then make, by `made` before.

        Threads would take turns, since transforms draw from generators that all threads share, the training loop too.

        Raises:
            UsageError: threads were asked for, or the transform gives floating-point images where uint8 is due.
        """
        if workers == "thread" and self.num_workers:
            raise UsageError(
                "image_transform needs worker processes, since transforms draw from generators that threads share: "
                "leave option workers at auto, or use num_workers=0"
            )
        if self.workers == "thread" and self.num_workers:
            self.workers = "process"
        if start_method(self._context) == "spawn" and self.workers == "process" and self.num_workers:
            transform.check_picklable()
        if transform.gives_floats and self.dtype == "uint8":
            raise UsageError(
                "image_transform returns floating-point images where uint8 ones are asked for: leave converting and "
                "normalising to the loader, or choose another dtype or batch_transform_at"
            )
        self._source = TransformedSource(self._source, transform)
        return self.dtype if transform.gives_floats else made

    def _start(self) -> tuple[BatchBuffers, Workers]:
        if self._buffers is None or self._workers is None:
            self._buffers = BatchBuffers(self._layout, shared=self.workers == "process" and self.num_workers > 0)
            self._workers = start_workers(self.workers, self._source, self._buffers, self.num_workers, self._context)
            pinned = self._pin and self._buffers.page_lock(self.device)
            self._uploads = None if self._on_host else Uploads(self.device, pinned=pinned)
        return self._buffers, self._workers

    def plan(self, epoch: int, records: Int64Array) -> CropPlan:
        """The crops of some records in one epoch."""
        c, heights, widths = self.config, self.reader.heights[records], self.reader.widths[records]
        if c.train:
            boxes = draw_crops(c.augmentation, c.seed, epoch, records, heights, widths)
            return plan_train(boxes, heights, widths, c.image_size)
        return plan_eval(heights, widths, c.image_size, c.eval_resize)

    def _request(self, epoch: int, records: Int64Array) -> CropRequest:
        """One crop of each record; `epoch` is of `view_epochs`."""
        c = self.config
        return CropRequest(
            records,
            self.plan(epoch, records),
            draw_flips(c.augmentation, c.seed, epoch, records) if c.train else None,
            image_seeds(c.seed, epoch, records) if self._transforms else None,
        )

    def _requests(self, epoch: int, batches: Sequence[Int64Array]) -> Iterator[CropRequest]:
        """One a batch; drawn for several batches at once, which costs 0.5 us an image, not 4."""
        views = self.config.views
        several = max(1, _DRAWN // self.config.batch_size)
        for first in range(0, len(batches), several):
            some = batches[first : first + several]
            n = sum(map(len, some))
            drawn = join_requests([self._request(e, np.concatenate(some)) for e in view_epochs(epoch, views)])
            begin = 0
            for records in some:
                starts = range(begin, views * n, n)  # of this batch in each view
                yield join_requests([drawn[start : start + len(records)] for start in starts])
                begin += len(records)

    def _submit(self, workers: Workers, slot: int, request: CropRequest) -> int:
        """Hand a batch's jobs to the workers; returns its batch id."""
        batch_id, self._next_batch_id = self._next_batch_id, self._next_batch_id + 1
        flips = None
        if not (self._on_host or self._transforms):
            flips, request = request.flips, replace(request, flips=None)
        size = self._job_size(len(request))
        firsts = range(0, len(request), size)
        self._pending[batch_id] = Pending(slot, len(request), flips, len(firsts))
        try:
            for first in firsts:
                workers.submit(Job(batch_id, slot, first, request[first : first + size]))
        except WorkerError:
            self._stop()
            raise
        return batch_id

    def _job_size(self, images: int) -> int:
        """Images a job, of a batch of so many.

        A job of 16 small images is over in half a millisecond, of which waking a worker is a good part; of large ones
        the last job of an epoch should not keep the other workers waiting.
        """
        most, each = (64, 1) if self.config.image_size <= _SMALL_SIDE else (16, 2)
        return max(1, min(most, images // max(1, each * self.num_workers)))

    def _collect(self, workers: Workers) -> None:
        try:
            result = workers.collect()
        except WorkerError:
            self._stop()  # the next pass starts new workers
            raise
        pending = self._pending[result.batch_id]
        pending.left -= 1
        pending.error = pending.error or result.error

    def _drain(self) -> None:
        """Drop the batches in the making, once no worker writes into them any more."""
        if self._workers is None or self._buffers is None:
            return
        self._workers.cancel_before(self._next_batch_id)
        for pending in self._pending.values():
            while pending.left:
                self._collect(self._workers)
            self._buffers.free.append(pending.slot)
        self._pending.clear()

    def _images(self, epoch: int, batches: Sequence[Int64Array]) -> Generator[torch.Tensor, None, None]:
        buffers, workers = self._start()
        self._drain()  # what an interrupted pass left
        requests, submitted = self._requests(epoch, batches), 0
        try:
            while True:
                while (
                    buffers.free
                    and len(self._pending) <= self.config.prefetch
                    and (request := next(requests, None)) is not None
                ):
                    self._await_shards(submitted)
                    submitted += 1
                    self._submit(workers, buffers.free.popleft(), request)
                if not self._pending:
                    return
                batch_id, pending = next(iter(self._pending.items()))
                while pending.left:
                    self._collect(workers)
                del self._pending[batch_id]
                if pending.error is not None:
                    buffers.free.append(pending.slot)
                    raise pending.error
                yield self._hand_out(buffers, pending)
        finally:
            self._drain()

    def _read(self, epoch: int, records: Int64Array) -> torch.Tensor:
        buffers, workers = self._start()
        (request,) = self._requests(epoch, [records])
        batch_id = self._submit(workers, buffers.spare, request)
        pending = self._pending[batch_id]
        try:
            while pending.left:
                self._collect(workers)
        finally:
            while pending.left and self._workers is workers:  # interrupted: the buffer is still written to
                self._collect(workers)
            self._pending.pop(batch_id, None)
        if pending.error is not None:
            raise pending.error
        images = self._layout.tensor(self._layout.part(buffers.memory, pending.slot, pending.images))
        if self._on_host:
            return images.clone()
        return self._finish_on_device(images.to(self.device), pending.flips)

    def _hand_out(self, buffers: BatchBuffers, pending: Pending) -> torch.Tensor:

        images = buffers.lend(pending.slot, pending.images)
        if self._uploads is None:
            return images
        finished = self._finish_on_device(self._uploads.send(images), pending.flips)
        self._uploads.mark()
        return finished

    def _finish_on_device(self, images: torch.Tensor, flips: Flips) -> torch.Tensor:
        import torch

        if self._layout.dtype != "uint8":  # an image transform has finished them
            return images
        there = None if flips is None else to_device(torch.from_numpy(flips), self.device)
        return finish_batch(images, there, getattr(torch, self.dtype))

    def _stop(self) -> None:
        """Give up workers and buffers; batches that were lent stay valid."""
        if self._uploads is not None:
            self._uploads.wait()
        workers, self._workers, self._buffers, self._uploads = self._workers, None, None, None
        self._pending.clear()
        if workers is not None:
            workers.cancel_before(self._next_batch_id)
            workers.close()

    def close(self) -> None:
        self._stop()
        super().close()

    def __del__(self) -> None:
        if getattr(self, "_workers", None) is not None:
            self._stop()
