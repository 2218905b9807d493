"""Ctrl-C and SIGTERM: answered at once with a line, whatever the main thread is doing, and the process ends in time.

Python runs a signal's handler in the main thread, between two of its instructions: during a long call into compiled
code, such as a backward pass, it has to wait. So a thread of its own hears of the signal (`signal.set_wakeup_fd`), and
if the main thread does not end within the time of grace, it ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

# A supervisor gives a process 10 s (docker stop). Ours takes this long to end by itself: a sweep has to write its
# report, which took 2 s on two busy cores. Training takes less, since a checkpoint may have to be written after it.
GRACE_SECONDS = 4.0
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_active: list[StopSignals] = []
_masks: list[set[int]] = []  # of signals that wait while a thread forks


class StopSignals:
    """While it is entered, Ctrl-C and SIGTERM are its to answer. Outside the main thread it changes nothing.

    Without a handler of its own a container's first process would not hear SIGTERM at all.

    Attributes:
        received: the first signal's number, 0 before.
        gentle: the main thread looks at `received` itself, between two steps; else it gets a KeyboardInterrupt.
        answer: the line that the first signal is answered with.
        last_words: called with the signal's number when the time of grace is over, on another thread than the main one;
            keeps what would be lost and returns the error to print. None: the main thread must be waited for.
    """

    def __init__(self, *, answer: str = "stopping", ends_process: bool = False, grace: float = GRACE_SECONDS) -> None:
        """
        Args:
            grace: seconds that the main thread has to end by itself.
            ends_process: the process is the command's own, and ends when the time of grace is over; one that is entered
                within another follows that.
        """
        self.received = 0
        self.gentle = False
        self.answer = answer
        self.last_words: Callable[[int], str | None] = lambda number: "stopped"
        self._grace = grace
        self._ends_process: bool = ends_process or any(outer._ends_process for outer in _active)
        self._over = threading.Event()
        self._answered = False
        self._taken = False  # the main thread has heard of the first signal
        self._old: dict[int, Any] = {}
        self._old_descriptor = self._ours = self._theirs = -1

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            return self
        self._ours, self._theirs = os.pipe()
        os.set_blocking(self._theirs, False)
        threading.Thread(target=self._listen, name="stop-signals", daemon=True).start()
        for number in _NUMBERS:
            self._old[number] = signal.signal(number, self._take)
        self._old_descriptor = signal.set_wakeup_fd(self._theirs, warn_on_full_buffer=False)
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if not self._old:
            return
        _active.remove(self)
        signal.set_wakeup_fd(self._old_descriptor)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.write(self._theirs, b"\0")  # forked processes hold the pipe too, so closing it would not end the thread
        os.close(self._theirs)

    def _take(self, number: int, frame: object) -> None:
        again, self._taken = self._taken, True
        self.received = self.received or number
        # On busy cores the answer would come after what the main thread says of its end. No lock: this may interrupt
        # itself.
        for _ in range(100):
            if self._answered:
                break
            time.sleep(0.01)
        if not self.gentle or (again and number == signal.SIGINT):
            raise KeyboardInterrupt

    def _listen(self) -> None:
        with open(self._ours, "rb", buffering=0) as pipe:
            first = 0
            while byte := pipe.read(1):
                number = byte[0]
                if number == 0:
                    return
                if number not in _NUMBERS:
                    continue
                if not first:
                    first = self.received = number
                    threading.Thread(target=self._see_it_end, args=(number,), name="stop-in-time", daemon=True).start()
                elif number == signal.SIGINT and self._ends_process and not self._over.wait(0.5):
                    _end(number, "stopped at once")

    def _see_it_end(self, number: int) -> None:
        if not self._over.is_set():
            _print(f"{signal.Signals(number).name}: {self.answer}")
        self._answered = True
        if not self._ends_process or self._over.wait(self._grace):
            return
        words = self.last_words(number)
        if words is not None:
            _end(number, words)


def _print(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        print(line, file=sys.stderr, flush=True)


def _end(number: int, words: str) -> None:
    """End the process from another thread, with what stands in its buffers written."""
    _print(f"error: {words}")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            if stream.isatty():
                stream.write("\x1b[?25h")  # a progress bar hides the cursor
            stream.flush()
    os._exit(128 + number)


# A forked child must not tell its parent's listener of its own signals: those that come in the midst of a fork wait.
def _before_fork() -> None:
    if _active:
        _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS))


def _after_fork() -> None:
    if _masks:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _after_fork_in_child() -> None:
    if _active and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        # A signal to a whole process group must not end the workers of a run before its checkpoint is written.
        gentle = any(one.gentle for one in _active)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if gentle else signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _active.clear()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
