"""bench-loader.png: images/s by number of workers, the network's demand, and start-up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .results import BASELINE, BenchReport, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which people with the usual colour-vision deficiencies can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_NAMES = {BASELINE: "ImageFolder + DataLoader"}


def draw(report: BenchReport, path: Path) -> None:
    """Write the plot to `path` as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, height_ratios=(5, 2), sharex=True)
    series = _series(report)
    counts = sorted({row.workers for rows in series.values() for row in rows})
    places = {count: i for i, count in enumerate(counts)}
    _draw_rates(top, report, series, places)
    _draw_starts(bottom, series, places)
    bottom.set_xticks(range(len(counts)), [str(count) for count in counts])
    bottom.set_xlabel("number of workers")
    e = report.measured.environment
    figure.suptitle(
        f"{e.dataset}: {e.records:,} images of {e.median_width}x{e.median_height} (median) to "
        f"{e.settings.get('image_size', '?')}\n{e.device_name}, {e.usable_cores} usable cores",
        fontsize=11,
    )
    figure.savefig(path)


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
    for (name, rows), colour in zip(series.items(), _cycle(), strict=False):
        x = [places[row.workers] for row in rows]
        y = [row.rate for row in rows]
        low = [row.rate - min(row.repeats, default=row.rate) for row in rows]
        high = [max(row.repeats, default=row.rate) - row.rate for row in rows]
        axes.errorbar(x, y, yerr=[low, high], label=name, color=colour, marker="o", capsize=4, linewidth=2)
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
        axes.axhline(line, color="#555555", linestyle=":" if above else "--", linewidth=1.5, label=label)
        highest = max(highest, line)
    axes.set_ylim(0, highest * 1.12 or 1)
    axes.set_ylabel("images/s")
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=9, framealpha=0.9)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _mark_recommendation(axes: Axes, report: BenchReport, places: dict[int, int]) -> None:
    chosen = report.recommendation
    for row in report.measured.rows:
        if chosen is not None and row.ok and row.num_workers is not None and row.setting == chosen:
            axes.plot(
                [places[row.workers]], [row.rate], marker="o", markersize=15, markerfacecolor="none",
                markeredgecolor="black", markeredgewidth=1.5, linestyle="none", label="recommended",
            )  # fmt: skip


def _draw_starts(axes: Axes, series: dict[str, list[Row]], places: dict[int, int]) -> None:
    width = 0.8 / max(1, len(series))
    for i, (rows, colour) in enumerate(zip(series.values(), _cycle(), strict=False)):
        shown = [row for row in rows if row.first_batch_s is not None]
        x = [places[row.workers] + (i - (len(series) - 1) / 2) * width for row in shown]
        bars = axes.bar(x, [row.start for row in shown], width=width * 0.9, color=colour)
        if len(series) * len(places) <= 16:
            axes.bar_label(bars, fmt="%.2g s", fontsize=8, padding=2)
    axes.margins(y=0.25)
    axes.set_ylabel("first batch, s")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _cycle() -> Any:
    from itertools import cycle

    return cycle(_COLOURS)
