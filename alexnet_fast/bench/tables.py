"""The sweep as a table: for the terminal, for bench-loader.md, and the files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..system import write_file_atomically
from .results import OK, BenchReport, Row, Stages

HEADINGS = (
    "backend", "workers", "batch", "pin", "images/s", "spread", "first batch", "peak memory", "CPU s/1,000", "cores",
    "status",
)  # fmt: skip


_LEGEND = (
    "Images/s: median of the repeats, in the middle of epochs; spread: (highest - lowest) / median. First batch: "
    "from opening the loader. Peak memory: highest sum of resident memory over the processes; pages they share "
    "count for each. Cores: CPU time over wall time."
)


def table_row(row: Row) -> tuple[str, ...]:
    """One row's cells as text, under `HEADINGS`."""
    return (
        row.backend,
        "any" if row.num_workers is None else str(row.num_workers),
        "any" if row.batch_size is None else str(row.batch_size),
        {True: "on", False: "off", None: ""}[row.pin_memory],
        _text(row.images_per_s, "{:,.0f}"),
        _text(row.spread, "{:.1%}"),
        _text(row.first_batch_s, "{:.2f} s"),
        _text(row.peak_rss_mb, "{:,.0f} MB"),
        _text(row.cpu_seconds_per_1k_images, "{:.2f}"),
        _text(row.cores_busy, "{:.1f}"),
        row.status,
    )


def terminal_row(row: Row) -> tuple[str, ...]:
    """One row's cells, units left to the headings; the status is empty where all went well."""
    backend, workers, batch, pin, rate, _, first, _, cpu, cores, status = table_row(row)
    spread, memory = _text(row.spread, "{:.0%}"), _text(row.peak_rss_mb, "{:,.0f}")
    return backend, workers, batch, pin, rate, spread, first, memory, cpu, cores, "" if status == OK else status


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def plain_line(row: Row) -> str:
    """One row as a line of a log."""
    name = str(row.setting) if row.num_workers is not None else "pin_memory on"
    if row.status != OK:
        return f"{name}: {row.status}"
    _, _, _, _, rate, spread, first, memory, cpu, _, _ = table_row(row)
    spread = f" (spread {spread})" if spread else ""
    return f"{name}: {rate} images/s{spread}, first batch {first}, {memory}, {cpu} CPU s per 1,000"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table, its first `left` columns and the last set to the left, the others to the right."""
    last = len(headings) - 1
    rule = ["---" if i < left or i == last else "---:" for i in range(len(headings))]
    lines = [headings, rule, *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(report: BenchReport) -> str:
    """The text of bench-loader.md."""
    measured = report.measured
    e = measured.environment
    quota = "" if e.cpu_quota is None else f", cgroup quota {e.cpu_quota:g}"
    data = (
        f"{e.dataset}, split {e.split}: {e.records:,} images, {e.bytes / 1e6:,.1f} MB, "
        f"{e.median_width}x{e.median_height} pixels in the median"
    )
    facts = [
        ("device", e.device_name if e.device == "cpu" else f"{e.device}: {e.device_name}"),
        ("processor", e.machine),
        ("cores", f"{e.usable_cores} usable of {e.cores} (affinity {e.affinity}{quota})"),
        ("memory", "unknown" if e.memory_bytes is None else f"{e.memory_bytes / 1e9:.1f} GB"),
        ("data", data),
        ("settings", ", ".join(f"{name} {value}" for name, value in e.settings.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in e.versions.items())),
    ]  # fmt: skip
    if measured.demand is not None and measured.demand.images_per_s is not None:
        d = measured.demand
        facts.append(("network", f"{d.model}, batch {d.batch_size}, {d.precision}: {d.images_per_s:,.0f} images/s"))
    parts = [
        "# Loader settings on this machine",
        "" if report.complete else "Stopped before all was measured.",
        "\n".join(f"- {sentence}" for sentence in report.explanation),
        "![images per second by number of workers](bench-loader.png)",
        "## Settings",
        markdown_table(HEADINGS, [table_row(row) for row in measured.rows]),
        _LEGEND,
        "## Stages, ms an image on one core",
        _stages_table(measured.stages),
        "## Where and on what",
        markdown_table(("what", "value"), facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _stages_table(stages: Stages) -> str:
    names = {
        "read": "read, page cache",
        "read_cold": "read, cold",
        "decode": "decode (the crop's region)",
        "augment": "crop, resize, flip",
        "collate": "collate, as a DataLoader",
        "hand_over": "hand-over, as a DataLoader",
        "copy": "copy to the device",
        "device_augment": "normalise (on a GPU: flip too)",
    }
    rows = [
        (text, "not measured" if (ms := getattr(stages, name)) is None else f"{ms:.4f}") for name, text in names.items()
    ]
    if stages.thread_scaling is not None:
        rows.append((f"{stages.threads} threads in one process", f"{stages.thread_scaling:.2f} x one thread"))
    if stages.process_scaling is not None:
        rows.append((f"{stages.threads} processes", f"{stages.process_scaling:.2f} x one thread"))
    return markdown_table(("stage", "ms"), rows)


def write_files(report: BenchReport, folder: Path) -> None:
    """Write bench-loader.json, .md and .png into `folder`, made if missing.

    Raises:
        UsageError: it cannot be written there.
    """
    from .plot import draw

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".bench-loader.*.tmp"):  # of a sweep that was killed while it wrote
            left.unlink(missing_ok=True)
        write_file_atomically(folder / "bench-loader.json", report.to_json().encode())
        write_file_atomically(folder / "bench-loader.md", markdown(report).encode())
        draw(report, folder / "bench-loader.png")
    except OSError as error:
        raise UsageError(
            f"the results cannot be written to {folder} ({error.strerror}): choose another --out"
        ) from None
