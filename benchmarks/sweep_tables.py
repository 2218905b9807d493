"""Tables of docs/bench-loader.md: two sweeps of `alexnet-fast bench-loader` over each data set, side by side.

The results are bench-loader.json as the command writes it, kept as results/bench-loader-NAME-1.json and -2.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = {"tiny": "Tiny ImageNet at 64", "full": "ImageNet, full size, at 224"}
BACKENDS = {"imagefolder": "ImageFolder + DataLoader"}
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
Report = Mapping[str, Any]


def load_pairs(folder: Path) -> dict[str, tuple[Report, Report]]:
    """By name of the data set: its first and its second sweep."""
    found = {}
    for name in DATA:
        paths = [folder / f"bench-loader-{name}-{number}.json" for number in (1, 2)]
        if all(path.exists() for path in paths):
            first, second = (json.loads(path.read_text()) for path in paths)
            found[name] = (first, second)
    return found


def setting_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row varies."""
    return row["backend"], row["num_workers"], row["pin_memory"], row["batch_size"]


def row_of(report: Report, setting: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of a setting."""
    return next(row for row in report["rows"] if setting_of(row) == setting_of(setting))


def named(setting: Mapping[str, Any]) -> str:
    """A setting in words."""
    count = setting["num_workers"]
    return f"{setting['backend']}, {'1 worker' if count == 1 else str(count or 'no') + ' workers'}"


def agreement(first: Report, second: Report) -> str:
    """How the second sweep's recommendation stands in the first."""
    ours, theirs = first["recommendation"], second["recommendation"]
    if setting_of(ours) == setting_of(theirs):
        return "the same"
    gap = []
    for report in (first, second):
        a, b = row_of(report, ours), row_of(report, theirs)
        within = max(0.03, *((row["spread"] or 0.0) / 2 for row in (a, b)))
        gap.append((abs(a["images_per_s"] / b["images_per_s"] - 1), within))
    return "within the spread" if all(away <= within for away, within in gap) else "another"


def sweeps(pairs: Mapping[str, tuple[Report, Report]], markdown: Table) -> str:
    """A line a sweep: what it recommends, and whether it kept to its time."""
    rows = []
    for name, pair in pairs.items():
        for number, report in enumerate(pair, start=1):
            chosen = row_of(report, report["recommendation"])
            rows.append(
                [
                    f"{DATA[name]}, sweep {number}",
                    named(chosen),
                    f"{chosen['images_per_s']:,.0f}",
                    f"{chosen['spread'] or 0:.1%}",
                    "" if number == 1 else agreement(*pair),
                    f"{report['announced_s']:.0f} s",
                    f"{report['seconds']:.0f} s",
                ]
            )
    return markdown(("", "recommended", "pictures/s", "spread", "as the first?", "announced", "took"), rows)


def rates(pairs: Mapping[str, tuple[Report, Report]], markdown: Table) -> str:
    """A line a setting: pictures/s and time to the first batch in both sweeps."""
    rows = []
    for name, (first, second) in pairs.items():
        for row in first["rows"]:
            if row["images_per_s"] is None:
                continue
            again = row_of(second, row)
            rows.append(
                [
                    f"{DATA[name]}: {BACKENDS.get(row['backend'], row['backend'])}, {row['num_workers']}",
                    *(f"{r['images_per_s']:,.0f} ({r['spread'] or 0:.0%})" for r in (row, again)),
                    f"{again['images_per_s'] / row['images_per_s'] - 1:+.0%}",
                    *(f"{r['first_batch_s']:.2f} s" for r in (row, again)),
                ]
            )
    headings = ("data and workers", "sweep 1, pictures/s (spread)", "sweep 2", "change", "first batch, 1", "2")
    return markdown(headings, rows)


def verdicts(pairs: Mapping[str, tuple[Report, Report]]) -> str:
    """What the first sweep over each data set says."""
    parts = []
    for name, (first, _) in pairs.items():
        parts.append(f"{DATA[name]}:\n\n" + "\n".join(f"> {sentence}\n>" for sentence in first["explanation"])[:-2])
    return "\n\n".join(parts)


def machine(pairs: Mapping[str, tuple[Report, Report]]) -> str:
    """Where it was measured."""
    e = next(iter(pairs.values()))[0]["environment"]
    v = e["versions"]
    data = "; ".join(
        f"{DATA[name]}: {p[0]['environment']['records']:,} pictures, {p[0]['environment']['bytes'] / 1e6:,.0f} MB"
        for name, p in pairs.items()
    )
    return (
        f"{e['machine']}, {e['usable_cores']} usable cores, no GPU; Python {v['python']}, torch {v['torch']}, "
        f"torchvision {v['torchvision']}. {data}."
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
