"""Runs the cells of a sweep, each in a process of its own, interleaved over the repeats."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import AlexNetFastError, DamagedDataError, UsageError, WorkerError
from .processes import end_group, tree_usage
from .results import OK, Row

_MIN_SLICE = 0.5  # seconds; a shorter stretch holds too few batches to mean much
_MAX_REPEATS = 3
_CLOSE = 0.03  # two repeats that agree as well as this need no third
_MEMORY_EVERY = 0.25
_IMPORTS = 60.0  # seconds that importing torch may take on a busy machine whose page cache is cold, whatever is asked


class CellError(AlexNetFastError):
    """A measuring process ended without its figures; the text says why.

    Attributes:
        kind: WorkerError where it crashed or hung; where it told the reason itself, UsageError or DamagedDataError.
    """

    def __init__(self, message: str, kind: type[AlexNetFastError] = WorkerError) -> None:
        super().__init__(message)
        self.kind = kind


def repeats_of(seconds: float) -> tuple[int, float]:
    """(how many repeats at most, seconds of each) that `seconds` a cell are cut into."""
    count = max(1, min(_MAX_REPEATS, int(seconds / _MIN_SLICE)))
    return count, seconds / count


def run_cell(task: dict[str, Any], timeout: float, on_event: Callable[[str], None] | None = None) -> Events:
    """Carry out a task in a fresh process and wait for its end.

    Args:
        task: for `alexnet_fast.bench.cell`.
        timeout: seconds without an event after which it counts as hung and is killed with all it started.
        on_event: called with the name of each event as it comes.

    Raises:
        CellError: it failed, crashed or hung.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "alexnet_fast.bench.cell"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1,
            start_new_session=True, env=_environment(),
        )  # fmt: skip
        try:
            events = _follow(process, task, timeout, on_event)
        finally:
            end_group(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if "end" not in events.by_name:
            raise CellError(_last_words(process.returncode, errors))
    failed = events.by_name.get("failed")
    if failed is not None:
        raise CellError(failed["reason"], DamagedDataError if failed.get("damaged") else UsageError)
    return events


@dataclass
class Events:
    """What a measuring process reported, the last of each kind, and the highest memory seen meanwhile."""

    by_name: dict[str, dict[str, Any]] = field(default_factory=dict)
    peak_rss_mb: float | None = None

    def get(self, event: str, name: str) -> Any:
        """A value of an event; None where there was no such event."""
        return self.by_name.get(event, {}).get(name)


def _environment() -> dict[str, str]:
    # The package may run from a source tree that is on sys.path alone.
    home = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH")) if p)}


def _follow(
    process: subprocess.Popen[str], task: dict[str, Any], timeout: float, on_event: Callable[[str], None] | None
) -> Events:
    assert process.stdin is not None
    events = Events()
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # it died at once; its last words are read below
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
    heard = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=_MEMORY_EVERY)
        except queue.Empty:
            _note_memory(events, process.pid)
            if process.poll() is not None and lines.empty():
                return events  # crashed; its workers may still hold the pipe open
            if time.monotonic() - heard > (timeout if events.by_name else max(timeout, _IMPORTS)):
                last = next(reversed(events.by_name), None)
                where = f"after {last!r}" if last else "before it had begun"
                raise CellError(f"hung: nothing happened for {time.monotonic() - heard:.0f} s ({where})") from None
            continue
        if line is None:
            return events
        heard = time.monotonic()
        event = json.loads(line)
        name = event.pop("event")
        events.by_name[name] = event
        if name == "end":
            return events
        _note_memory(events, process.pid)
        if on_event is not None:
            on_event(name)


