"""What holds a loader up, in sentences: the disk, the cores, the work of a stage, hand-over, Python's lock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from ..words import counted
from .results import Measured, Row
from .verdict import (
    BUSY,
    FROM_DISK,
    LOCK,
    OTHERS,
    SPARE,
    Findings,
    from_disk,
    lanes,
    loader_rows,
    tolerance,
    training_rate,
    work_ms,
)
from .words import milliseconds, number, percent, size, workers

# A row may be faster than stages, timed alone, allow by this factor: processors change their clock with the load.
_LEEWAY = 1.5


@dataclass(frozen=True)
class Claim:
    """A sentence, and the fastest that rows of the table can be if it is true.

    Attributes:
        bounds: (row, images/s) each.
    """

    text: str
    bounds: tuple[tuple[Row, float], ...] = ()

    def contradiction(self) -> tuple[Row, float] | None:
        """The bound that its row exceeds, None where the table agrees."""
        return next(((row, most) for row, most in self.bounds if row.rate > most * _LEEWAY), None)


Said = str | Claim | None


def cores(count: int) -> str:
    """The word after so many."""
    return "core" if count == 1 else "cores"


def say_why(f: Findings) -> Iterator[Said]:
    """What ends the gain: the disk, the cores, too few workers, or the main process; and what the cores do."""
    row, capacity = f.limit, f.measured.environment.capacity
    if row is None:
        return
    if f.waits_for_disk:
        yield _say_waits(f, row)
        return
    # Where the gain ends the last cores may still be free now and then; with the most workers they are not.
    for full in (row, max(f.series, key=lambda row: row.cores_busy or 0.0)):
        if _cores_are_full(f.measured, full):
            yield _say_cores(f.measured, full)
            yield _say_decode(f.measured, full)
            return
    if row.cores_busy is None:
        yield _say_decode(f.measured, row)
        return
    if row.backend == "torchvision" and row.cores_busy >= BUSY * lanes(row, capacity):
        yield _say_lanes(f, row)
        yield _say_decode(f.measured, row)
        return
    yield _say_main_process(f.measured, row) or _say_idle(f.measured, row)


def _cores_are_full(measured: Measured, row: Row) -> bool:
    busy, others, capacity = row.cores_busy, row.figures.other_cores, measured.environment.capacity
    if busy is None:
        return False
    if busy >= BUSY * capacity:
        return True
    if others is None:
        return (row.cores_wanted or 0.0) >= BUSY * capacity
    # One thread alone is held up by others only where no other core is left for it.
    wants_more = row.workers > 1 or (row.cores_wanted or 0.0) > busy / BUSY
    return wants_more and busy + cores_taken_from(measured, row) >= BUSY * capacity


def cores_taken_from(measured: Measured, row: Row) -> float:
    e = measured.environment
    return max(0.0, (row.figures.other_cores or 0.0) - (e.affinity - e.capacity))


def _say_cores(measured: Measured, row: Row) -> str:
    e = measured.environment
    # A slice ends while workers are at batches that nobody has counted yet, so it may come to a little above all.
    busy, wanted = min(row.cores_busy or 0.0, e.usable_cores), min(row.cores_wanted or 0.0, e.capacity)
    limits = []
    if e.affinity < e.cores:
        limits.append(f"its affinity allows this process {e.affinity} of the machine's {e.cores}")
    if e.cpu_quota is not None and e.cpu_quota < e.affinity:
        worth = "1 core's" if e.cpu_quota == 1 else f"{e.cpu_quota:g} cores'"
        limits.append(f"its cgroup grants it {worth} worth of time")
    if busy < BUSY * e.capacity:
        taken = cores_taken_from(measured, row)
        part = f"{taken:.1f}" if taken >= OTHERS * e.capacity else "their part of the machine"
        more = f"it would use {wanted:.1f}, but " if wanted > busy + 0.05 else ""
        limits.append(f"{more}other programs take {part}")
    return (
        f"Too few cores for more: {_who(row)} {_keep(row)} {busy:.1f} of the {e.usable_cores} usable "
        + cores(e.usable_cores)
        + " busy"
        + (f" ({', and '.join(limits)})" if limits else "")
        + "; a further worker only takes its share from the others."
    )


def _who(row: Row) -> str:
    return "the main process" if row.workers == 0 else workers(row.workers)


def _keep(row: Row) -> str:
    return "keeps" if row.workers <= 1 else "keep"


def _say_lanes(f: Findings, row: Row) -> str:
    """Every worker is busy, and cores are left."""
    e, most = f.measured.environment, f.series[-1]
    who = "the thread that reads, with no workers," if row.workers == 0 else f"each of {workers(row.workers)}"
    if row.workers == 1:
        who = "1 worker"
    lead = f"Of the {e.usable_cores} usable cores {row.cores_busy or 0:.1f} are busy: {who} has one to itself"
    if most is row:
        return f"{lead}. More workers would use the others, and were not swept: add a larger number to --num-workers."
    return f"{lead}. {workers(most.workers).capitalize()} use {most.cores_busy or 0:.1f} of them and read no faster."


def _say_waits(f: Findings, row: Row) -> str:
    share, e = from_disk(row, f.measured), f.measured.environment
    return (
        f"It waits for the disk: with {workers(row.workers)} {percent(share)} of the bytes came from there, and "
        f"{row.cores_busy or 0:.1f} of the {e.usable_cores} usable {cores(e.usable_cores)} were busy."
    )


def _stage_bounds(measured: Measured, ms: float) -> tuple[tuple[Row, float], ...]:
    """What the torchvision backend's rows can read at most where an image takes a worker so long."""
    capacity = measured.environment.capacity
    rows = [row for row in loader_rows(measured) if row.backend == "torchvision"]
    return tuple((row, lanes(row, capacity) * 1000 / ms) for row in rows)


