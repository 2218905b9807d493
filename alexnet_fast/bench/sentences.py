"""The verdict in sentences, each with the figures that it rests on; the table contradicts none of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .reasons import Claim, Said, cores, say_cold, say_fetch, say_from_disk, say_processes, say_why
from .results import BASELINE, Measured, Row
from .verdict import (
    EPOCHS,
    OTHERS,
    Findings,
    Trend,
    break_even,
    default_row,
    findings,
    loader_rows,
    series_of,
    tolerance,
    training_rate,
    training_seconds,
)
from .words import number, percent, seconds, times, workers


def explain(measured: Measured, best: Row | None) -> tuple[str, ...]:
    """The verdict in sentences. One that a row of the table contradicts is replaced by a sentence that says so."""
    if best is None:
        reasons = dict.fromkeys(row.status for row in measured.rows if not row.ok)
        return (f"No setting could be measured: {'; '.join(reasons) or 'there were none to measure'}.",)
    f = findings(measured, best)
    said: list[Said] = [
        _say_best(measured, best),
        _say_quicker(measured, best),
        _say_demand(measured, best),
        _say_others(measured),
        _say_workers(f),
        *say_why(f),
        say_processes(f),
        _say_start(f),
        say_fetch(f),
        say_from_disk(f),
        say_cold(f),
        _say_baseline(measured, best),
        _say_baseline_workers(measured),
    ]
    claims = [Claim(sentence) if isinstance(sentence, str) else sentence for sentence in said if sentence]
    found: dict[str, None] = {}
    for claim in claims:
        wrong = claim.contradiction()
        found[claim.text if wrong is None else _say_contradiction(*wrong)] = None
    return tuple(found)


def _say_contradiction(row: Row, most: float) -> str:
    return (
        f"What holds the loader up is left unsaid: by its stages, timed one by one, {workers(row.workers)} could read "
        f"{number(most)} images/s at most, and they read {number(row.rate)}; repeat the sweep on a machine at rest."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sentences. Each returns None where its measurement is missing or says nothing.


def _say_best(measured: Measured, best: Row) -> str:
    """What was chosen, and how it stands to no workers and to the default."""
    spread = "" if best.spread is None else f" (repeats {percent(best.spread)} apart)"
    lead = "Best setting" if _is_fastest(measured, best) else "Chosen, as the simplest setting that serves as well"
    sentence = f"{lead}: {best.setting}: {number(best.rate)} images/s{spread}"
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
        if best.rate > default.rate:
            sentence += (
                f"; that is {percent(best.rate / default.rate - 1)} more than the default, auto, "
                f"which takes {default.setting.backend} with {workers(default.workers)} ({number(default.rate)})"
            )
        else:
            sentence += (
                f"; the default, auto, takes {default.setting.backend} with {workers(default.workers)}, which reads "
                f"{times(default.rate / best.rate)} as fast ({number(default.rate)})"
            )
        ours, auto = training_rate(best, measured), training_rate(default, measured)
        if measured.demand is not None and abs(ours / auto - 1) <= tolerance(best, default):
            sentence += f", but training would not tell them apart ({number(ours)} and {number(auto)} images/s)"
    return sentence + "."


def _is_fastest(measured: Measured, best: Row) -> bool:
    return max(row.rate for row in loader_rows(measured)) <= best.rate * 1.005


def _say_quicker(measured: Measured, best: Row) -> str | None:
    """Which setting is the fastest, by how much, and why it was not chosen."""
    if _is_fastest(measured, best):
        return None
    top = max(loader_rows(measured), key=lambda row: row.rate)
    lead = f"The fastest is {top.setting}: {number(top.rate)}, {times(top.rate / best.rate)} as fast"
    if top.rate <= best.rate * (1 + tolerance(top, best)):
        return f"{lead}, which lies within the spread."
    gained = training_seconds(best, measured) / training_seconds(top, measured) - 1
    if training_rate(top, measured) <= training_rate(best, measured) * (1 + tolerance(top, best)):
        return f"{lead}; training would gain nothing from it."
    if gained > 0:
        return f"{lead}; over {EPOCHS} epochs that would gain {percent(gained)}, no more than the spread."
    return f"{lead}; it takes {seconds(top.start)} to its first batch, which {EPOCHS} epochs do not win back."


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


def _taken(measured: Measured) -> float:
    """Cores that other programs took of those that this process could have used, in the median of the rows."""
    shares = [row.figures.other_cores for row in measured.rows if row.ok and row.figures.other_cores is not None]
    e = measured.environment
    # What a quota withholds, others may have.
    return max(0.0, median(shares) - (e.affinity - e.capacity)) if shares else 0.0


def _say_others(measured: Measured) -> str | None:
    """A machine that was not the sweep's alone."""
    taken, e = _taken(measured), measured.environment
    if taken < OTHERS * e.capacity:
        return None
    return (
        f"Other programs took {taken:.1f} of the {e.usable_cores} usable {cores(e.usable_cores)} meanwhile: with "
        "the machine to itself the loader is faster, and the figures lie closer together."
    )


