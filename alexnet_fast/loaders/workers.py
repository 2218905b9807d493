"""Workers that fill parts of batch buffers: the asking thread itself, threads, or processes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import queue
import selectors
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import AlexNetFastError, WorkerError
from ..system import limit_behind
from .batch_buffers import BatchBuffers, ByteArray, Layout, SharedMemory
from .image_sources import CropRequest, ImageSource

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

KINDS = ("auto", "thread", "process")
CONTEXTS = ("auto", "fork", "spawn")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_PARENT_CHECK_S = 2.0  # how often an idle worker process looks whether its parent is still there


class Job(NamedTuple):
    """Part of a batch: the crops go to rows `first`... of buffer `slot`; `batch_id` numbers the batch."""

    batch_id: int
    slot: int
    first: int
    crops: CropRequest


class Result(NamedTuple):
    """A job is over; `error` says how, if it failed."""

    batch_id: int
    error: AlexNetFastError | None


class Workers(Protocol):
    """Takes jobs and gives results back, in any order."""

    def submit(self, job: Job) -> None: ...

    def collect(self) -> Result:
        """Wait for the next result.

        Raises:
            WorkerError: a worker has ended.
        """
        ...

    def cancel_before(self, batch_id: int) -> None:
        """Jobs of earlier batch ids that have not begun need not be done; each still gives a result."""

    def close(self) -> None: ...


class Worker:
    """One thread's means of doing jobs: it cuts images of a source into buffers that lie as `layout` says."""

    def __init__(self, source: ImageSource, layout: Layout, memory: ByteArray) -> None:
        self._source = source
        self._cropper = source.cropper(layout.image_size, layout.dtype)
        self._outputs = layout.outputs(memory)

    def do(self, job: Job, oldest: int) -> Result:
        """Do a job, unless its batch_id is older than `oldest`; every failure is in the result."""
        try:
            if job.batch_id >= oldest:
                out = self._outputs[job.slot][job.first : job.first + len(job.crops)]
                self._source.cut(self._cropper, job.crops, out)
        except AlexNetFastError as error:
            return Result(job.batch_id, error)
        except Exception as error:
            return Result(job.batch_id, WorkerError(f"a loader worker failed: {type(error).__name__}: {error}"))
        return Result(job.batch_id, None)


class InlineWorkers:
    """Does each job when its result is asked for, in the asking thread."""

    def __init__(self, source: ImageSource, buffers: BatchBuffers) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._worker = Worker(source, buffers.layout, buffers.memory)
        self._oldest = 0

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def collect(self) -> Result:
        import torch

        # One image is too little for several threads: with two, each spins while it waits for the other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._worker.do(self._jobs.get(), self._oldest)
        finally:
            torch.set_num_threads(threads)

    def cancel_before(self, batch_id: int) -> None:
        self._oldest = batch_id

    def close(self) -> None:
        pass


class ThreadWorkers:
    """Threads in this process. Decoding and resizing release the GIL; nothing is handed over but job numbers."""

    def __init__(self, source: ImageSource, buffers: BatchBuffers, num_workers: int) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._oldest = 0
        workers = [Worker(source, buffers.layout, buffers.memory) for _ in range(num_workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"loader-{i}", daemon=True)
            for i, worker in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, worker: Worker) -> None:
        import torch

        torch.set_num_threads(1)  # of this thread alone: OpenMP keeps the number per thread
        while (job := self._jobs.get()) is not None:
            self._results.put(worker.do(job, self._oldest))

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def collect(self) -> Result:
        return self._results.get()

    def cancel_before(self, batch_id: int) -> None:
        self._oldest = batch_id

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []


def start_method(context: str) -> str:
    """How worker processes start, with 'auto' resolved."""
    if context != "auto":
        return context
    # As torch's DataLoader: fork needs no guard in the caller's script and starts in milliseconds.
    return "fork" if "fork" in multiprocessing.get_all_start_methods() and os.name == "posix" else "spawn"


