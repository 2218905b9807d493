"""Work in chunks on several processes, on threads, or in the caller's thread: the same calls for each of them."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from ..errors import WorkerError
from .child import Child, ChildError, call_here, send_message


def report_progress(count: int) -> None:
    """Within a task of a pool: tell the pool's owner that `count` more units are done."""
    send_message(count)


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
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._on_progress = on_progress or (lambda count: None)
        self._imports = imports
        self._failed: WorkerError | None = None
        self._count = count if sys.executable else 0
        self._here = False
        self._children: list[Child] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the processes now, so that they are ready when there are tasks."""
        for _ in range(self._count - len(self._threads)):
            child = None
            if not self._here:
                child = Child(self._imports)
                self._children.append(child)
            thread = threading.Thread(target=self._serve, args=(child,), daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def count(self) -> int:
        """Processes (or threads), started or not; 0 where the caller's own thread does everything."""
        return self._count

    def stay_here(self, threads: int = 0) -> None:
        """Run everything in this process, where no other was started yet: in the caller's thread, or on `threads`."""
        if not self._children:
            self._here, self._count = True, threads

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run ``function(*args)`` in a worker; the future holds its result or its exception.

        The future of a task whose worker process died holds a WorkerError, as do those of all tasks after it.
        """
        future: Future[Any] = Future()
        if self._count:
            self.start()
            self._tasks.put((future, function, args))
        else:
            self._carry_out(None, future, function, args)
        return future

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], *, ahead: int = 0) -> Iterator[Any]:
        """``function(*task)`` of each task, in order, with at most `ahead` (or 2 a worker) results waiting."""
        most = (ahead or 2 * self._count) if self._count else 1
        waiting: deque[Future[Any]] = deque()
        for task in tasks:
            waiting.append(self.submit(function, *task))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _serve(self, child: Child | None) -> None:
        while (task := self._tasks.get()) is not None:
            self._carry_out(child, *task)

    def _carry_out(
        self, child: Child | None, future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if self._failed is not None:
            future.set_exception(self._failed)
            return
        try:
            if child is None:
                result = call_here(function, *args, on_message=self._on_progress)
            else:
                result = child.call(function, *args, on_message=self._on_progress)
        except ChildError as error:
            self._failed = WorkerError(
                f"a worker process ended before its work did ({error.how}): what is finished is kept; "
                "run the same command again to go on"
            )
            future.set_exception(self._failed)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def close(self, *, at_once: bool = False) -> None:
        """End the workers."""
        if at_once:
            for child in self._children:
                child.kill()
            self._failed = self._failed or WorkerError("the work was stopped")
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        for child in self._children:
            child.close()
        self._children, self._threads = [], []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)
