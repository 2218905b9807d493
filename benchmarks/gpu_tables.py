"""What a result of benchmarks/gpu.py says: a line for each row as it comes, and the table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TARGET = 30_000  # images/s end to end on one H200 and 16 cores
TARGET_SHARE = 0.9  # of the step alone
SETTINGS = (
    "backend", "options", "batch_size", "threads", "prefetch", "compile", "command",
)  # fmt: skip


def setting(row: Mapping[str, Any]) -> str:
    """What was varied in a row, in words."""
    words = []
    for key in SETTINGS:
        if key not in row["cell"]:
            continue
        value = row["cell"][key]
        pairs = value.items() if key == "options" else [(key, value)]
        words += [f"{name} {str(value).lower()}" for name, value in pairs]
    return ", ".join(words).replace("_", " ") or "as it comes"


def distrusted(result: Mapping[str, Any]) -> set[tuple[Any, float]]:
    """(region decoding or not, share of the engines used or not) for which decoding gave wrong or changing pixels."""
    return {
        way(row["cell"].get("options", {}))
        for row in result["rows"]
        if row["section"] == "pixels" and (row["status"] != "ok" or not row["trusted"])
    }


def way(options: Mapping[str, Any]) -> tuple[Any, float]:
    return options.get("region", "auto"), float(options.get("hw_decoder_load", 0) > 0)


def counts(row: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether a rate may be quoted: the cell came through, and its way of decoding is not distrusted."""
    return (
        row["status"] == "ok"
        and "pictures_per_s" in row
        and (
            row["cell"].get("backend", "dali") != "dali"
            or way(row["cell"].get("options", {})) not in distrusted(result)
        )
    )


def line_of(row: Mapping[str, Any]) -> str:
    """A row for the terminal."""
    label = f"{row['section']:8} {row['cell']['data']:12} {setting(row):44}"
    if row["status"] != "ok":
        return f"{label} {row['status']}"
    if row["section"] == "pixels":
        return f"{label} {_pixels(row)}"
    if row["section"] == "commands":
        return f"{label} ok"
    waits = f", GPU waits {row['gpu_waits']:.1%}" if row.get("gpu_waits") is not None else ""
    return f"{label} {row['pictures_per_s']:>10,.0f}/s ({row['lowest']:,.0f} to {row['highest']:,.0f}){waits}"


def _pixels(row: Mapping[str, Any]) -> str:
    return (
        f"{row['batches_that_changed']} of {row['batches']} batches changed, "
        f"{row['mean_difference_to_cpu']:.2f} levels off the CPU's (worst image {row['largest_of_a_picture']:.1f})"
    )


def summary(result: Mapping[str, Any]) -> str:
    """End to end on a GPU against the step alone and the targets; nothing of a dry run."""
    best = {
        section: max(
            (r["pictures_per_s"] for r in result["rows"] if r["section"] == section and counts(r, result)), default=0
        )
        for section in ("step", "train")
    }
    if not (result["environment"]["gpu"] and best["step"] and best["train"]):
        return ""
    return (
        f"End to end {best['train']:,.0f} images/s, {best['train'] / best['step']:.0%} of the step alone. "
        f"Targets on one H200 with 16 cores: {TARGET:,} images/s and {TARGET_SHARE:.0%}."
    )


def table(result: Mapping[str, Any]) -> str:
    """Every row in Markdown, under a sentence that says what machine it was, and what the run is worth."""
    e = result["environment"]
    where = f"one {e['gpu']['name']}, driver {e['gpu']['driver']}, " if e["gpu"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    s = result["settings"]
    lines = [
        f"**{result['kind'][0].upper()}{result['kind'][1:]}** of {result['begun'][:10]}: {where}{e['cores']} cores "
        f"({e['cpu']}); {s['model']}, batches of {s['batch_size']}, {s['image_size']} pixels, {s['turns']} turns of "
        f"{s['seconds']} s; {versions}. {result['note']}".strip(),
        "",
        "| section | data | setting | images/s | lowest to highest |",
        "|---|---|---|---:|---|",
    ]
    for row in result["rows"]:
        head = f"| {row['section']} | {row['cell']['data']} | {setting(row)} |"
        if row["status"] != "ok":
            lines.append(f"{head} – | {row['status']} |")
        elif row["section"] == "pixels":
            lines.append(f"{head} – | {_pixels(row)} |")
        elif row["section"] == "commands":
            lines.append(f"{head} – | works |")
        else:
            waits = f"; GPU waits {row['gpu_waits']:.1%}" if row.get("gpu_waits") is not None else ""
            doubt = "" if counts(row, result) else "; not counted: its pixels were not sound"
            lines.append(
                f"{head} {row['pictures_per_s']:,.0f} | {row['lowest']:,.0f} to {row['highest']:,.0f}{waits}{doubt} |"
            )
    said = summary(result)
    return "\n".join(lines + (["", said] if said else []))