def _say_workers(f: Findings) -> str | None:
    if f.trend is None:
        return None
    sentence = _trend_sentence(f.trend, f.series)
    backend = f.trend.least.backend
    return sentence if backend == f.best.backend else f"Of the {backend} backend: {sentence}"


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


def _say_start(f: Findings) -> str | None:
    trend = f.trend
    if trend is None or trend.least.figures.first_batch_s is None or trend.most.figures.first_batch_s is None:
        return None
    least = trend.least
    rows = [row for row in f.series[1:] if row.rate > least.rate * (1 + tolerance(least, row))]
    many = max(rows, key=lambda row: row.rate) if rows else trend.most
    return _start_sentence(least, many, f.measured.environment.records, "this split")


def _pay(row: Row) -> str:
    return "pays" if row.workers == 1 else "pay"


def _start_sentence(few: Row, many: Row, records: int, what: str) -> str | None:
    lead = (
        f"Start-up: the first batch comes after {seconds(few.start)} with {workers(few.workers)} and after "
        f"{seconds(many.start)} with {workers(many.workers)}"
    )
    quicker = False
    first, first_of_many = few.figures.first_epoch_s, many.figures.first_epoch_s
    if first is not None and first_of_many is not None:
        quicker = first_of_many < first
        measured = (
            f"; measured, the first epoch of its {number(records)} images takes {seconds(first)} and "
            f"{seconds(first_of_many)}"
        )
    else:
        measured = ""
    images = break_even(few, many)
    if images is None or many.rate <= few.rate * (1 + tolerance(few, many)):
        if many.start <= few.start or not measured:
            return None
        return f"{lead}{measured}; {workers(many.workers)} read no faster, so that this is never won back."
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


def _baseline_rows(measured: Measured) -> list[Row]:
    return sorted((row for row in measured.rows if row.ok and row.backend == BASELINE), key=lambda row: row.workers)


def _say_baseline(measured: Measured, best: Row) -> str | None:
    rows = _baseline_rows(measured)
    failed = dict.fromkeys(row.status for row in measured.rows if row.backend == BASELINE and not row.ok)
    if not rows:
        return f"ImageFolder could not be measured: {'; '.join(failed)}." if failed else None
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
    opening = same[0].figures.open_s
    if opening is not None and opening > 0.5 * same[0].start:
        start = f"Looking through its {number(records)} files takes {seconds(opening)} before it begins. {start or ''}"
    said = f"ImageFolder by number of worker processes: {listed} images/s." + (f" {start}" if start else "")
    if not settings.get("persistent_workers", True) and most.workers:
        said += (
            f" Without persistent workers each epoch starts them anew: {seconds(most.start - (opening or 0.0))} to the "
            f"first batch of every epoch with {workers(most.workers)}."
        )
    return said
