"""Progress of long work: a bar with rate and time left on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# Logs of long runs stay readable: a line no more often than this.
_LINE_SECONDS = 10.0
# Columns from which on a terminal has room for a long bar and the time that has gone by.
_WIDE = 110


class Progress(Protocol):
    """What long work reports to. All methods are cheap enough to call once a batch."""

    def start(self, total: int, unit: str = "images", done: int = 0) -> None:
        """Begin (or begin anew) at `done` of `total` units; the rate counts what comes after."""

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""

    def note(self, text: str) -> None:
        """Show `text` beside the bar until the next note: the step's loss, the name of the current shard.

        Before `start` it stands alone and tells what is being got ready, such as the archive that is unpacked first.
        """


class NoProgress:
    """Reports to nobody; what a library function uses when its caller passed no progress."""

    def start(self, total: int, unit: str = "images", done: int = 0) -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def progress_bar(label: str, *, file: TextIO | None = None) -> Iterator[Progress]:
    """A progress display on `file` (stderr if not given) that is removed or ended properly however the block ends.

    Args:
        label: what is being done: 'packing', 'epoch 3/5'.
    """
    stream = sys.stderr if file is None else file
    if not _is_live(stream):
        lines = _Lines(label, stream)
        yield lines
        lines.finish()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    console = Console(file=stream)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}"),
        BarColumn(40 if console.width >= _WIDE else 10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        *([TimeElapsedColumn()] if console.width >= _WIDE else []),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    display = RichProgress(*columns, console=console, transient=True)
    with display:
        yield _Bar(label, display)


def can_redraw(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal whose cursor can be moved.

    A notebook runs `!command` on a terminal that shows every state of a bar below the one before.
    """
    if stream is None or not hasattr(stream, "isatty") or stream.closed or not stream.isatty():
        return False
    environment = os.environ
    if environment.get("TERM", "" if os.name == "posix" else "windows") in ("", "dumb", "unknown"):
        return False
    # What Jupyter gives its kernels, and these hand on to the commands that they run.
    in_kernel = environment.get("TERM") == "xterm-color" and environment.get("GIT_PAGER") == "cat"
    return not in_kernel and "JPY_PARENT_PID" not in environment


def _is_live(stream: TextIO | None) -> bool:
    """Whether rich can redraw there: a terminal, or a Jupyter cell that has widgets."""
    if can_redraw(stream):
        return True
    if "IPython" not in sys.modules or importlib.util.find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console().is_jupyter


class _Bar:
    def __init__(self, label: str, display: RichProgress) -> None:
        self._label, self._display = label, display
        self._task: TaskID | None = None
        self._unit, self._done, self._begin = "", 0, 0.0

    def start(self, total: int, unit: str = "images", done: int = 0) -> None:
        if self._task is not None:
            self._display.remove_task(self._task)
        self._task = self._display.add_task(self._label, total=total, completed=done, rate="", note="")
        self._unit, self._done, self._begin = unit, 0, time.monotonic()

    def advance(self, count: int = 1) -> None:
        if self._task is None:
            return
        self._done += count
        rate = self._done / max(time.monotonic() - self._begin, 1e-9)
        self._display.update(self._task, advance=count, rate=f"{rate:,.0f} {self._unit}/s")

    def note(self, text: str) -> None:
        if self._task is None:
            self._task = self._display.add_task(self._label, total=None, rate="", note=text)
        self._display.update(self._task, note=self._fitting(text))

    def _fitting(self, text: str) -> str:
        """As many of the note's whole words as the line has room for beside all else."""
        assert self._task is not None
        task = next(task for task in self._display.tasks if task.id == self._task)
        total = "" if task.total is None else f"{task.total:,.0f}"
        wide = self._display.console.width >= _WIDE
        others = len(self._label) + 2 * len(total) + len(f" {self._unit}/s") + 9 + (58 if wide else 20)
        return textwrap.shorten(text, max(4, self._display.console.width - others), placeholder=" ...")


class _Lines:
    def __init__(self, label: str, stream: TextIO) -> None:
        self._label, self._stream = label, stream
        self._total, self._unit, self._done, self._first, self._note = 0, "", 0, 0, ""
        self._begin = self._said_at = 0.0
        self._said_done = -1

    def start(self, total: int, unit: str = "images", done: int = 0) -> None:
        self._total, self._unit, self._done, self._first = total, unit, done, done
        self._begin = self._said_at = time.monotonic()
        self._said_done, self._note = -1, ""

    def advance(self, count: int = 1) -> None:
        self._done += count
        if self._total and time.monotonic() - self._said_at >= _LINE_SECONDS:
            self._say()

    def note(self, text: str) -> None:
        if not self._begin and (not self._said_at or time.monotonic() - self._said_at >= _LINE_SECONDS):
            self._said_at = time.monotonic()
            print(f"{self._label}: {text} ...", file=self._stream, flush=True)
        self._note = text

    def finish(self) -> None:
        if self._total and self._said_done != self._done:
            self._say()

    def _say(self) -> None:
        self._said_at, self._said_done = time.monotonic(), self._done
        seconds = self._said_at - self._begin
        rate = (self._done - self._first) / seconds if seconds > 0 else 0.0
        note = f", {self._note}" if self._note else ""
        print(
            f"{self._label}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s, {seconds:.1f} s{note}",
            file=self._stream,
            flush=True,
        )