def _pump(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed under our hands after a hang
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _note_memory(events: Events, pid: int) -> None:
    usage = tree_usage(pid)
    if usage is not None and usage.processes:
        events.peak_rss_mb = max(events.peak_rss_mb or 0.0, usage.rss_bytes / 1e6)


def _last_words(code: int | None, errors: Any) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    return f"the process {how}" + (f": {lines[-1][:200]}" if lines else "")


# ---------------------------------------------------------------------------------------------------------------------
# The cells


@dataclass
class Cell:
    """One setting of the sweep, and what its repeats have measured."""

    row: Row
    task: dict[str, Any]
    rates: list[float] = field(default_factory=list)
    opens: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cpu_wait: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    first_epochs: list[float] = field(default_factory=list)
    later_epochs: list[float] = field(default_factory=list)
    peak_mb: float | None = None
    worker_kind: str | None = None
    status: str = OK
    seconds: float = 0.0  # that its last repeat took, start-up and all

    def spread(self) -> float | None:
        """(highest - lowest) / median of the repeats; None with fewer than two."""
        return (max(self.rates) - min(self.rates)) / median(self.rates) if len(self.rates) > 1 else None

    def settled(self) -> bool:
        """Whether another repeat would add nothing."""
        spread = self.spread()
        return self.status != OK or (spread is not None and spread <= _CLOSE)

    def repeat(self, timeout: float) -> None:
        """Measure once more; what goes wrong becomes the row's status."""
        begin = time.monotonic()
        try:
            events = run_cell(self.task, timeout)
        except CellError as error:
            # A figure that was measured before stays; one failure of several is still worth saying.
            self.status = str(error)
            return
        finally:
            self.seconds = time.monotonic() - begin
        for values, event, name in (
            (self.rates, "slice", "images_per_s"),
            (self.cpu, "slice", "cpu_seconds_per_1k_images"),
            (self.cpu_wait, "slice", "cpu_wait_seconds_per_1k_images"),
            (self.others, "slice", "other_cores"),
            (self.gaps, "slice", "epoch_gap_s"),
            (self.opens, "opened", "seconds"),
            (self.starts, "first_batch", "seconds"),
            (self.first_epochs, "epochs", "first_epoch_s"),
            (self.later_epochs, "epochs", "later_epoch_s"),
        ):
            value = events.get(event, name)
            if value is not None:
                values.append(value)
        self.worker_kind = events.get("opened", "worker_kind")
        if events.peak_rss_mb is not None:
            self.peak_mb = max(self.peak_mb or 0.0, events.peak_rss_mb)

    def result(self) -> Row:
        """The row as far as it is measured."""
        if self.status == OK and not self.rates:
            return replace(self.row, status="not measured: stopped before its turn")
        return replace(
            self.row,
            images_per_s=_median(self.rates),
            spread=self.spread(),
            repeats=tuple(self.rates),
            open_s=_median(self.opens),
            first_batch_s=_median(self.starts),
            epoch_gap_s=_median(self.gaps),
            first_epoch_s=_median(self.first_epochs),
            later_epoch_s=_median(self.later_epochs),
            peak_rss_mb=self.peak_mb,
            cpu_seconds_per_1k_images=_median(self.cpu),
            cpu_wait_seconds_per_1k_images=_median(self.cpu_wait),
            other_cores=_median(self.others),
            worker_kind=self.worker_kind,
            status=self.status,
        )


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def sweep(cells: list[Cell], *, repeats: int, timeout: float, deadline: float) -> Iterator[Cell]:
    """Measure all cells, round after round, so that a machine that drifts favours none; yields each cell as it is due.

    A cell is yielded twice a turn: before it runs and after. The first round runs whole; a later one begins and goes on
    only while it ends, by what the cells took before, ahead of `deadline` (time.monotonic()).
    """
    for turn in range(repeats):
        due = [cell for cell in cells if not cell.settled()]
        # Every other round runs backwards: what each cell finds of its neighbours' heat and cache evens out.
        for cell in due if turn % 2 == 0 else reversed(due):
            if turn and time.monotonic() + cell.seconds > deadline:
                continue
            yield cell
            cell.repeat(timeout)
            yield cell
