"""Tables of docs/bench-loader.md: two sweeps of `alexnet-fast bench-loader` over each data set, side by side.

The results are bench-loader.json as the command writes it, kept as results/bench-loader-NAME-1.json and -2.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alexnet_fast.bench import BenchReport, Row, Setting, read_report
from alexnet_fast.bench.sentences import explain
from alexnet_fast.bench.verdict import tolerance, training_rate, training_seconds

DATA = {"tiny": "Tiny ImageNet at 64", "full": "ImageNet, full size, at 224"}
BACKENDS = {"imagefolder": "ImageFolder + DataLoader"}
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
Pairs = Mapping[str, tuple[BenchReport, BenchReport]]


def load_pairs(folder: Path) -> dict[str, tuple[BenchReport, BenchReport]]:
    """By name of the data set: its first and its second sweep."""
    found = {}
    for name in DATA:
        paths = [folder / f"bench-loader-{name}-{number}.json" for number in (1, 2)]
        if all(path.exists() for path in paths):
            found[name] = (read_report(paths[0]), read_report(paths[1]))
    return found


def row_of(report: BenchReport, setting: Setting | None) -> Row:
    """The row of a setting that was measured."""
    return next(row for row in report.measured.rows if row.ok and row.setting == setting)


def agreement(first: BenchReport, second: BenchReport) -> str:
    """How the two recommendations stand to each other: by what ten epochs of training take, as the command judges."""
    if first.recommendation == second.recommendation:
        return "the same"
    for report in (first, second):
        rows = [row_of(report, r.recommendation) for r in (first, second)]
        seconds = [training_seconds(row, report.measured) for row in rows]
        if max(seconds) > min(seconds) * (1 + tolerance(*rows)):
            return "another"
    return "within the spread"


def sweeps(pairs: Pairs, markdown: Table) -> str:
    """A line a sweep: what it recommends, and whether it kept to its time."""
    rows = []
    for name, pair in pairs.items():
        for number, report in enumerate(pair, start=1):
            chosen = row_of(report, report.recommendation)
            rows.append(
                [
                    f"{DATA[name]}, sweep {number}",
                    f"{chosen.setting}",
                    f"{chosen.rate:,.0f}",
                    f"{chosen.spread or 0:.1%}",
                    f"{training_rate(chosen, report.measured):,.1f}",
                    "" if number == 1 else agreement(*pair),
                    f"{report.announced_s:.0f} s",
                    f"{report.seconds:.0f} s",
                ]
            )
    headings = ("", "recommended", "images/s", "spread", "expected of training", "as the first?", "announced", "took")
    return markdown(headings, rows)


def rates(pairs: Pairs, markdown: Table) -> str:
    """A line a setting: images/s and time to the first batch in both sweeps."""
    rows = []
    for name, (first, second) in pairs.items():
        for row in first.measured.rows:
            if not row.ok:
                continue
            both = (row, row_of(second, row.setting))
            rows.append(
                [
                    f"{DATA[name]}: {BACKENDS.get(row.backend, row.backend)}, {row.workers}",
                    *(f"{r.rate:,.0f} ({r.spread or 0:.0%})" for r in both),
                    f"{both[1].rate / row.rate - 1:+.0%}",
                    *(f"{r.start:.2f} s" for r in both),
                ]
            )
    headings = ("data and workers", "sweep 1, images/s (spread)", "sweep 2", "change", "first batch, 1", "2")
    return markdown(headings, rows)


def verdicts(pairs: Pairs) -> str:
    """What is said of the first sweep over each data set: its figures, in today's words."""
    parts = []
    for name, (first, _) in pairs.items():
        sentences = explain(first.measured, row_of(first, first.recommendation))
        parts.append(f"{DATA[name]}:\n\n" + "\n>\n".join(f"> {sentence}" for sentence in sentences))
    return "\n\n".join(parts)


def machine(pairs: Pairs) -> str:
    """Where it was measured."""
    e = next(iter(pairs.values()))[0].measured.environment
    found = {DATA[name]: first.measured.environment for name, (first, _) in pairs.items()}
    data = "; ".join(f"{name}: {e.records:,} images, {e.bytes / 1e6:,.0f} MB" for name, e in found.items())
    seconds = e.settings["seconds"]
    return (
        f"{e.machine}, {e.usable_cores} usable cores, device {e.device}; Python {e.versions['python']}, torch "
        f"{e.versions['torch']}; up to {seconds:g} s of measuring a setting (`--seconds {seconds:g}`). {data}."
    )


def tables(folder: Path, markdown: Table) -> dict[str, str]:
    """{name of a table: its Markdown}."""
    pairs = load_pairs(folder)
    if not pairs:
        return {}
    return {
        "bench-loader-sweeps": sweeps(pairs, markdown),
        "bench-loader-rates": rates(pairs, markdown),
        "bench-loader-verdicts": verdicts(pairs),
        "bench-loader-machine": machine(pairs),
    }
