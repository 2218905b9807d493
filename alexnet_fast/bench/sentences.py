"""The verdict in sentences, each with the figures of this sweep that it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from .results import BASELINE, Measured, Row
from .verdict import (
    BUSY,
    EPOCHS,
    OTHERS,
    SCALING,
    SPARE,
    Trend,
    break_even,
    default_row,
    loader_rows,
    series_of,
    tolerance,
    training_rate,
    training_seconds,
    trend_of,
    work_ms,
)
from .words import milliseconds, number, percent, seconds, size, times, workers


def explain(measured: Measured, best: Row | None) -> tuple[str, ...]:
    """The verdict in sentences, each with the figures that it rests on."""
    if best is None:
        reasons = dict.fromkeys(row.status for row in measured.rows if not row.ok and row.num_workers is not None)
        return (f"No setting could be measured: {'; '.join(reasons) or 'there were none to measure'}.",)
    series = series_of(measured, best)
    if len(series) < 2:  # a backend that workers do not speed up: whether they help the others is still worth saying
        others = sorted(loader_rows(measured), key=lambda row: -row.rate)
        series = next((found for row in others if len(found := series_of(measured, row)) > 1), series)
    said: list[str | None] = [
        _say_best(measured, best),
        _say_quicker(measured, best),
        _say_demand(measured, best),
        _say_others(measured),
        _say_workers(series, best),
        *_say_why(measured, series),
        _say_start(measured, series),
        _say_cold(measured),
        _say_baseline(measured, best),
        _say_baseline_workers(measured),
    ]
    return tuple(sentence for sentence in said if sentence)


# ---------------------------------------------------------------------------------------------------------------------
# Sentences. Each returns None where its measurement is missing or says nothing.


def _say_best(measured: Measured, best: Row) -> str:
    spread = "" if best.spread is None else f" (repeats {percent(best.spread)} apart)"
    sentence = f"Best setting: {best.setting}: {number(best.rate)} images/s{spread}"
    zero = next((row for row in series_of(measured, best) if row.workers == 0), None)
    if zero is not None and zero is not best:
        sentence += f", {times(best.rate / zero.rate)} the {number(zero.rate)} of num_workers=0"
    default = default_row(measured, best)
    if default is best:
        sentence += "; it is also what the default, auto, takes here"
    elif default is not None and abs(best.rate / default.rate - 1) <= tolerance(best, default):
        sentence += (
            f"; the default, auto, takes {default.setting.backend} with {workers(default.workers)} here, "
            f"which reads as fast ({number(default.rate)})"
        )
    elif default is not None:
        more = "more" if best.rate > default.rate else "less"
        sentence += (
            f"; that is {percent(abs(best.rate / default.rate - 1))} {more} than the default, auto, "
            f"which takes {default.setting.backend} with {workers(default.workers)} ({number(default.rate)})"
        )
        ours, auto = training_rate(best, measured), training_rate(default, measured)
        if measured.demand is not None and abs(ours / auto - 1) <= tolerance(best, default):
            sentence += f", but training would not tell them apart ({number(ours)} and {number(auto)} images/s)"
    return sentence + "."


def _say_quicker(measured: Measured, best: Row) -> str | None:
    """Why the highest figure of the table is not the one recommended."""
    top = max(loader_rows(measured), key=lambda row: row.rate)
    if top.rate <= best.rate * 1.005:
        return None
    lead = f"{top.setting} reached {number(top.rate)}"
    if top.rate <= best.rate * (1 + tolerance(top, best)):
        return f"{lead}, which lies within the spread, so the simpler setting is recommended."
    gained = training_seconds(best, measured) / training_seconds(top, measured) - 1
    if training_rate(top, measured) <= training_rate(best, measured) * (1 + tolerance(top, best)):
        return f"{lead}, but training would gain nothing from it, so the simpler setting is recommended."
    if gained > 0:
        return f"{lead}; over {EPOCHS} epochs that would gain {percent(gained)}, no more than the spread."
    return f"{lead}, but takes {seconds(top.start)} to its first batch, which {EPOCHS} epochs do not win back."


def _say_demand(measured: Measured, best: Row) -> str | None:
    demand, e = measured.demand, measured.environment
    if demand is None:
        return None
    if demand.images_per_s is None:
        return f"What the network takes could not be measured: {demand.error}."
    need = demand.images_per_s
    lead = (
        f"{demand.model} by itself trains on {number(need)} images/s on this device "
        f"({e.device_name}, {demand.precision}, batch {demand.batch_size})"
    )
    enough = [row for row in loader_rows(measured) if row.rate >= need]
    count = len(loader_rows(measured))
    others = f"; {'all' if len(enough) == count else len(enough)} of the {count} settings feed it"
    others *= len(enough) > 1
    if e.device == "cpu":
        rate = training_rate(best, measured)
        if best.rate < need:
            return (
                f"{lead}; reading is slower, and both share the cores: expect about {number(rate)} images/s of "
                "training."
            )
        return (
            f"{lead}, so the device is slower than the loader: the best setting reads {times(best.rate / need)} as "
            f"fast{others}. Both share the cores: expect about {number(rate)} images/s of training, "
            f"{percent(1 - rate / need)} less than without reading."
        )
    if best.rate >= need:
        fewest = min(enough, key=lambda row: row.workers)
        few = f", from {workers(fewest.workers)} up" if fewest is not best and fewest.workers < best.workers else ""
        return (
            f"{lead}, so the device is slower than the loader: the best setting feeds it with "
            f"{percent(best.rate / need - 1)} to spare{others}{few}."
        )
    top = max(loader_rows(measured), key=lambda row: row.rate)
    return (
        f"{lead}: no setting feeds it; the fastest stays {percent(1 - top.rate / need)} below, "
        "so the device will wait for data that share of the time."
    )


def _say_others(measured: Measured) -> str | None:
    """A machine that was not the sweep's alone."""
    shares = [row.other_cores for row in measured.rows if row.ok and row.other_cores is not None]
    cores = measured.environment.usable_cores
    if not shares or (taken := median(shares)) < OTHERS * cores:
        return None
    return (
        f"Other programs took {taken:.1f} of the {cores} usable {'core' if cores == 1 else 'cores'} meanwhile: with "
        "the machine to itself the loader is faster, and the figures lie closer together."
    )