class ProcessWorkers:
    """Worker processes that write into shared buffers; a pipe to each carries its jobs and their results."""

    def __init__(self, source: ImageSource, buffers: BatchBuffers, num_workers: int, context: str) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A worker that is being spawned runs the caller's script anew, which opens its loader without a guard.
            sys.exit(1)  # and the parent says so
        method = start_method(context)
        start = multiprocessing.get_context(method)
        # multiprocessing writes what a spawned process is given into a pipe that it reads itself too: where the process
        # ends at once and the pipe is full, it waits for ever. So what is large follows through a pipe of ours.
        given = source if method == "fork" else None
        assert buffers.shared is not None
        self._oldest = start.Value("q", 0, lock=False)
        self._selector = selectors.DefaultSelector()
        self._next = 0
        self._workers: list[tuple[Any, Connection]] = []
        try:
            for i in range(num_workers):
                ours, theirs = start.Pipe()
                process = start.Process(  # type: ignore[attr-defined]
                    target=_work_process,
                    args=(given, buffers.layout, buffers.shared, theirs, self._oldest, os.getpid()),
                    name=f"loader-{i}",
                    daemon=True,
                )
                with warnings.catch_warnings():
                    # Python 3.12 warns of forking beside threads. Workers take no lock that another thread may hold.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                theirs.close()
                self._workers.append((process, ours))
                self._selector.register(ours, selectors.EVENT_READ, (process, ours))
                self._selector.register(process.sentinel, selectors.EVENT_READ, (process, None))
            for process, pipe in self._workers if given is None else ():
                self._send(process, pipe, source)
        except OSError as error:
            number = len(self._workers) + 1
            self.close()
            why = limit_behind(error) or f"{error.strerror}: use fewer workers, or worker threads"
            raise WorkerError(f"worker process {number} of {num_workers} cannot be started: {why}") from None

    def submit(self, job: Job) -> None:
        # In turn, and all at once: a worker never waits for the training loop to give it its next job.
        process, pipe = self._workers[self._next % len(self._workers)]
        self._next += 1
        self._send(process, pipe, job)

    def _send(self, process: Any, pipe: Connection, what: Any) -> None:
        try:
            pipe.send(what)
        except (BrokenPipeError, ConnectionResetError):
            raise _ended(process) from None

    def collect(self) -> Result:
        ready = [key.data for key, _ in self._selector.select()]
        process, pipe = next((pair for pair in ready if pair[1] is not None), ready[0])
        if pipe is None:
            raise _ended(process)
        try:
            return pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionResetError):
            raise _ended(process) from None

    def cancel_before(self, batch_id: int) -> None:
        self._oldest.value = batch_id

    def close(self) -> None:
        for _, pipe in self._workers:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process, pipe in self._workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self._workers = []
        self._selector.close()


def _ended(process: Any) -> WorkerError:
    process.join(5)
    code = process.exitcode
    spawned = not isinstance(process, getattr(multiprocessing.context, "ForkProcess", ()))
    if code == 1 and spawned and getattr(sys.modules["__main__"], "__file__", None) is not None:
        return WorkerError(
            "a loader's worker process ended as it started: it is spawned, so it runs this script anew, and what the "
            'script does must stand behind `if __name__ == "__main__":`'
        )
    if code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (the system does this when memory runs out)"
    else:
        how = f"ended with exit code {code}"
    return WorkerError(f"loader worker process {process.pid} {how}: use fewer workers or a smaller batch, or threads")


def _keep_freed_memory() -> None:
    """Let glibc keep 64 MiB that were freed: transforms ask for the same again with each image.

    It gives larger blocks back at once, and the next image faults every page in anew. RandAugment and ColorJitter on
    224 pixels took 0.4 ms of system time an image without this and 0.02 ms with it, of 3.5 ms in all.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other C libraries have no such call
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def _work_process(
    source: ImageSource | None, layout: Layout, memory: SharedMemory, pipe: Connection, oldest: Any, parent: int
) -> None:
    """The life of a worker process; without a source it is the first that comes through the pipe."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    _keep_freed_memory()
    gc.freeze()  # or every collection goes through all that the parent had: 1% of the time at a longest side of 375
    try:
        source = pipe.recv() if source is None else source
    except (EOFError, OSError):
        return
    worker = Worker(source, layout, memory.array)
    try:
        while True:
            # A killed parent closes no pipe that a sister process has inherited.
            while not pipe.poll(_PARENT_CHECK_S):
                if os.getppid() != parent:
                    return
            job = pipe.recv()
            if job is None:
                return
            pipe.send(worker.do(job, oldest.value))
    except (EOFError, OSError):
        return


def start_workers(kind: str, source: ImageSource, buffers: BatchBuffers, num_workers: int, context: str) -> Workers:
    """`num_workers` workers of that kind; 0 means that the asking thread does the work."""
    if num_workers == 0:
        return InlineWorkers(source, buffers)
    if kind == "process":
        return ProcessWorkers(source, buffers, num_workers, context)
    return ThreadWorkers(source, buffers, num_workers)
