"""Decodes on the host, on any machine: workers fill uint8 batches, the rest runs batched on the device."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import AlexNetFastError, UsageError, WorkerError
from ..images import (
    DECODERS,
    CropPlan,
    Flips,
    check_decoder,
    draw_crops,
    draw_flips,
    finish_batch,
    plan_eval,
    plan_train,
)
from ..system import choose_device, usable_cores
from .base import Batch, Loader, check_options
from .batch_buffers import BatchBuffers, Layout
from .image_sources import EncodedImages, Images
from .workers import CONTEXTS, KINDS, Job, Task, Workers, start_workers

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig

Records = npt.NDArray[np.int64]
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


class TorchvisionLoader(Loader):
    """Reads a packed split with worker threads or processes.

    On the CPU the workers do everything, down to the normalised value, while an image lies in their cache. For another
    device they write uint8 into page-locked memory, and the device flips and normalises the whole batch.

    Options: ``workers`` ('auto', 'thread', 'process'), ``context`` ('auto', 'fork', 'spawn': how worker
    processes start), ``decoder`` ('auto', 'native', 'simplejpeg', 'nvimgcodec': see `Cropper`), ``chunk``
    (images a job; 'auto'). On Linux 'auto' workers are forked processes, elsewhere threads.

    Attributes:
        num_workers, workers, workers_text: how many of which kind; the same in words.
        stats: batches handed out, bytes of JPEG behind them, seconds spent waiting for workers.

    Raises:
        UsageError: the data set, the split or the device is not there, or an option is unknown.
        MissingDependencyError: the decoder that was asked for is not there.
        DamagedDataError: the data set, or (on iteration) a record, is damaged.
        WorkerError: a worker ended (on iteration).
    """

    def __init__(self, config: LoaderConfig, images: Images | None = None, reader: ShardReader | None = None) -> None:
        """
        Args:
            images: what is cut instead of the split's records, record for record.
            reader: of the split, where it is open already.
        """
        options = check_options(config, "torchvision", workers="auto", context="auto", chunk="auto", decoder="auto")
        for name, known in (("workers", KINDS), ("context", CONTEXTS), ("decoder", DECODERS)):
            if options[name] not in known:
                raise UsageError(f"option {name} must be one of {', '.join(known)}, got {options[name]!r}")
        check_decoder(options["decoder"])  # a worker process that finds it missing could only end
        chunk = options["chunk"]
        if chunk != "auto" and not (isinstance(chunk, int) and chunk > 0):
            raise UsageError(f"option chunk must be auto or a whole number from 1 up, got {chunk!r}")
        self._options = options
        self.device = choose_device(config.device)
        self.reader = ShardReader(config.dataset, config.split) if reader is None else reader  # type: ignore[arg-type]
        super().__init__(config, len(self.reader))
        self._images = images or EncodedImages(self.reader, options["decoder"])
        cores = usable_cores()
        self.num_workers = cores if config.num_workers == "auto" else config.num_workers
        self.workers = _worker_kind() if options["workers"] == "auto" else options["workers"]
        self._on_host = self.device.type == "cpu"
        self._pin = self.device.type == "cuda" and config.pin_memory in ("auto", True)
        self._layout = Layout(
            config.prefetch + BatchBuffers.KEPT,
            config.batch_size,
            config.image_size,
            config.dtype if self._on_host else "uint8",
        )
        self._layout.check()
        self._pinned = False
        self._in_transit: list[tuple[Any, torch.Tensor]] = []  # copies begun: their events, and what is copied
        self._buffers: BatchBuffers | None = None
        self._workers: Workers | None = None
        self._next_batch_id = 0
        self._ahead: deque[tuple[int, int, Records, Flips]] = deque()  # in the making: batch id, buffer, records, flips
        self._open: dict[int, int] = {}  # jobs not yet over, by batch id
        self._failed: dict[int, AlexNetFastError] = {}
        self._pass = 0  # number of the newest pass; an older one that is still held must stop
        self.stats: dict[str, float] = {"batches": 0, "bytes_read": 0, "wait_s": 0.0}
        how = f"{self.num_workers} worker {self.workers}{'es' if self.workers == 'process' else 's'}"
        self.workers_text = how if self.num_workers else "no workers"
        self.description = (
            f"torchvision: {self.workers_text} on {cores} usable core{'s' * (cores > 1)}, "
            f"{self._layout.count} batches of {self._layout.batch_bytes / 2**20:.0f} MiB in memory, for {self.device}"
        )

    def _start(self) -> tuple[BatchBuffers, Workers]:
        if self._buffers is None or self._workers is None:
            self._buffers = BatchBuffers(self._layout, shared=self.workers == "process" and self.num_workers > 0)
            self._workers = start_workers(
                self.workers,
                Task(self._images, self._layout),
                self._buffers,
                self.num_workers,
                self._options["context"],
            )
            self._pinned = self._pin and self._buffers.page_lock()
        return self._buffers, self._workers

    def plan(self, epoch: int, records: Records) -> CropPlan:
        """The crops of some records in one epoch."""
        c, rows = self.config, self.reader.index[records]
        if c.train:
            boxes = draw_crops(c.augmentation, c.seed, epoch, records, rows["height"], rows["width"])
            return plan_train(boxes, c.image_size)
        return plan_eval(rows["height"], rows["width"], c.image_size, c.eval_resize)

    def _flips(self, epoch: int, records: Records) -> Flips:
        c = self.config
        return draw_flips(c.augmentation, c.seed, epoch, records) if c.train else None

    def _planned(self, epoch: int, start_step: int) -> Iterator[tuple[Records, CropPlan, Flips]]:
        """Records, crops and flips of each batch; drawn for several at once, which costs 0.5 us an image, not 4."""
        order, size, last = self.order(epoch), self.config.batch_size, len(self)
        several = max(1, _DRAWN // size)
        for step in range(start_step, last, several):
            some = order[step * size : min(step + several, last) * size]
            plan, flips = self.plan(epoch, some), self._flips(epoch, some)
            for begin in range(0, len(some), size):
                part = slice(begin, begin + size)
                yield some[part], plan[part], None if flips is None else flips[part]

    def _submit(self, workers: Workers, slot: int, records: Records, plan: CropPlan, flips: Flips) -> int:
        batch_id, self._next_batch_id = self._next_batch_id, self._next_batch_id + 1
        if not self._on_host:
            flips = None  # they are the device's to mirror
        chunk = self._options["chunk"]
        if chunk == "auto":
            # A job of 16 small images is over in half a millisecond, of which waking a worker is a good part; of
            # large ones the last job of an epoch should not keep the other workers waiting.
            small = self.config.image_size <= _SMALL_SIDE
            most, each = (64, 1) if small else (16, 2)
            chunk = max(1, min(most, len(records) // max(1, each * self.num_workers)))
        starts = range(0, len(records), chunk)
        self._open[batch_id] = len(starts)
        for i in starts:
            part = slice(i, i + chunk)
            job = Job(batch_id, slot, i, records[part], plan[part], None if flips is None else flips[part])
            try:
                workers.submit(job)
            except WorkerError:
                self._stop()
                raise
        return batch_id

    def _collect(self, workers: Workers) -> None:
        try:
            result = workers.collect()
        except WorkerError:
            self._stop()  # the next pass starts new workers
            raise
        self._open[result.batch_id] -= 1
        if not self._open[result.batch_id]:
            del self._open[result.batch_id]
        if result.error is not None:
            self._failed.setdefault(result.batch_id, result.error)

    def _drain(self, buffers: BatchBuffers, workers: Workers) -> None:
        """Drop the batches in the making, once no worker writes into them any more."""
        workers.cancel_before(self._next_batch_id)
        while self._open:
            self._collect(workers)
        self._failed.clear()
        buffers.free.extend(slot for _, slot, _, _ in self._ahead)
        self._ahead.clear()

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        self._pass += 1
        this_pass = self._pass
        try:
            buffers, workers = self._start()
            self._drain(buffers, workers)  # what a pass left behind that was not finished
            yield from self._run(buffers, workers, epoch, start_step, this_pass)
        finally:
            if self._pass == this_pass and self._workers is not None and self._buffers is not None:
                self._drain(self._buffers, self._workers)

    def _run(
        self, buffers: BatchBuffers, workers: Workers, epoch: int, start_step: int, this_pass: int
    ) -> Iterator[Batch]:
        planned, ahead = self._planned(epoch, start_step), self._ahead
        while True:
            while buffers.free and len(ahead) <= self.config.prefetch and (batch := next(planned, None)) is not None:
                slot, (records, plan, flips) = buffers.free.popleft(), batch
                ahead.append((self._submit(workers, slot, records, plan, flips), slot, records, flips))
            if not ahead:
                return
            begin = perf_counter()
            while ahead[0][0] in self._open:
                self._collect(workers)
            self.stats["wait_s"] += perf_counter() - begin
            batch_id, slot, records, flips = ahead.popleft()
            if batch_id in self._failed:
                buffers.free.append(slot)
                raise self._failed.pop(batch_id)
            yield self._hand_out(buffers, slot, records, flips)
            if self._pass != this_pass:
                raise RuntimeError("this pass over the loader was ended by a newer one")

    def _hand_out(self, buffers: BatchBuffers, slot: int, records: Records, flips: Flips) -> Batch:
        import torch

        self.stats["batches"] += 1
        self.stats["bytes_read"] += int(self.reader.index["length"][records].sum(dtype=np.int64))
        labels = torch.from_numpy(self.reader.labels[records])
        images = buffers.lend(slot, len(records))
        if self._on_host:
            return Batch(images, labels)
        for event, _ in self._in_transit:
            event.synchronize()  # of the batch before, whose buffer will be filled again
        self._in_transit.clear()
        moved = images.to(self.device, non_blocking=self._pinned)
        if self._pinned:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            self._in_transit.append((event, images))
        labels = labels.to(self.device)
        on_device = None if flips is None else torch.from_numpy(flips).to(self.device)
        return Batch(finish_batch(moved, on_device, getattr(torch, self.config.dtype)), labels)

    def _stop(self) -> None:
        """Give up workers and buffers; batches that were lent stay valid."""
        workers, self._workers, self._buffers = self._workers, None, None
        self._ahead.clear()
        self._open.clear()
        self._failed.clear()
        if workers is not None:
            workers.close()

    def close(self) -> None:
        self._pass += 1
        if self._workers is not None:
            self._workers.cancel_before(self._next_batch_id)
        self._stop()
        self.reader.close()

    def __del__(self) -> None:
        workers: Any = getattr(self, "_workers", None)
        if workers is not None:
            workers.cancel_before(self._next_batch_id)
            workers.close()