def _say_workers(series: Sequence[Row], best: Row) -> str | None:
    trend = trend_of(series)
    if trend is None:
        return None
    sentence = _trend_sentence(trend, series)
    return sentence if trend.least.backend == best.backend else f"Of the {trend.least.backend} backend: {sentence}"


def _trend_sentence(trend: Trend, series: Sequence[Row]) -> str:
    least, top, most = trend.least, trend.top, trend.most
    if not trend.helped:
        change = most.rate / least.rate - 1
        if trend.slower:
            return (
                f"More workers do not help: {workers(most.workers)} read {percent(-change)} slower than "
                f"{workers(least.workers)} ({number(most.rate)} against {number(least.rate)} images/s)."
            )
        return (
            f"More workers do not help: {', '.join(f'{row.workers}: {number(row.rate)}' for row in series)} images/s "
            "by number of workers."
        )
    sentence = (
        f"More workers help up to {top.workers}: {workers(top.workers)} {'reads' if top.workers == 1 else 'read'} "
        f"{times(top.rate / least.rate)} as fast as {workers(least.workers)}"
    )
    if most is not top:
        change = most.rate / top.rate - 1
        beyond = "as fast" if abs(change) <= tolerance(most, top) else f"{percent(abs(change))} "
        if beyond != "as fast":
            beyond += "faster" if change > 0 else "slower"
        sentence += f"; {workers(most.workers)} are {beyond}"
    return sentence + "."


def _say_why(measured: Measured, series: Sequence[Row]) -> Iterable[str | None]:
    """What ends the gain: cores, the main process, or the GIL; and what the cores are busy with."""
    trend = trend_of(series)
    if trend is None:
        if series:
            yield _say_decode(measured, series[-1])
        return
    last = trend.top
    gil = _say_gil(measured, last)
    if gil is not None:
        yield gil
        return
    capacity = measured.environment.capacity
    # Where the gain ends the last cores may still be free now and then; with the most workers they are not.
    for row in (last, max(series, key=lambda row: row.cores_wanted or 0.0)):
        if (row.cores_wanted or 0.0) >= BUSY * capacity:
            yield _say_cores(measured, row)
            yield _say_decode(measured, row)
            return
    if last.cores_wanted is None:
        yield _say_decode(measured, last)
        return
    yield _say_main_process(measured, last) or _say_idle(measured, last)