def _say_decode(measured: Measured, row: Row) -> Claim | None:
    if row.backend != "torchvision":
        return None  # the stages are those of this backend's workers
    s, e = measured.stages, measured.environment
    work = work_ms(s, e.device)
    if work is None or s.decode is None or s.augment is None or s.read is None:
        return None
    parts = {"decoding": s.decode, "crop, resize and flip": s.augment, "reading": s.read}
    if e.device == "cpu" and s.device_augment is not None:
        parts["normalising"] = s.device_augment
    largest = max(parts, key=lambda name: parts[name])
    listed = ", ".join(f"{name} {milliseconds(ms)} ms ({percent(ms / work)})" for name, ms in parts.items())
    verdict = {"decoding": "decode-bound", "crop, resize and flip": "bound by crop and resize", "reading": "read-bound"}
    verdict["normalising"] = "bound by normalising"
    advice = ""
    if largest == "decoding" and min(e.median_width, e.median_height) > 2 * e.settings.get("image_size", 224):
        advice = " Packing with --resize-shorter makes the images, and with them the decoding, smaller."
    return Claim(
        f"It is {verdict[largest]}: an image ({e.median_width}x{e.median_height} pixels in the median) takes "
        f"{milliseconds(work)} ms of one core: {listed}.{advice}",
        _stage_bounds(measured, work),
    )


def _say_main_process(measured: Measured, row: Row) -> Claim | None:
    s = measured.stages
    if row.backend != "torchvision" or measured.environment.device == "cpu" or row.workers == 0:
        return None  # other backends finish their batches elsewhere, and on a CPU the workers do
    ms = (s.copy or 0.0) + (s.device_augment or 0.0)
    if ms <= 0 or 1000 / row.rate > ms / 0.7:
        return None
    rows = [other for other in loader_rows(measured) if other.backend == "torchvision"]
    return Claim(
        f"It is hand-over-bound: copying batches to the device and finishing them there takes {milliseconds(ms)} ms an "
        f"image, which alone allows {number(1000 / ms)} images/s with any number of workers.",
        tuple((other, 1000 / ms) for other in rows),
    )


def say_processes(f: Findings) -> str | None:
    """Whether Python's lock is in the way of threads: from the same setting with processes, which have one each."""
    other = f.measured.processes
    if other is None or not other.ok or other.rate < LOCK * f.best.rate * (1 + tolerance(other, f.best) / 2):
        return None
    return (
        f"Python's lock (the GIL) is in the way of threads: {workers(other.workers)} read "
        f"{number(other.rate)} images/s as processes and {number(f.best.rate)} as threads. From Python, "
        'open_loader(..., options={"workers": "process"}) takes processes.'
    )


def _say_idle(measured: Measured, row: Row) -> str:
    e = measured.environment
    where = "on the device, which does the decoding" if row.backend == "dali" and e.device == "cuda" else "elsewhere"
    return (
        f"The cores are not the limit: {_who(row)} {_keep(row)} {row.cores_busy or 0:.1f} of "
        f"{e.usable_cores} busy, and the stages measured on the host do not account for the rest; it is spent {where}."
    )


