"""A function in a process of its own: started fresh, called over pipes, never forked and never importing ``__main__``.

multiprocessing would do, but for three things: a forked process inherits locks and open LMDB environments, a spawned
one runs the caller's script again (a notebook or a script without a main guard breaks), and neither ends when its
parent is killed. A child ends with its parent, and one that crashes or hangs is an error of one sentence.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ..errors import AlexNetFastError, WorkerError

_LENGTH = struct.Struct("<Q")
# Seconds without a message are counted from the first one on: importing torch takes this long on a busy machine whose
# page cache is cold.
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.25  # how often a silent child is looked at
_CLOSE_SECONDS = 10.0
_END = b""  # the frame that asks a child to end
_BOOT = "import sys; sys.path[:] = {path!r}; from alexnet_fast.system.child import _main; _main({imports!r})"

Listener = Callable[[Any], None]


class ChildError(WorkerError):
    """A child process ended, or hung and was ended, before its call returned.

    Attributes:
        how: 'killed by SIGKILL, perhaps for want of memory', 'exit code 1', 'hung: ...'; with the last line that it
            wrote to stderr, where that was kept.
    """

    def __init__(self, message: str, how: str) -> None:
        super().__init__(message)
        self.how = how


class Child:
    """A process that carries out one call after the other. Functions must be importable by name.

    Leaving the context ends it at once, with all that it started.

    Args:
        imports: the module that calls need, imported while the first one is on its way.
        keep_stderr: keep what it writes to stderr and tell its last line where it crashes; else it goes to this
            process's stderr.

    Attributes:
        pid: its process id.

    Raises:
        OSError: the system starts no more processes.
    """

    def __init__(self, imports: str = "alexnet_fast", *, keep_stderr: bool = False) -> None:
        path = [str(Path(__file__).resolve().parents[2]), *sys.path]
        self._stderr = tempfile.TemporaryFile() if keep_stderr else None  # noqa: SIM115 - held until the end
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(path=path, imports=imports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr if keep_stderr else None if _is_open(2) else subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to the parent alone, and all that it starts can be ended as one group
        )
        self.pid = self._process.pid
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: Any = self._process.stdin
        threading.Thread(target=_pump, args=(self._process.stdout, self._frames), daemon=True).start()

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        on_message: Listener | None = None,
    ) -> Any:
        """``function(*args)`` in the child: its result or its exception.

        Args:
            timeout: seconds without a message, once there was one, after which it counts as hung and is ended.
            on_message: called with what the function gives to `send_message`.

        Raises:
            ChildError: it ended or hung.
        """
        with contextlib.suppress(OSError):  # it has ended; what follows says how
            _send(self._stdin, (function, args))
        last: Any = None
        while True:
            kind, value = self._next(timeout, last)
            if kind == "message":
                last = value
                if on_message is not None:
                    on_message(value)
            elif kind == "result":
                return value
            else:
                error, text = value
                if not isinstance(error, AlexNetFastError):
                    error.__cause__ = _InChild(text)
                raise error

    def _next(self, timeout: float | None, last: Any) -> tuple[str, Any]:
        limit = timeout if timeout is None or last is not None else max(timeout, _START_SECONDS)
        begin, frame = time.monotonic(), None
        while frame is None:
            try:
                frame = self._frames.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                seconds = time.monotonic() - begin
                if limit is not None and seconds > limit:
                    where = "before it had begun" if last is None else f"after {last!r}"
                    how = f"hung: nothing happened for {seconds:.0f} s ({where})"
                    self.kill()
                    raise ChildError(how, how) from None
                if self._process.poll() is None or not self._frames.empty():
                    continue  # else it crashed, and what it started may still hold the pipe open
            if frame is None:
                how = self._how_it_ended()
                raise ChildError(f"the process ended before its work did ({how})", how)
        content: tuple[str, Any] = pickle.loads(frame)
        return content

    def _how_it_ended(self) -> str:
        try:
            how = ending(self._process.wait(5))
        except subprocess.TimeoutExpired:
            how = "it closed its pipe"
        self.kill()  # what it started outlives it
        if self._stderr is None:
            return how
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{how}: {lines[-1][:200]}" if lines else how

    def kill(self) -> None:
        """End it at once, and all that it started; safe to call twice."""
        if os.name == "posix":
            # The group outlives its leader, so what a crashed child started is ended too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it end of its own accord, once it is not at a call; then as `kill`."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            _write(self._stdin, _END)
            self._process.wait(_CLOSE_SECONDS)
        self._release()

    def _release(self) -> None:
        self.kill()
        for pipe in (self._stdin, self._stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()


class _InChild(Exception):
    """The traceback of an exception within a child, as text: the exception itself comes without it."""

    def __init__(self, text: str) -> None:
        super().__init__(f"in a child process:\n{text}")


def ending(code: int) -> str:
    """How a process ended, in words, from its return code."""
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        want = {"SIGKILL": "memory", "SIGBUS": "shared memory (/dev/shm)"}.get(name)
        return f"killed by {name}" + (f", perhaps for want of {want}" if want else "")
    return f"exit code {code}"


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _pump(pipe: Any, frames: queue.SimpleQueue[bytes | None]) -> None:
    """Hand on what a child writes, frame by frame, and None at its end."""
    with contextlib.suppress(OSError, ValueError), pipe:
        while (frame := _receive(pipe)) is not None:
            frames.put(frame)
    frames.put(None)


def _send(file: BinaryIO, content: Any) -> None:
    _write(file, pickle.dumps(content, protocol=5))


def _write(file: BinaryIO, frame: bytes) -> None:
    file.write(_LENGTH.pack(len(frame)))
    file.write(frame)
    file.flush()


def _receive(file: BinaryIO) -> bytes | None:
    """A whole frame; None where the other end is gone."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    frame = file.read(_LENGTH.unpack(head)[0])
    return frame if len(frame) == _LENGTH.unpack(head)[0] else None


