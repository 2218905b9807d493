"""The curves of a run: loss, accuracy, learning rate and speed by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .style import LINES, MAIN, MARKERS, OTHER, SOFT, THIRD, legend, new_figure, save, style_axes


def plot_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path | str,
    *,
    title: str | None = None,
    foot: str | None = None,
    training: str = "augmented",
) -> None:
    """Draw a run as four panels: loss, accuracy, learning rate, and speed with the share of time spent on data.

    Args:
        rows: lines of metrics.jsonl, one an epoch: epoch, train_loss, train_top1, val_loss, val_top1, val_top5, lr,
            images_per_s, data_wait (share of the time, 0 to 1). Validation's may be missing or None.
        path: PNG (or PDF, SVG) to write.
        title: the sentence to take away: how the run fits.
        foot: which run it is.
        training: what training's figures were measured under and validation's were not, in words.
    """
    figure = new_figure(11, 7, title, foot=foot)
    (loss, accuracy), (rate, speed) = figure.subplots(2, 2)
    best = None if rows and rows[-1].get("still") else best_row(rows)
    _loss_panel(loss, rows, best, training)
    _accuracy_panel(accuracy, rows, best, training)
    style_axes(rate, "Learning rate", "epoch", "learning rate at the epoch's end")
    _line(rate, rows, "lr", 0, MAIN, "learning rate")
    rate.set_ylim(bottom=0)
    _speed_panel(speed, rows)
    epochs = [row["epoch"] for row in rows]
    for axes in (loss, accuracy, rate, speed):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if len(set(epochs)) == 1:  # a single point needs room to be seen
            axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    points = [(row["epoch"], row[name]) for row in rows if is_number(row.get(name))]
    return [x for x, _ in points], [y for _, y in points]


def is_number(value: Any) -> bool:
    """Whether a metric was measured, and is neither infinite nor NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _line(
    axes: Any, rows: Sequence[Mapping[str, Any]], name: str, look: int, colour: str, label: str, scale: float = 1
) -> None:
    """A curve of one column; `look` is its style of line and marker."""
    x, y = _series(rows, name)
    if x:
        axes.plot(
            x, [scale * v for v in y], linestyle=LINES[look], color=colour, label=label, lw=1.8, markersize=4,
            marker=MARKERS[look] if len(x) <= 30 else None,
        )  # fmt: skip


def _mark_best(axes: Any, best: Mapping[str, Any] | None, text: str) -> None:
    if best is None:
        return
    axes.axvline(best["epoch"], color=SOFT, linestyle=":", linewidth=1.2, label=text)


def _loss_panel(axes: Any, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, training: str) -> None:
    style_axes(axes, "Loss", "epoch", "cross-entropy, nats")
    _line(axes, rows, "train_loss", 1, OTHER, f"train ({training})")
    _line(axes, rows, "val_loss", 0, MAIN, "validation")
    _mark_best(axes, best, f"best epoch: {best['epoch']}" if best else "")
    legend(axes, "best")


def _accuracy_panel(
    axes: Any, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, training: str
) -> None:
    style_axes(axes, "Accuracy", "epoch", "right, % of images")
    _line(axes, rows, "train_top1", 1, OTHER, f"train top-1 ({training})", 100)
    _line(axes, rows, "val_top1", 0, MAIN, "validation top-1", 100)
    _line(axes, rows, "val_top5", 2, THIRD, "validation top-5", 100)
    if best is not None:
        _mark_best(axes, best, f"best top-1: {100 * best['val_top1']:.1f}% at epoch {best['epoch']}")
    axes.set_ylim(0, 100)
    legend(axes, "best")


def _speed_panel(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    style_axes(axes, "Speed", "epoch", "images/s in training")
    _line(axes, rows, "images_per_s", 0, MAIN, "images/s")
    fastest = max(_series(rows, "images_per_s")[1], default=0)
    axes.set_ylim(0, 1.3 * fastest or 1)  # the legend stands above the fastest epoch
    x, wait = _series(rows, "data_wait")
    if x:
        twin = axes.twinx()
        twin.bar(
            x,
            [100 * v for v in wait],
            width=0.6,
            color=OTHER,
            alpha=0.45,
            hatch="//",
            edgecolor="white",
            label="waiting for data",
        )
        twin.set_ylim(0, 100)
        twin.set_ylabel("waiting for data, % of the time", fontsize=9, color=SOFT)
        twin.tick_params(labelsize=8, colors=SOFT)
        for side in ("top", "left"):
            twin.spines[side].set_visible(False)
        twin.spines["right"].set_color("#9ca3af")
        axes.set_zorder(twin.get_zorder() + 1)
        axes.patch.set_visible(False)
        handles = [*axes.get_legend_handles_labels()[0], *twin.get_legend_handles_labels()[0]]
        legend(axes, "upper left", handles, 2)


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The epoch with the highest validation top-1 (the first of equals); None where nothing was validated."""
    validated = [row for row in rows if is_number(row.get("val_top1"))]
    return max(validated, key=lambda row: row["val_top1"], default=None)
