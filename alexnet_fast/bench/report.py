"""The sweep as people see it: a table on the terminal, lines in a log, and the files of a report."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UsageError
from ..plots import HATCHES, INK, LINES, MARKERS, PALETTE, SOFT, legend, new_figure, save, style_axes
from ..system import can_redraw, write_file_atomically
from ..words import counted
from .results import BASELINE, OK, BenchReport, Row, Setting, Stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console, Group
    from rich.live import Live

HEADINGS = (
    "backend", "workers", "batch", "pin", "images/s", "spread", "first batch", "peak memory", "CPU s/1,000", "cores",
    "status",
)  # fmt: skip
_LEGEND = (
    "Images/s: median of the repeats, in the middle of epochs; spread: (highest - lowest) / median. First batch: "
    "from opening the loader. Peak memory: of all the processes, pages that they share counted once (PSS); behind it "
    "stands RSS where the system tells no more, which counts them for each. Cores: CPU time over wall time."
)


def _cells(row: Row) -> tuple[str, ...]:
    """One row's cells as text, under `HEADINGS`."""
    setting = (row.backend, str(row.workers), str(row.batch_size), "on" if row.pin_memory else "off")
    if not row.measurements:
        return (*setting, *[""] * (len(HEADINGS) - 5), row.status)
    f = row.figures
    return (
        *setting,
        _text(row.rate, "{:,.0f}"),
        _text(row.spread, "{:.1%}"),
        _text(f.first_batch_s, "{:.2f} s"),
        _memory(row),
        _text(f.cpu_seconds_per_1k_images, "{:.2f}"),
        _text(row.cores_busy, "{:.1f}"),
        row.status,
    )


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _memory(row: Row) -> str:
    f = row.figures
    return _text(f.peak_rss_mb, "{:,.0f} MB RSS") if f.peak_pss_mb is None else _text(f.peak_pss_mb, "{:,.0f} MB")


def plain_line(row: Row) -> str:
    """One row as a line of a log."""
    if row.status != OK:
        return f"{row.setting}: {row.status}"
    _, _, _, _, rate, spread, first, memory, cpu, _, _ = _cells(row)
    spread = f" (spread {spread})" if spread else ""
    return f"{row.setting}: {rate} images/s{spread}, first batch {first}, {memory}, {cpu} CPU s per 1,000"


# ---------------------------------------------------------------------------------------------------------------------
# While it goes on, on stderr


class Display(Protocol):
    """What a sweep tells of itself."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def rows(self, rows: Sequence[Row]) -> None:
        """The table as it stands now."""

    def turn(self, row: Row, rows: Sequence[Row]) -> None:
        """A setting begins or ends a repeat; its row as far as it is measured."""

    def close(self) -> None:
        """Nothing more is drawn over; what is shown stays."""


@contextmanager
def open_display() -> Iterator[Display]:
    """A table that fills where stderr is a terminal that can draw it anew, else a line a result."""
    display: Display = _LiveTable() if can_redraw(sys.stderr) else _Lines()
    try:
        yield display
    finally:
        display.close()


class _Lines:
    """For logs, notebooks and terminals whose cursor stays where it is: the end of each repeat is a line."""

    def __init__(self) -> None:
        self._seen: dict[Setting, int] = {}

    def say(self, text: str) -> None:
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)

    def rows(self, rows: Sequence[Row]) -> None:
        pass

    def turn(self, row: Row, rows: Sequence[Row]) -> None:
        done, before = len(row.measurements), self._seen.get(row.setting)
        if before is not None and (done != before or row.status != OK):
            self.say(plain_line(row))
        self._seen[row.setting] = done

    def close(self) -> None:
        pass


# Two lines each, so that a row fits into 80 columns.
_HEADINGS = (
    "\nbackend", "\nworkers", "\nbatch", "\npin", "images\n/s", "\nspread", "first\nbatch", "memory\nMB",
    "CPU s\n/1,000", "cores\nbusy", "",
)  # fmt: skip
_BATCH, _PIN, _SPREAD, _CPU = 2, 3, 5, 8


class _LiveTable:
    """For a terminal: the table is redrawn in place, the setting that is being measured marked."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._current: Setting | None = None

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def rows(self, rows: Sequence[Row]) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(live_table(rows, self._current, self._console), refresh=True)

    def turn(self, row: Row, rows: Sequence[Row]) -> None:
        self._current = None if self._current == row.setting else row.setting
        self.rows(rows)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print()  # keeps the verdict, which follows, apart