# ---------------------------------------------------------------------------------------------------------------------
# Messages: within a call, wherever it is carried out


class _Thread(threading.local):
    """Who listens to the messages of a thread's calls, where that is not the process's parent."""

    listener: Listener | None = None


_thread = _Thread()
_tell_parent: Listener = lambda message: None  # noqa: E731 - in a child, over the pipe


def send_message(message: Any) -> None:
    """Within a call: tell whoever made it something picklable, before the result; a sign of life as well."""
    (_thread.listener or _tell_parent)(message)


def call_here(function: Callable[..., Any], *args: Any, on_message: Listener) -> Any:
    """As `Child.call`, in this thread."""
    before, _thread.listener = _thread.listener, on_message
    try:
        return function(*args)
    finally:
        _thread.listener = before


# ---------------------------------------------------------------------------------------------------------------------
# In the child


def _main(imports: str) -> None:
    """Carry out calls from stdin; what they print goes to stderr."""
    global _tell_parent
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    lock = threading.Lock()  # a call's threads may send messages too

    def answer(kind: str, value: Any) -> None:
        try:
            with lock:
                _send(answers, (kind, value))
        except BrokenPipeError:
            _end_with_parent()

    _tell_parent = lambda message: answer("message", message)  # noqa: E731
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_take_calls, args=(calls, frames), daemon=True).start()
    importlib.import_module(imports)
    while (frame := frames.get()) != _END:
        try:
            function, args = pickle.loads(frame)
            result = ("result", function(*args))
        except Exception as error:
            result = ("error", (_portable(error), traceback.format_exc()))
        answer(*result)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(0)  # a thread sits in a read, and nothing is left to save


def _take_calls(calls: BinaryIO, frames: queue.SimpleQueue[bytes]) -> None:
    """Read what the parent sends, whatever the main thread is doing: its end is seen at once."""
    while (frame := _receive(calls)) is not None:
        frames.put(frame)
    _end_with_parent()


def _end_with_parent() -> NoReturn:
    """End this process and all that it started: whoever waited for them is gone."""
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error, or one that can be sent in its place."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return WorkerError(f"{type(error).__name__}: {error}")