def _say_cores(measured: Measured, row: Row) -> str:
    e = measured.environment
    # A slice ends while workers are at batches that nobody has counted yet, so it may come to a little above all.
    busy, wanted = min(row.cores_busy or 0.0, e.usable_cores), row.cores_wanted or 0.0
    limits = []
    if e.affinity < e.cores:
        limits.append(f"its affinity allows this process {e.affinity} of the machine's {e.cores}")
    if e.cpu_quota is not None and e.cpu_quota < e.affinity:
        limits.append(f"its cgroup grants it {e.cpu_quota:g} cores' worth of time")
    if busy < BUSY * e.capacity:
        limits.append(f"it would use {wanted:.1f}, but other programs take their part of the machine")
    return (
        f"Too few cores for more: {workers(row.workers)} keep {busy:.1f} of the {e.usable_cores} usable "
        + ("core" if e.usable_cores == 1 else "cores")
        + " busy"
        + (f" ({', and '.join(limits)})" if limits else "")
        + "; a further worker only takes its share from the others."
    )


def _say_decode(measured: Measured, row: Row) -> str | None:
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
    return (
        f"It is {verdict[largest]}: an image ({e.median_width}x{e.median_height} pixels in the median) takes "
        f"{milliseconds(work)} ms of one core: {listed}.{advice}"
    )


def _say_main_process(measured: Measured, row: Row) -> str | None:
    s = measured.stages
    if row.backend != "torchvision" or measured.environment.device == "cpu" or row.workers == 0:
        return None  # other backends finish their batches elsewhere, and on a CPU the workers do
    ms = (s.copy or 0.0) + (s.device_augment or 0.0)
    if ms <= 0 or 1000 / row.rate > ms / 0.7:
        return None
    return (
        f"It is hand-over-bound: copying batches to the device and finishing them there takes {milliseconds(ms)} ms a "
        f"image, which alone allows {number(1000 / ms)} images/s with any number of workers."
    )


def _say_gil(measured: Measured, row: Row) -> str | None:
    s = measured.stages
    if row.backend != "torchvision" or row.worker_kind == "process" or not s.threads:
        return None
    if s.thread_scaling is None or s.process_scaling is None or s.thread_scaling >= SCALING * s.process_scaling:
        return None
    return (
        f"The GIL is in the way: {s.threads} threads that read, decode and resize in one process reach "
        f"{times(s.thread_scaling)} the images of one, {s.threads} processes in the same seconds "
        f"{times(s.process_scaling)}; with images this small Python's own share of the work, which one thread at a "
        "time can do, is large."
    )


def _say_idle(measured: Measured, row: Row) -> str:
    e = measured.environment
    where = "on the device, which does the decoding" if row.backend == "dali" and e.device == "cuda" else "elsewhere"
    return (
        f"The cores are not the limit: {workers(row.workers)} keep {row.cores_busy or 0:.1f} of {e.usable_cores} "
        f"busy, and the stages measured on the host do not account for the rest; it is spent {where}."
    )


def _say_start(measured: Measured, series: Sequence[Row]) -> str | None:
    trend = trend_of(series)
    if trend is None or trend.least.first_batch_s is None or trend.most.first_batch_s is None:
        return None
    least = trend.least
    rows = [row for row in series[1:] if row.rate > least.rate * (1 + tolerance(least, row))]
    many = max(rows, key=lambda row: row.rate) if rows else trend.most
    return _start_sentence(least, many, measured.environment.records, "this split")


def _pay(row: Row) -> str:
    return "pays" if row.workers == 1 else "pay"


