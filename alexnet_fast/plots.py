"""Images for people: the curves of a run, grids of labelled images, a confusion matrix; and a run put into words.

Figures are built without pyplot, so that drawing needs no display, changes no global state and works in threads.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UsageError

TRAIN, VAL, EXTRA, RIGHT, WRONG, INK = "#8a97a8", "#c2410c", "#0f766e", "#15803d", "#b91c1c", "#1f2937"
# The first of these that is installed draws what DejaVu Sans has no glyphs for, such as Chinese class names.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "SimHei", "Arial Unicode MS",
)  # fmt: skip
# Below these a change of validation accuracy (a fraction) or loss (a share of itself) is taken for noise.
_ACCURACY_STEP = 0.005
_LOSS_RISE = 0.05
_GAP = 0.15
_SPACE = 0.25  # of an image's width, between images of a grid that do not belong together
_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


@cache
def _fonts() -> list[str]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _FALLBACK_FONTS if name in installed][:1]]


def new_figure(width: float, height: float, title: str | None = None) -> Any:
    """An empty matplotlib figure, `width` x `height` inches, in this package's style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK, family=_fonts())
    return figure


def save(figure: Any, path: Path | str) -> None:
    """Write `figure` to `path`, whose folder is made where it is missing, in the format of its ending.

    Raises:
        UsageError: no drawing is written with that ending.
    """
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise UsageError(f"a drawing's file name ends in one of {', '.join(_FORMATS)}: got {str(path)!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # A script without an installed font is drawn as boxes; the images beside it still serve.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(target)


def style_axes(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Title, labels with units, a light grid and no box."""
    axes.set_title(title, fontsize=11, color=INK, loc="left", family=_fonts())
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9ca3af")


# ---------------------------------------------------------------------------------------------------------------------
# The curves of a run


def plot_curves(
    rows: Sequence[Mapping[str, Any]], path: Path | str, *, title: str | None = "Training", verdict: bool = True
) -> None:
    """Draw a run as four panels: loss, accuracy, learning rate, and speed with the share of time spent on data.

    Args:
        rows: lines of metrics.jsonl, one an epoch: epoch, train_loss, train_top1, val_loss, val_top1, val_top5, lr,
            images_per_s, data_wait (share of the time, 0 to 1). Validation's may be missing or None.
        path: PNG (or PDF, SVG) to write.
        title: above the panels; the run's name.
        verdict: write below the panels how the run fits.
    """
    figure = new_figure(11, 7, title)
    (loss, accuracy), (rate, speed) = figure.subplots(2, 2)
    best = best_row(rows)
    _loss_panel(loss, rows, best)
    _accuracy_panel(accuracy, rows, best)
    style_axes(rate, "Learning rate", "epoch", "learning rate at the epoch's end")
    _line(rate, rows, "lr", EXTRA, "learning rate")
    rate.set_ylim(bottom=0)
    _speed_panel(speed, rows)
    epochs = [row["epoch"] for row in rows]
    for axes in (loss, accuracy, rate, speed):
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if len(set(epochs)) == 1:  # a single point needs room to be seen
            axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    if rows and verdict:
        words = "\n".join(textwrap.wrap(fit_verdict(rows), 150))
        figure.supxlabel(words, fontsize=9, color=INK, x=0.01, ha="left")
    save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    points = [(row["epoch"], row[name]) for row in rows if _finite(row.get(name))]
    return [x for x, _ in points], [y for _, y in points]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _line(
    axes: Any, rows: Sequence[Mapping[str, Any]], name: str, colour: str, label: str, scale: float = 1, style: str = "-"
) -> None:
    x, y = _series(rows, name)
    if x:
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, [scale * v for v in y], style, color=colour, label=label, marker=marker, markersize=3.5, lw=1.8)


def _mark_best(axes: Any, best: Mapping[str, Any] | None, text: str) -> None:
    if best is None:
        return
    axes.axvline(best["epoch"], color=VAL, linestyle=":", linewidth=1.2, label=text)


def _legend(axes: Any, place: str, handles: Sequence[Any] | None = None, columns: int = 1) -> None:
    shown = axes.get_legend_handles_labels()[0] if handles is None else handles
    if shown:  # a veil rather than a frame: a line that passes below leaves the words legible
        axes.legend(
            handles=shown, fontsize=8, framealpha=0.85, edgecolor="none", handlelength=3, loc=place, ncols=columns
        )


def _loss_panel(axes: Any, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> None:
    style_axes(axes, "Loss", "epoch", "cross-entropy, nats")
    _line(axes, rows, "train_loss", TRAIN, "train (augmented, with dropout)")
    _line(axes, rows, "val_loss", VAL, "validation")
    _mark_best(axes, best, f"best epoch: {best['epoch']}" if best else "")
    _legend(axes, "best")


def _accuracy_panel(axes: Any, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None) -> None:
    style_axes(axes, "Accuracy", "epoch", "right, % of images")
    _line(axes, rows, "train_top1", TRAIN, "train top-1 (augmented, with dropout)", 100)
    _line(axes, rows, "val_top1", VAL, "validation top-1", 100)
    _line(axes, rows, "val_top5", VAL, "validation top-5", 100, "--")
    if best is not None:
        _mark_best(axes, best, f"best top-1: {100 * best['val_top1']:.1f}% at epoch {best['epoch']}")
    axes.set_ylim(0, 100)
    _legend(axes, "best")


def _speed_panel(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    style_axes(axes, "Speed", "epoch", "images/s in training")
    _line(axes, rows, "images_per_s", EXTRA, "images/s")
    fastest = max(_series(rows, "images_per_s")[1], default=0)
    axes.set_ylim(0, 1.3 * fastest or 1)  # the legend stands above the fastest epoch
    x, wait = _series(rows, "data_wait")
    if x:
        twin = axes.twinx()
        twin.bar(x, [100 * v for v in wait], width=0.6, color="#fdba74", alpha=0.55, label="waiting for data")
        twin.set_ylim(0, 100)
        twin.set_ylabel("waiting for data, % of the time", fontsize=9, color=INK)
        twin.tick_params(labelsize=8, colors=INK)
        for side in ("top", "left"):
            twin.spines[side].set_visible(False)
        twin.spines["right"].set_color("#9ca3af")
        axes.set_zorder(twin.get_zorder() + 1)
        axes.patch.set_visible(False)
        handles = [*axes.get_legend_handles_labels()[0], *twin.get_legend_handles_labels()[0]]
        _legend(axes, "upper left", handles, columns=2)


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The epoch with the highest validation top-1 (the first of equals); None where nothing was validated."""
    validated = [row for row in rows if _finite(row.get("val_top1"))]
    return max(validated, key=lambda row: row["val_top1"], default=None)


def fit_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """One or two sentences on whether a run over- or underfits, from the lines of its metrics.jsonl.

    Training's loss and accuracy are those of augmented images with dropout on, so training that looks a little worse
    than validation is the rule, not a fault; the words allow for it.
    """
    checked = [row for row in rows if _finite(row.get("val_top1")) and _finite(row.get("val_loss"))]
    if not checked:
        return "No epoch was validated, so nothing can be said about over- or underfitting."
    if len(checked) < 3:
        return (
            f"Validated {len(checked)} time{'s' * (len(checked) > 1)}: too few epochs to tell over- from underfitting."
        )
    return _overfit_words(checked) or _short_words(checked) or _good_words(checked)


def _gap(row: Mapping[str, Any]) -> float:
    return float(row["train_top1"] - row["val_top1"]) if _finite(row.get("train_top1")) else 0.0


def _overfit_words(rows: Sequence[Mapping[str, Any]]) -> str | None:
    last, lowest = rows[-1], min(rows, key=lambda row: row["val_loss"])
    rose = last["val_loss"] > (1 + _LOSS_RISE) * lowest["val_loss"]
    train_fell = _finite(last.get("train_loss")) and last["train_loss"] < lowest["train_loss"]
    if rose and train_fell:
        return (
            f"Overfits: validation loss was lowest at epoch {lowest['epoch']} ({lowest['val_loss']:.3f}) and rose to "
            f"{last['val_loss']:.3f} while training loss went on falling. Use best.pt, fewer epochs, more augmentation "
            "or more data."
        )
    if _gap(last) > _GAP:
        return (
            f"Overfits: at the end training top-1 ({100 * last['train_top1']:.1f}%) is {100 * _gap(last):.0f} points "
            f"above validation ({100 * last['val_top1']:.1f}%). More augmentation, weight decay or data narrow it."
        )
    return None


def _short_words(rows: Sequence[Mapping[str, Any]]) -> str | None:
    last = rows[-1]
    window = max(1, len(rows) // 5)
    before = max(row["val_top1"] for row in rows[:-window])
    gain = max(row["val_top1"] for row in rows[-window:]) - before
    if gain > _ACCURACY_STEP:
        span = f"the last {window} epochs" if window > 1 else "the last epoch"
        return (
            f"Underfits still: validation top-1 rose by {100 * gain:.1f} points over {span}, to "
            f"{100 * last['val_top1']:.1f}%. More epochs would help."
        )
    if _finite(last.get("train_top1")) and last["train_top1"] < last["val_top1"] < 0.5:
        return (
            f"Underfits: validation top-1 has settled at {100 * last['val_top1']:.1f}% and training is no better "
            f"({100 * last['train_top1']:.1f}%). A longer schedule, another learning rate, larger images or lighter "
            "augmentation may help."
        )
    return None


def _good_words(rows: Sequence[Mapping[str, Any]]) -> str:
    best = best_row(rows)
    assert best is not None
    last = rows[-1]
    gap = 100 * _gap(last)
    beside = f"{gap:.1f} points above" if gap >= 0 else f"{-gap:.1f} points below"
    return (
        f"Fits well: validation top-1 is best at epoch {best['epoch']} ({100 * best['val_top1']:.1f}%), validation "
        f"loss has not turned, and training top-1 ends {beside} validation."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Grids of images and the confusion matrix


def plot_grid(
    images: Sequence[npt.NDArray[np.uint8]],
    captions: Sequence[str],
    path: Path | str,
    *,
    title: str | None = None,
    columns: int = 8,
    colours: Sequence[str] | None = None,
    together: int = 1,
) -> None:
    """Draw images with a caption below each.

    Args:
        images: uint8 (height, width, 3) or (height, width), each of its own size.
        captions: one an image; wrapped to three lines at most.
        colours: of the captions, one an image.
        together: so many images side by side belong together; a gap divides them from the next. Divides `columns`.
    """
    columns = max(1, min(columns, len(images)))
    gaps = (columns - 1) // together if together > 1 else 0
    lines = max((len(_wrap(caption)) for caption in captions), default=1)
    rows = max(1, math.ceil(len(images) / columns))
    figure = new_figure(
        1.5 * columns + _SPACE * 1.5 * gaps + 0.2, (1.5 + 0.15 * lines) * rows + (0.5 if title else 0.1), title
    )
    cells = figure.add_gridspec(
        rows, columns + gaps,
        width_ratios=[_SPACE if gaps and n % (together + 1) == together else 1 for n in range(columns + gaps)],
    )  # fmt: skip
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        axes = figure.add_subplot(cells[row, column + (column // together if gaps else 0)])
        axes.axis("off")
        if place >= len(images):
            continue
        height, width = images[place].shape[:2]
        smooth = "nearest" if max(height, width) <= 96 else "auto"
        axes.imshow(images[place], cmap="gray", vmin=0, vmax=255, interpolation=smooth)
        side = max(height, width)  # square cells, each image centred at the foot, so that captions stand in line
        axes.set_xlim((width - side) / 2 - 0.5, (width + side) / 2 - 0.5)
        axes.set_ylim(height - 0.5, height - side - 0.5)
        words, colour = "\n".join(_wrap(captions[place])), colours[place] if colours else INK
        axes.text(
            0.5, -0.05, words, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=colour,
            family=_fonts(), parse_math=False,
        )  # fmt: skip
    save(figure, path)


def _wrap(caption: str, width: int = 20, most: int = 3) -> list[str]:
    lines = [line for part in caption.splitlines() for line in textwrap.wrap(part, width) or [""]]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][: width - 1] + "…"]


def plot_confusion(
    counts: npt.NDArray[np.int64], names: Sequence[str], path: Path | str, *, title: str = "Confusion"
) -> None:
    """Draw a confusion matrix, each row (a true class) as shares of its own images.

    Args:
        counts: (classes, classes); row is the true class, column the predicted one.
        names: in label order; written out up to 40 classes.
    """
    from matplotlib.colors import PowerNorm

    size = len(names)
    side = min(14.0, max(5.0, 0.42 * size + 2.5)) if size <= 40 else 9.0
    figure = new_figure(side + 1, side, title)
    axes = figure.subplots()
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    # Among many classes the shares are small: drawn evenly, all but the diagonal would be as good as white.
    norm = PowerNorm(0.4 if size > 20 else 1, vmin=0, vmax=1)
    image = axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest")
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    if size <= 40:
        short = [name if len(name) <= 22 else name[:21] + "…" for name in names]
        axes.set_xticks(range(size), short, rotation=60, ha="right", fontsize=8, family=_fonts())
        axes.set_yticks(range(size), short, fontsize=8, family=_fonts())
    if size <= 20:
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            colour = "white" if value > 0.55 else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class's images", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    save(figure, path)