def live_table(rows: Sequence[Row], current: Setting | None, console: Console) -> Group:
    """The table for a terminal, no wider than `console`: a column that is the same in all rows gives way first."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    highest = max((row.rate for row in rows if row.ok), default=0.0)
    lines, styles, notes = [], [], []
    for row in rows:
        cells = [cell.removesuffix(" MB").removesuffix(" MB RSS") for cell in _cells(row)]
        cells[_SPREAD] = _text(row.spread if row.measurements else None, "{:.0%}")
        cells[-1] = ""
        measuring = row.setting == current
        if measuring:
            cells[-1] = "now"
        elif row.status.startswith("not measured"):
            cells[-1] = "waits"
        elif row.status != OK:
            cells[-1] = "failed"
            notes.append(plain_line(row))
        lines.append(cells)
        styles.append("bold green" if row.ok and row.rate == highest else "" if row.ok or measuring else "dim")
    shown = _columns_that_fit(lines, console.width)
    same = [
        f"{_HEADINGS[i].strip()} {lines[0][i]}" for i in (_BATCH, _PIN) if i not in shown and lines
    ]  # fmt: skip
    table = Table(
        box=None, pad_edge=False, header_style="bold", caption=", ".join(same) or None, caption_justify="left"
    )
    for i in shown:
        left = i in (0, len(_HEADINGS) - 1)
        table.add_column(_HEADINGS[i], justify="left" if left else "right", no_wrap=True)
    for cells, style in zip(lines, styles, strict=True):
        table.add_row(*[Text(cells[i]) for i in shown], style=style)
    return Group(table, *[Text(note, style="dim") for note in notes])


def _columns_that_fit(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    widths = [
        max([*map(len, heading.split("\n")), *(len(cells[i]) for cells in lines)])
        for i, heading in enumerate(_HEADINGS)
    ]
    widths[-1] = len("failed")
    shown = list(range(len(_HEADINGS)))
    constant = [i for i in (_PIN, _BATCH) if len({cells[i] for cells in lines}) <= 1]
    for i in (*constant, _CPU, _SPREAD):
        if sum(widths[i] + 2 for i in shown) - 2 > width:
            shown.remove(i)
    return shown


# ---------------------------------------------------------------------------------------------------------------------
# The files


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
    f = measured.fetch
    sample = "" if f is None else f"{f.shards} of {f.of_shards} shards of {f.url}, fetched for this: "
    quota = "" if e.cpu_quota is None else f", cgroup quota {e.cpu_quota:g}"
    data = (
        f"{sample or e.dataset + ', '}split {e.split}: {counted(e.records, 'image')}, {e.bytes / 1e6:,.1f} MB, "
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
        markdown_table(HEADINGS, [_cells(row) for row in measured.rows]),
        "\n".join(f"- {note}" for note in measured.notes),
        _LEGEND,
        "## Stages, ms of one core an image",
        _stages_table(measured.stages),
        "## Where and on what",
        markdown_table(("what", "value"), facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _stages_table(stages: Stages) -> str:
    names = {
        "fetch": "fetch, from the URL",
        "read": "read, page cache",
        "read_cold": "read, cold",
        "decode": "decode (the crop's region)",
        "augment": "crop, resize, flip",
        "collate": "collate (workers write into the batch)",
        "copy": "copy to the device",
        "device_augment": "normalise (on a GPU: flip too)",
    }
    found = {name: getattr(stages, name) for name in names}
    rows = [
        (names[name], "not measured" if ms is None else f"{ms:.4f}")
        for name, ms in found.items()
        if name != "fetch" or ms is not None  # nothing is fetched of a data set on a disk
    ]
    return markdown_table(("stage", "ms"), rows)


def write_files(report: BenchReport, folder: Path) -> None:
    """Write bench-loader.json, .md and .png into `folder`, made if missing.

    Raises:
        UsageError: it cannot be written there.
    """
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


# ---------------------------------------------------------------------------------------------------------------------
# The plot: images/s by number of workers, the network's demand, and start-up

_NAMES = {BASELINE: "ImageFolder + DataLoader"}


def draw(report: BenchReport, path: Path) -> None:
    """Write the plot to `path` as PNG."""
    e = report.measured.environment
    figure = new_figure(
        8, 6.6, report.explanation[0].partition(";")[0].rstrip(".") + "." if report.explanation else None,
        foot=f"{e.dataset}: {counted(e.records, 'image')} of {e.median_width} x {e.median_height} (median) to "
        f"{e.settings.get('image_size', '?')}; {e.device_name}, {counted(e.usable_cores, 'usable core')}",
    )  # fmt: skip
    top, bottom = figure.subplots(2, 1, height_ratios=(5, 2), sharex=True)
    series = _series(report)
    counts = sorted({row.workers for rows in series.values() for row in rows})
    places = {count: i for i, count in enumerate(counts)}
    _draw_rates(top, report, series, places)
    _draw_starts(bottom, series, places)
    bottom.set_xticks(range(len(counts)), [str(count) for count in counts])
    save(figure, path)


def _series(report: BenchReport) -> dict[str, list[Row]]:
    """Measured rows by the setting that a line stands for, fewest workers first."""
    rows = [row for row in report.measured.rows if row.ok]
    batches, pins = {row.batch_size for row in rows}, {row.pin_memory for row in rows}
    series: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.workers):
        name = _NAMES.get(row.backend, row.backend)
        if len(batches) > 1:
            name += f", batch {row.batch_size}"
        if len(pins) > 1:
            name += ", pinned" if row.pin_memory else ", not pinned"
        series.setdefault(name, []).append(row)
    return series


def _draw_rates(axes: Axes, report: BenchReport, series: dict[str, list[Row]], places: dict[int, int]) -> None:
    highest = 0.0
    for look, (name, rows) in enumerate(series.items()):
        x = [places[row.workers] for row in rows]
        y = [row.rate for row in rows]
        low = [row.rate - min(row.repeats, default=row.rate) for row in rows]
        high = [max(row.repeats, default=row.rate) - row.rate for row in rows]
        axes.errorbar(x, y, yerr=[low, high], label=name, capsize=4, linewidth=2, **_look(look))
        highest = max(highest, *[max(row.repeats, default=row.rate) for row in rows])
    _mark_recommendation(axes, report, places)
    demand = report.measured.demand
    if demand is not None and demand.images_per_s is not None:
        label = f"what {demand.model} takes: {demand.images_per_s:,.0f}"
        above = demand.images_per_s > 3 * highest  # a line so far up would press the others flat
        if above:
            highest *= 1.15
            label += " (far above)"
        line = highest * 1.1 if above else demand.images_per_s
        axes.axhline(line, color=SOFT, linestyle=":", linewidth=1.5, label=label)
        highest = max(highest, line)
    axes.set_ylim(0, highest * 1.12 or 1)
    style_axes(axes, "Speed", "", "images/s")
    legend(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _mark_recommendation(axes: Axes, report: BenchReport, places: dict[int, int]) -> None:
    chosen = report.recommendation
    for row in report.measured.rows:
        if row.ok and row.setting == chosen:
            axes.plot(
                [places[row.workers]], [row.rate], marker="o", markersize=15, markerfacecolor="none",
                markeredgecolor=INK, markeredgewidth=1.5, linestyle="none", label="recommended",
            )  # fmt: skip


def _draw_starts(axes: Axes, series: dict[str, list[Row]], places: dict[int, int]) -> None:
    width = 0.8 / max(1, len(series))
    for i, rows in enumerate(series.values()):
        shown = [row for row in rows if row.figures.first_batch_s is not None]
        x = [places[row.workers] + (i - (len(series) - 1) / 2) * width for row in shown]
        bars = axes.bar(x, [row.start for row in shown], width=width * 0.9, color=PALETTE[i % len(PALETTE)],
                        hatch=HATCHES[i % len(HATCHES)], edgecolor="white")  # fmt: skip
        if len(series) * len(places) <= 16:
            axes.bar_label(bars, fmt="%.2g s", fontsize=8, padding=2)
    axes.margins(y=0.25)
    style_axes(axes, "Start", "number of workers", "first batch, s")


def _look(i: int) -> dict[str, Any]:
    return {"color": PALETTE[i % 6], "linestyle": LINES[i % 6], "marker": MARKERS[i % 6]}
