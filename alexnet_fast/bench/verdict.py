"""From figures to a setting: pure functions of what one sweep measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .results import BASELINE, Measured, Row, Setting, Stages

# A training is thought of as this many epochs where a start-up is weighed against the speed that it buys.
EPOCHS = 10
# Two settings nearer than this, or than their own spread, count as equal.
TOLERANCE = 0.03
# On a device of its own the network never takes more than its demand; a loader this far above it has nothing to gain.
SPARE = 1.25
# Share of the usable cores from which on they count as all busy.
BUSY = 0.85
# Share of the usable cores that other programs may take before the figures are no longer this machine's.
OTHERS = 0.15
# Share of an image's bytes from which on a row counts as read from the disk.
FROM_DISK = 0.3
# As many processes must be this much faster than threads for Python's lock to be named.
LOCK = 1.15


def training_rate(row: Row, measured: Measured) -> float:
    """Images/s that training can be expected to reach with a setting.

    On a device of its own the slower of loader and network decides. On a CPU both share the cores: workers fill what
    the network leaves idle, so their CPU time adds up; without workers loader and network take turns.
    """
    demand = measured.demand.images_per_s if measured.demand is not None else None
    if demand is None:
        return row.rate
    if measured.environment.device != "cpu":
        return min(row.rate, demand * SPARE)
    cpu = row.figures.cpu_seconds_per_1k_images
    if row.workers == 0 or cpu is None:
        return 1 / (1 / row.rate + 1 / demand)
    together = 1 / (cpu / 1000 / measured.environment.usable_cores + 1 / demand)
    return min(row.rate, together)


def training_seconds(row: Row, measured: Measured) -> float:
    """What `EPOCHS` epochs take."""
    return row.start + EPOCHS * measured.environment.records / training_rate(row, measured)


def loader_rows(measured: Measured) -> list[Row]:
    """Measured rows that a training could use: neither the baseline nor the ceiling."""
    return [row for row in measured.rows if row.ok and row.backend not in (BASELINE, "synthetic")]


def choose(measured: Measured) -> Row | None:
    """The setting to train with: of those that are as quick as the quickest within the spread, the simplest."""
    rows = loader_rows(measured)
    if not rows:
        return None
    seconds = {id(row): training_seconds(row, measured) for row in rows}
    best = min(rows, key=lambda row: seconds[id(row)])
    close = [row for row in rows if seconds[id(row)] <= seconds[id(best)] * (1 + tolerance(best, row))]
    batches = [row.batch_size for row in rows]
    names = list(measured.environment.backends)
    return min(
        close,
        key=lambda row: (
            row.workers,
            row.pin_memory,
            names.index(row.backend) if row.backend in names else len(names),
            batches.index(row.batch_size),
        ),
    )


def tolerance(*rows: Row) -> float:
    """How far apart the medians may be and still count as equal: half the widest spread, at least `TOLERANCE`."""
    return max([TOLERANCE, *(row.spread / 2 for row in rows if row.spread is not None)])


def series_of(measured: Measured, best: Row) -> list[Row]:
    """Rows that differ from `best` in the number of workers alone, fewest first."""
    same = [
        row
        for row in measured.rows
        if row.ok and (row.backend, row.pin_memory, row.batch_size) == (best.backend, best.pin_memory, best.batch_size)
    ]
    return sorted(same, key=lambda row: row.workers)


def default_row(measured: Measured, best: Row) -> Row | None:
    """The row of what is read with when nobody chooses: backend and num_workers auto, if swept."""
    e = measured.environment
    rows = [row for row in loader_rows(measured) if row.batch_size == best.batch_size]
    pin = e.device == "cuda"
    auto = [row for row in rows if row.backend == e.auto_backend and row.workers == e.auto_workers]
    auto.sort(key=lambda row: row.pin_memory != pin)
    return auto[0] if auto else None


@dataclass(frozen=True)
class Trend:
    """What more workers did: the fewest swept, the fastest, and the most swept."""

    least: Row
    top: Row
    most: Row

    @property
    def helped(self) -> bool:
        return self.top.rate > self.least.rate * (1 + tolerance(self.least, self.top))

    @property
    def slower(self) -> bool:
        return self.most.rate < self.least.rate * (1 - tolerance(self.least, self.most))


def trend_of(series: Sequence[Row]) -> Trend | None:
    """The trend over rows that differ in the number of workers alone, fewest first; None for fewer than two."""
    if len(series) < 2:
        return None
    highest = max(row.rate for row in series)
    # The fewest workers that are as good as the best: that is where the gain ends.
    top = next(row for row in series if row.rate >= highest * (1 - TOLERANCE))
    return Trend(series[0], top, series[-1])


def from_disk(row: Row, measured: Measured) -> float:
    """Share of the bytes of its images that a row read from the disk, 0 where that is not known."""
    e = measured.environment
    return min(1.0, (row.figures.disk_bytes_per_image or 0.0) * e.records / e.bytes) if e.bytes else 0.0


def lanes(row: Row, capacity: float) -> float:
    """Cores that a row can keep busy: one by each worker, one without, and no more than there are."""
    return min(max(1, row.workers), capacity)


def work_ms(stages: Stages, device: str) -> float | None:
    """Milliseconds of a worker's time that one image costs, its record in the page cache."""
    parts = [stages.read, stages.decode, stages.augment]
    if device == "cpu":
        parts.append(stages.device_augment)
    return None if None in parts else math.fsum(part for part in parts if part is not None)


def break_even(few: Row, many: Row) -> float | None:
    """Images an epoch must have for `many` to end it first in spite of a longer start-up; None: never, or always."""
    saved = 1 / few.rate - 1 / many.rate
    lost = many.start - few.start
    return lost / saved if saved > 0 and lost > 0 else None


def recommendation(best: Row | None) -> Setting | None:
    """`best` as the setting that train takes."""
    return None if best is None else best.setting


@dataclass(frozen=True)
class Findings:
    """What the sentences rest on, computed once.

    Attributes:
        best: the recommended row.
        rows: those that a training could use.
        series: rows that differ in the number of workers alone, fewest first: those of `best`, or, where its backend is
            not sped up by workers, of the fastest backend that is.
        trend: over the series; None for fewer than two rows.
        limit: the row at which the gain of more workers ends; None where there is no series.
    """

    measured: Measured
    best: Row
    rows: list[Row]
    series: list[Row]
    trend: Trend | None
    limit: Row | None

    @property
    def waits_for_disk(self) -> bool:
        """Whether the disk, and not the cores, held up the row at which the gain of more workers ends."""
        row, capacity = self.limit, self.measured.environment.capacity
        if row is None or from_disk(row, self.measured) < FROM_DISK:
            return False
        return row.cores_busy is None or row.cores_busy < BUSY * lanes(row, capacity)


def findings(measured: Measured, best: Row) -> Findings:
    """Look through what was measured."""
    rows, series = loader_rows(measured), series_of(measured, best)
    if len(series) < 2:  # a backend that workers do not speed up: whether they help the others is still worth saying
        others = sorted(rows, key=lambda row: -row.rate)
        series = next((found for row in others if len(found := series_of(measured, row)) > 1), series)
    trend = trend_of(series)
    limit = trend.top if trend is not None else series[-1] if series else None
    return Findings(measured, best, rows, series, trend, limit)
