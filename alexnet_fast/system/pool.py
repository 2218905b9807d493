"""Worker processes for work in chunks: started fresh, fed over pipes, never forked and never importing ``__main__``.

multiprocessing would do, but for three things: a forked worker inherits locks and open LMDB environments, a spawned
one runs the caller's script again (a notebook or a script without a main guard breaks), and neither ends when its
parent is killed. These end with their parent, and one that dies is an error of one sentence, not a hang.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..errors import WorkerError

_LENGTH = struct.Struct("<Q")
_PIPE_BYTES = 1 << 20
_BOOT = "import sys; sys.path[:] = {path!r}; from alexnet_fast.system.pool import _main; _main({imports!r})"

# Where a task's progress goes: in a worker, over the pipe to the parent's pool; elsewhere, to the pool that runs it.
_report: Callable[[int], None] = lambda count: None  # noqa: E731


def report_progress(count: int) -> None:
    """Within a task of a pool: tell the pool's owner that `count` more units are done."""
    _report(count)


class WorkerPool:
    """A fixed number of worker processes; functions must be importable by name.

    Leaving the context ends them: after their work where nothing failed, at once where something did.

    Args:
        count: processes, started by `start` or with the first task; 0 runs everything in this one.
        on_progress: called, from any thread, with what tasks pass to `report_progress`.
        imports: the module that tasks need, so that a process has it by the time of its first task.
    """

    def __init__(
        self, count: int, *, on_progress: Callable[[int], None] | None = None, imports: str = "alexnet_fast"
    ) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._on_progress = on_progress or (lambda count: None)
        self._imports = imports
        self._failed: WorkerError | None = None
        self._count = count if sys.executable else 0
        self._here = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the processes now, so that they are ready when there are tasks."""
        for _ in range(self._count - len(self._threads)):
            if self._here:
                thread = threading.Thread(target=self._serve_here, daemon=True)
            else:
                process = _start_worker(self._imports)
                thread = threading.Thread(target=self._serve, args=(process,), daemon=True)
                self._processes.append(process)
            self._threads.append(thread)
            thread.start()

    @property
    def count(self) -> int:
        """Processes (or threads), started or not; 0 where the caller's own thread does everything."""
        return self._count

    @property
    def processes(self) -> bool:
        """Whether tasks run in other processes than this one."""
        return self._count > 0 and not self._here

    def stay_here(self, threads: int = 0) -> None:
        """Run everything in this process, where no other was started yet: in the caller's thread, or on `threads`."""
        if not self._processes:
            self._here, self._count = True, threads

    @property
    def parallel(self) -> bool:
        """Whether tasks run beside the caller's thread."""
        return self._count > 0

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run ``function(*args)`` in a worker; the future holds its result or its exception.

        The future of a task whose worker process died holds a WorkerError, as do those of all tasks after it.
        """
        global _report
        future: Future[Any] = Future()
        if not self.processes:
            _report = self._on_progress
        if self.parallel:
            self.start()
            self._tasks.put((future, (function, args)))
        else:
            _run(future, function, args)
        return future

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], *, ahead: int = 0) -> Iterator[Any]:
        """``function(*task)`` of each task, in order, with at most `ahead` (or 2 a worker) results waiting."""
        most = (ahead or 2 * self._count) if self.parallel else 1
        waiting: deque[Future[Any]] = deque()
        for task in tasks:
            waiting.append(self.submit(function, *task))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _serve_here(self) -> None:
        while (item := self._tasks.get()) is not None:
            future, task = item
            if self._failed is not None:
                future.set_exception(self._failed)
            else:
                _run(future, *task)

    def _serve(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        while (item := self._tasks.get()) is not None:
            future, task = item
            if self._failed is not None:
                future.set_exception(self._failed)
                continue
            try:
                _send(process.stdin, task)
                while (answer := _receive(process.stdout))[0] == "progress":
                    self._on_progress(answer[1])
            except (OSError, EOFError):
                self._failed = WorkerError(
                    f"a worker process ended before its work did ({_how_it_ended(process)}): what is finished is kept; "
                    "run the same command again to go on"
                )
                future.set_exception(self._failed)
                continue
            if answer[0] == "error":
                future.set_exception(answer[1])
            else:
                future.set_result(answer[1])

    def close(self, *, at_once: bool = False) -> None:
        """End the workers."""
        if at_once:
            for process in self._processes:
                process.kill()
            self._failed = self._failed or WorkerError("the work was stopped")
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            process.wait()
        self._processes, self._threads = [], []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)


def _run(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        future.set_result(function(*args))
    except Exception as error:
        future.set_exception(error)


def _start_worker(imports: str) -> subprocess.Popen[bytes]:
    path = [str(Path(__file__).resolve().parent.parent), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT.format(path=path, imports=imports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C goes to the parent alone, which ends its workers
    )
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # beyond the user's limit: the default size works as well
            fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        return "it closed its pipe"
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"exit code {code}"


def _send(file: Any, message: Any) -> None:
    content = pickle.dumps(message, protocol=5)
    file.write(_LENGTH.pack(len(content)))
    file.write(content)
    file.flush()


def _receive(file: Any) -> Any:
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    content = file.read(_LENGTH.unpack(head)[0])
    if len(content) < _LENGTH.unpack(head)[0]:
        raise EOFError
    return pickle.loads(content)


# ---------------------------------------------------------------------------------------------------------------------
# In the worker


def _main(imports: str) -> None:
    """Serve tasks from stdin until it closes; what tasks print goes to stderr."""
    global _report
    tasks = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    _report = lambda count: _send(answers, ("progress", count))  # noqa: E731
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(tasks.fileno(),), daemon=True).start()
    importlib.import_module(imports)
    while True:
        try:
            function, args = _receive(tasks)
        except EOFError:
            return
        try:
            answer = ("result", function(*args))
        except Exception as error:
            answer = ("error", _picklable(error))
        try:
            _send(answers, answer)
        except BrokenPipeError:
            os._exit(1)


def _end_with_parent(descriptor: int) -> None:
    """Exit at once when the other end of stdin is gone, whatever the main thread is doing."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP alone, which is always told
    while True:
        if any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll()):
            os._exit(1)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return WorkerError(f"a worker failed: {type(error).__name__}: {error}")
