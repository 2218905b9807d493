"""What a result of benchmarks/gpu.py says: a line for each cell as it comes, and the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alexnet_fast.words import counted

TARGET = 30_000  # images/s trained from JPEG shards of longest side 375, on one H100 with 16 cores
TARGET_SHARE = 0.9  # of the step alone
SECTIONS = {
    "setup": "Installation and tests",
    "tiny": "Tiny ImageNet to 60% top-1",
    "pixels": "Pixels",
    "train": "Training from JPEGs",
    "step": "The step alone",
    "peers": "Peers, feeding the same step",
    "syncs": "Host synchronisations",
    "bench": "bench-loader",
    "loader": "Loaders alone",
}
Row = Mapping[str, Any]


def distrusted(result: Mapping[str, Any]) -> set[tuple[Any, bool]]:
    """(region decoding or not, engines used or not) for which decoding gave wrong or changing pixels."""
    return {
        _way(row)
        for row in result["rows"]
        if row["section"] == "pixels" and (row["status"] != "ok" or not row["trusted"])
    }


def _way(row: Row) -> tuple[Any, bool]:
    options = row["settings"].get("options", {})
    return options.get("region", "auto"), options.get("hw_decoder_load", 0) > 0


def counts(row: Row, result: Mapping[str, Any]) -> bool:
    """Whether a rate may be quoted: the cell came through, and its way of decoding is not distrusted."""
    ours = row["section"] in ("train", "loader") and row["settings"].get("backend") == "dali"
    return row["status"] == "ok" and not (ours and _way(row) in distrusted(result))


def line_of(row: Row) -> str:
    """A row for the terminal."""
    return f"{row['cell']:34} {said(row)}  [{row['seconds']:.0f} s]"


def said(row: Row) -> str:
    """What came of a cell, in words."""
    return _SAID[row["section"]](row) if row["status"] == "ok" else str(row["status"])


def _setup(row: Row) -> str:
    if row["cell"] == "tests":
        return ", ".join(f"{count} {word}" for word, count in row["counts"].items())
    differs = f"the doctor differs in {', '.join(row['doctor_differs_in'])}"
    data = ", ".join(f"{name} {sum(about['records'].values()):,}" for name, about in row["datasets"].items())
    code = "compiled code" if row["facts"]["compiled_code"] else "no compiled code"
    return f"{'the doctor agrees' if row['doctor_agrees'] else differs}; {code}; records: {data}"


def _tiny(row: Row) -> str:
    reached = row["reached"]
    first = f"after {reached['training_seconds']:.1f} s (epoch {reached['epoch']})" if reached else "not reached"
    return (
        f"{row['target']:.0%} {first}; last epoch {row['last_top1']:.2%}, with the mirror image "
        f"{row['last_top1_flip']:.2%}; {counted(row['epochs'], 'epoch')} in {row['training_seconds']:.1f} s of training"
    )


def _pixels(row: Row) -> str:
    return (
        f"{row['batches_that_changed']} of {row['batches']} batches changed, {row['mean_difference_to_cpu']:.2f} "
        f"levels off the CPU's (worst image {row['largest_of_an_image']:.1f})"
    )


def _rate(row: Row) -> str:
    words = f"{row['images_per_s']:,.0f} images/s ({row['lowest']:,.0f} to {row['highest']:,.0f})"
    if "share" in row:
        words += f", {row['share']:.0%} of the step alone"
    return words + (f", GPU waits {row['gpu_waits']:.1%}" if row.get("gpu_waits") is not None else "")


def _step(row: Row) -> str:
    return ", ".join(
        f"{one['batch_size']}: {one['images_per_s']:,.0f}" if "images_per_s" in one else f"{one['batch_size']}: –"
        for one in sorted(row["rows"], key=lambda one: one["batch_size"])
    )


def _syncs(row: Row) -> str:
    return f"{row['syncs_a_step']:.2f} a step" + (f": {'; '.join(row['where'])}" if row["where"] else "")


def _bench(row: Row) -> str:
    best = row["recommendation"]
    return f"recommends {best['backend']}, {counted(best['num_workers'], 'worker')}, pin_memory {best['pin_memory']}"


_SAID: dict[str, Callable[[Row], str]] = {
    "setup": _setup,
    "tiny": _tiny,
    "pixels": _pixels,
    "train": _rate,
    "step": _step,
    "peers": _rate,
    "syncs": _syncs,
    "bench": _bench,
    "loader": _rate,
}


def summary(result: Mapping[str, Any]) -> str:
    """Training from JPEGs of longest side 375 against the targets; nothing of a dry run."""
    rows = [row for row in result["rows"] if row["cell"].startswith("train-small") and counts(row, result)]
    if not (result["environment"]["gpu"] and rows):
        return ""
    best = max(rows, key=lambda row: row["images_per_s"])
    return (
        f"Trained from JPEGs of longest side 375: {best['images_per_s']:,.0f} images/s ({best['cell']}), "
        f"{best['share']:.0%} of the step alone. Targets on one H100 with 16 cores: {TARGET:,} images/s and "
        f"{TARGET_SHARE:.0%}."
    )


def table(result: Mapping[str, Any]) -> str:
    """Every row in Markdown, under a sentence that says what machine it was, and what the run is worth."""
    e, scale = result["environment"], result["scale"]
    where = f"one {e['gpu']}, driver {e['driver']}, " if e["gpu"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    worth = " The cells work; the figures say nothing of a GPU." if scale["dry"] else ""
    head = (
        f"**{result['kind'][0].upper()}{result['kind'][1:]}** of {result['begun'][:10]}: {where}"
        f"{counted(e['cores'], 'core')} ({e['cpu']}); batches of {scale['batch_size']}, {scale['image_size']} pixels, "
        f"{counted(scale['turns'], 'turn')} of {scale['seconds']} s; {versions}.{worth}"
    )
    lines = [
        head,
        "",
        "| section | cell | result |",
        "|---|---|---|",
    ]
    for section, title in SECTIONS.items():
        for row in (row for row in result["rows"] if row["section"] == section):
            doubt = (
                "; not counted: its pixels were not sound" if row["status"] == "ok" and not counts(row, result) else ""
            )
            lines.append(f"| {title} | {row['cell']} | {said(row)}{doubt} |")
    for name, reason in result["left_out"].items():
        lines.append(f"| left out | {name} | {reason} |")
    text = summary(result)
    return "\n".join(lines + (["", text] if text else []))
