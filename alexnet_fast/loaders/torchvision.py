"""Decodes on the host, on any machine: workers fill uint8 batches, the rest runs batched on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..augment import draw_crops, draw_flips, finish_batch
from ..decode import CropPlan, plan_eval, plan_train
from ..device import choose_device, usable_cores
from ..errors import AlexNetFastError
from ..shards import ShardReader
from .base import Batch, Loader, check_options
from .crew import Crew, Filler, Job, make_crew

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig


class TorchvisionLoader(Loader):
    """Reads a packed split with worker threads or processes.

    Raises:
        UsageError: the data set, the split or the device is not there, or an option is unknown.
        DamagedDataError: the data set, or (on iteration) a record, is damaged.
        WorkerError: a worker ended (on iteration).
    """

    def __init__(self, config: LoaderConfig) -> None:
        self.options = check_options(config, "torchvision", workers="auto", context="auto", chunk="auto")
        self.device = choose_device(config.device)
        self.reader = ShardReader(config.dataset, config.split)  # type: ignore[arg-type]
        super().__init__(config, len(self.reader))
        self.num_workers = usable_cores() if config.num_workers == "auto" else config.num_workers
        self._pin = self.device.type == "cuda" and config.pin_memory in ("auto", True)
        self._buffers: list[torch.Tensor] = []
        self._crew: Crew | None = None
        self._ticket = 0  # of the next batch
        self._open: dict[int, int] = {}  # jobs not yet over, by ticket
        self._failed: dict[int, AlexNetFastError] = {}
        self._pass = 0  # number of the newest pass; an older one that is still held must stop
        self.stats = {"batches": 0, "bytes_read": 0, "wait_s": 0.0}
        how = f"{self.num_workers} worker threads" if self.num_workers else "no workers"
        self.description = f"torchvision: {how} on {usable_cores()} usable cores, batches finished on {self.device}"

    def _start(self) -> Crew:
        if self._crew is None:
            import torch

            c = self.config
            shape = (c.batch_size, c.image_size, c.image_size, 3)
            count = c.prefetch + 1
            self._buffers = [
                torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin).permute(0, 3, 1, 2) for _ in range(count)
            ]
            self._crew = make_crew("thread", Filler(self.reader), self._buffers, self.num_workers)
        return self._crew

    def plan(self, epoch: int, records: npt.NDArray[np.int64]) -> CropPlan:
        """The crops of some records in one epoch."""
        rows = self.reader.index[records]
        if self.config.train:
            c = self.config
            boxes = draw_crops(c.augmentation, c.seed, epoch, records, rows["height"], rows["width"])
            return plan_train(boxes, self.config.image_size)
        return plan_eval(rows["height"], rows["width"], self.config.image_size, self.config.eval_resize)

    def _submit(self, crew: Crew, slot: int, epoch: int, records: npt.NDArray[np.int64]) -> int:
        ticket, self._ticket = self._ticket, self._ticket + 1
        plan = self.plan(epoch, records)
        chunk = max(1, min(16, len(records) // max(1, 2 * self.num_workers)))
        starts = range(0, len(records), chunk)
        self._open[ticket] = len(starts)
        for i in starts:
            crew.submit(Job(ticket, slot, i, records[i : i + chunk], plan[slice(i, i + chunk)]))
        return ticket

    def _collect(self, crew: Crew) -> None:
        result = crew.collect()
        self._open[result.ticket] -= 1
        if not self._open[result.ticket]:
            del self._open[result.ticket]
        if result.error is not None:
            self._failed.setdefault(result.ticket, result.error)

    def _drain(self, crew: Crew) -> None:
        """Wait until no worker writes into a buffer any more."""
        crew.cancel_before(self._ticket)
        while self._open:
            self._collect(crew)
        self._failed.clear()

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        c = self.config
        order = self.order(epoch)
        crew = self._start()
        self._drain(crew)
        self._pass += 1
        this_pass = self._pass
        free = deque(range(len(self._buffers)))
        ahead: deque[tuple[int, int, npt.NDArray[np.int64]]] = deque()
        upcoming = iter(range(start_step, len(self)))
        try:
            while True:
                while free and (step := next(upcoming, None)) is not None:
                    records = order[step * c.batch_size : (step + 1) * c.batch_size]
                    slot = free.popleft()
                    ahead.append((self._submit(crew, slot, epoch, records), slot, records))
                if not ahead:
                    return
                ticket, slot, records = ahead.popleft()
                begin = perf_counter()
                while ticket in self._open:
                    self._collect(crew)
                self.stats["wait_s"] += perf_counter() - begin
                if ticket in self._failed:
                    raise self._failed[ticket]
                batch = self._finish(slot, epoch, records)
                free.append(slot)
                yield batch
                if self._pass != this_pass:
                    raise RuntimeError("this pass over the loader was ended by a newer one")
        finally:
            if self._pass == this_pass and self._crew is not None:
                self._drain(crew)

    def _finish(self, slot: int, epoch: int, records: npt.NDArray[np.int64]) -> Batch:
        import torch

        c = self.config
        self.stats["batches"] += 1
        self.stats["bytes_read"] += int(self.reader.index["length"][records].sum())
        flips = torch.from_numpy(draw_flips(c.augmentation, c.seed, epoch, records)) if c.train else None
        labels = torch.from_numpy(self.reader.labels[records])
        images = self._buffers[slot][: len(records)]
        if self.device.type == "cpu":
            images = images.clone(memory_format=torch.channels_last)
        else:
            # Blocking: the buffer is filled again as soon as this returns.
            images = images.to(self.device)
            labels = labels.to(self.device)
            flips = flips.to(self.device) if flips is not None else None
        return Batch(finish_batch(images, flips, getattr(torch, c.dtype)), labels)

    def close(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            self._drain(crew)
            crew.close()
        self._buffers = []
        self.reader.close()