def _start_sentence(few: Row, many: Row, records: int, what: str) -> str | None:
    lead = (
        f"Start-up: the first batch comes after {seconds(few.start)} with {workers(few.workers)} and after "
        f"{seconds(many.start)} with {workers(many.workers)}"
    )
    quicker = False
    if few.first_epoch_s is not None and many.first_epoch_s is not None:
        quicker = many.first_epoch_s < few.first_epoch_s
        measured = (
            f"; measured, the first epoch of its {number(records)} images takes {seconds(few.first_epoch_s)} and "
            f"{seconds(many.first_epoch_s)}"
        )
    else:
        measured = ""
    images = break_even(few, many)
    if images is None or many.rate <= few.rate * (1 + tolerance(few, many)):
        if many.start <= few.start or not measured:
            return None
        return f"{lead}{measured}; {workers(many.workers)} read no faster and never win that back."
    if images > records and quicker:
        return f"{lead}{measured}, so that they pay from the first epoch on."
    if images > records:
        return (
            f"{lead}: {workers(many.workers)} {_pay(many)} from {number(images)} images an epoch on, and {what} "
            f"has {number(records)}, so start-up outweighs them{measured}."
        )
    if many.start - few.start < 0.05 and images < records / 10:
        return None
    pay = f"{workers(many.workers)} {_pay(many)} from {number(images)} images on"
    return f"{lead}: {pay}; {what} has {number(records)}{measured}."


def _say_cold(measured: Measured) -> str | None:
    s, e = measured.stages, measured.environment
    work = work_ms(s, e.device)
    if s.read_cold is None or s.read is None or work is None:
        return None
    other = work - s.read
    cold, warm = milliseconds(s.read_cold), milliseconds(s.read)
    lead = f"a record takes {cold} ms from the disk and {warm} ms from the page cache"
    if s.read_cold <= 0.5 * work:
        return f"Reading is not the limit, cold or warm: {lead}, against {milliseconds(work)} ms of work on an image."
    lead += f", against {milliseconds(other)} ms of other work on an image"
    if s.read > other:
        return f"Every epoch is read-bound, even with its records in memory: {lead}."
    demand, rate = measured.demand, 1000 / (s.read_cold + other)
    if demand is not None and demand.images_per_s is not None and rate >= SPARE * demand.images_per_s:
        return (
            f"Training does not wait for the disk, not even in the first epoch: {lead}, so a single reader gets "
            f"{number(rate)} images/s from a cold disk, and {demand.model} takes {number(demand.images_per_s)}."
        )
    lead += f", so each reader gets {number(1000 / s.read_cold)} images/s at most"
    split = f"the split ({size(e.bytes)})"
    if e.memory_available_bytes is None:
        return f"Read-bound from a cold disk: {lead} until {split} is in memory."
    if e.bytes < 0.8 * e.memory_available_bytes:
        return (
            f"The first epoch is read-bound: {lead}; later epochs are not, because {split} fits into the "
            f"{size(e.memory_available_bytes)} of memory that are free for the page cache."
        )
    return (
        f"Every epoch is read-bound, and the table, measured from the page cache, promises too much: {lead}, and "
        f"{split} does not fit into the {size(e.memory_available_bytes)} of memory that are free for the page cache."
    )


def _baseline_rows(measured: Measured) -> list[Row]:
    return sorted((row for row in measured.rows if row.ok and row.backend == BASELINE), key=lambda row: row.workers)


def _say_baseline(measured: Measured, best: Row) -> str | None:
    rows = _baseline_rows(measured)
    if not rows:
        return None
    top = max(rows, key=lambda row: row.rate)
    ratio = best.rate / top.rate
    verdict = f"packed, the best setting reads {times(ratio)} as fast" if ratio >= 1 else "packing gains nothing here"
    return (
        f"ImageFolder with a plain DataLoader reads the folder at {number(top.rate)} images/s at best "
        f"({workers(top.workers)}, batch {top.batch_size}); {verdict}."
    )


def _say_baseline_workers(measured: Measured) -> str | None:
    rows = _baseline_rows(measured)
    same = [
        row for row in rows if rows and (row.batch_size, row.pin_memory) == (rows[0].batch_size, rows[0].pin_memory)
    ]
    if len(same) < 2:
        return None
    settings = measured.environment.settings
    # Reports of before 0.2 say pictures.
    records = settings.get("baseline_images") or settings.get("baseline_pictures") or measured.environment.records
    most = same[-1]
    listed = ", ".join(f"{row.workers}: {number(row.rate)}" for row in same)
    start = _start_sentence(same[0], most, records, "the folder")
    opening = same[0].open_s
    if opening is not None and opening > 0.5 * same[0].start:
        start = f"Looking through its {number(records)} files takes {seconds(opening)} before it begins. {start or ''}"
    return f"ImageFolder by number of worker processes: {listed} images/s." + (f" {start}" if start else "")
