"""Workers that fill parts of batch buffers: the thread that asks (Inline) or a crew of threads."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..decode import CropPlan, PictureDecoder
from ..errors import AlexNetFastError, DamagedDataError, WorkerError
from ..shards import ShardReader

if TYPE_CHECKING:
    import torch


class Job(NamedTuple):
    """Part of a batch: `records` go to rows `first`... of buffer `slot`; `ticket` numbers the batch."""

    ticket: int
    slot: int
    first: int
    records: npt.NDArray[np.int64]
    plan: CropPlan


class Result(NamedTuple):
    """A job is over; `error` says how, if it failed."""

    ticket: int
    error: AlexNetFastError | None


class Crew(Protocol):
    """Takes jobs and gives results back, in any order."""

    def submit(self, job: Job) -> None: ...

    def collect(self) -> Result:
        """Wait for the next result.

        Raises:
            WorkerError: a worker has ended.
        """
        ...

    def cancel_before(self, ticket: int) -> None:
        """Jobs of earlier tickets that have not begun need not be done; each still gives a result."""

    def close(self) -> None: ...


class Filler:
    """Reads records and puts their decoded crops into a buffer: what every worker does, of whatever kind."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def fill(self, decoder: PictureDecoder, job: Job, out: torch.Tensor) -> None:
        """Fill rows ``job.first`` ... of `out` (N, 3, S, S) uint8, channels_last.

        Raises:
            DamagedDataError: a record cannot be read or decoded; the text names it.
        """
        index = self.reader.index
        for i, record in enumerate(job.records.tolist()):
            row = index[record]
            try:
                jpeg = self.reader.read(record)
                at = job.first + i
                decoder(jpeg, int(row["height"]), int(row["width"]), job.plan, i, out[at : at + 1])
            except DamagedDataError as error:
                where = self.reader.describe(record)
                text = str(error)
                raise DamagedDataError(
                    text if where in text else f"{where} {text}: run `alexnet-fast verify`"
                ) from None


class InlineCrew:
    """Does each job when its result is asked for, in the asking thread."""

    def __init__(self, filler: Filler, buffers: list[torch.Tensor]) -> None:
        self._filler, self._buffers = filler, buffers
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._decoder = PictureDecoder()
        self._oldest = 0

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def collect(self) -> Result:
        return _do(self._filler, self._decoder, self._jobs.get(), self._buffers, self._oldest)

    def cancel_before(self, ticket: int) -> None:
        self._oldest = ticket

    def close(self) -> None:
        pass


class ThreadCrew:
    """Threads in this process. The decoder and the resize release the GIL; nothing is handed over but job numbers."""

    def __init__(self, filler: Filler, buffers: list[torch.Tensor], num_workers: int) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._oldest = 0
        self._threads = [
            threading.Thread(target=self._work, args=(filler, buffers), name=f"loader-{i}", daemon=True)
            for i in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, filler: Filler, buffers: list[torch.Tensor]) -> None:
        import torch

        torch.set_num_threads(1)  # holds for this thread alone: OpenMP keeps the number per thread
        decoder = PictureDecoder()
        while (job := self._jobs.get()) is not None:
            self._results.put(_do(filler, decoder, job, buffers, self._oldest))

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def collect(self) -> Result:
        return self._results.get()

    def cancel_before(self, ticket: int) -> None:
        self._oldest = ticket

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []


def _do(filler: Filler, decoder: PictureDecoder, job: Job, buffers: list[torch.Tensor], oldest: int) -> Result:
    if job.ticket < oldest:
        return Result(job.ticket, None)
    try:
        filler.fill(decoder, job, buffers[job.slot])
    except AlexNetFastError as error:
        return Result(job.ticket, error)
    except Exception as error:
        return Result(job.ticket, WorkerError(f"a loader worker failed: {type(error).__name__}: {error}"))
    return Result(job.ticket, None)


def make_crew(kind: str, filler: Filler, buffers: list[torch.Tensor], num_workers: int, **_: Any) -> Crew:
    """The crew of `num_workers` workers of that kind; none means that the asking thread does the work."""
    if num_workers == 0:
        return InlineCrew(filler, buffers)
    return ThreadCrew(filler, buffers, num_workers)