def say_from_disk(f: Findings) -> str | None:
    """Rows whose figures are the disk's, not the page cache's."""
    shares = {id(row): from_disk(row, f.measured) for row in f.rows}
    cold = [row for row in f.rows if shares[id(row)] >= FROM_DISK]
    if not cold:
        return None
    which = (
        "All figures are" if len(cold) == len(f.rows) else f"The figures of {len(cold)} of {len(f.rows)} settings are"
    )
    share = percent(median(shares[id(row)] for row in cold))
    beside = "" if len(cold) == len(f.rows) else ", and cannot be compared with the others"
    return f"{which} the disk's, not the page cache's: {share} of the bytes were read from it in the median{beside}."


def say_fetch(f: Findings) -> str | None:
    """Whether the network or the loader sets the time of an epoch whose shards are not here."""
    fetch = f.measured.fetch
    if fetch is None:
        return None
    come = f"shards come at {size(fetch.bytes_per_s)}/s, which is {number(fetch.images_per_s)} images/s"
    part = "all" if fetch.shards == fetch.of_shards else f"{fetch.shards} of the"
    sample = f"The table is of {part} {counted(fetch.of_shards, 'shard')}, on the local disk."
    need = training_rate(f.best, f.measured)
    what = "training takes" if f.measured.demand is not None else "the best setting reads"
    if fetch.stored_bytes <= fetch.cache_bytes:
        later = (
            f"from the second epoch on the cache ({size(fetch.cache_bytes)}) holds the split, and nothing is fetched"
        )
    else:
        later = (
            f"the cache ({size(fetch.cache_bytes)}) does not hold the split's {size(fetch.stored_bytes)}, so shards "
            "are fetched in every epoch: a larger --cache-bytes ends that"
        )
    if fetch.images_per_s < need:
        return (
            f"The network is the limit while shards are fetched: {come}, and {what} {number(need)}; {later}. {sample}"
        )
    return f"The network keeps up: {come}, and {what} {number(need)}; {later}. {sample}"


def say_cold(f: Findings) -> Said:
    measured = f.measured
    s, e = measured.stages, measured.environment
    work = work_ms(s, e.device)
    if s.read_cold is None or s.read is None or work is None:
        return None
    other = work - s.read
    cold, warm = milliseconds(s.read_cold), milliseconds(s.read)
    lead = f"a record takes {cold} ms from the disk and {warm} ms from the page cache"
    if s.read_cold <= 0.5 * work:
        if f.waits_for_disk:
            return None
        return f"Reading is not the limit, cold or warm: {lead}, against {milliseconds(work)} ms of work on an image."
    lead += f", against {milliseconds(other)} ms of other work on an image"
    if s.read > other:
        return Claim(
            f"Every epoch is read-bound, even with its records in memory: {lead}.", _stage_bounds(measured, work)
        )
    demand, rate = measured.demand, 1000 / (s.read_cold + other)
    if demand is not None and demand.images_per_s is not None and rate >= SPARE * demand.images_per_s:
        return (
            f"Training does not wait for the disk, not even in the first epoch: {lead}, so a single reader gets "
            f"{number(rate)} images/s from a cold disk, and {demand.model} takes {number(demand.images_per_s)}."
        )
    lead += f", so one reader gets {number(1000 / s.read_cold)} images/s at most"
    whole = e.bytes if measured.fetch is None else measured.fetch.bytes
    split = f"the split ({size(whole)})"
    if s.read_cold <= other:
        return f"A cold disk slows the first epoch, though it does not rule it: {lead}."
    if e.memory_available_bytes is None:
        return f"Read-bound from a cold disk: {lead} until {split} is in memory."
    if whole < 0.8 * e.memory_available_bytes:
        return (
            f"The first epoch is read-bound: {lead}; later epochs are not, because {split} fits into the "
            f"{size(e.memory_available_bytes)} of memory that are free for the page cache."
        )
    swept_cold = any(from_disk(row, measured) >= FROM_DISK for row in f.rows)
    promise = "" if swept_cold else ", and the table, measured from the page cache, promises too much"
    return (
        f"Every epoch is read-bound{promise}: {lead}, and {split} does not fit into the "
        f"{size(e.memory_available_bytes)} of memory that are free for the page cache."
    )
