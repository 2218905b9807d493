"""Grids of images with captions, and the confusion matrix."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .style import INK, fonts, new_figure, save

_SPACE = 0.25  # of an image's width, between images of a grid that do not belong together


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
            family=fonts(), parse_math=False,
        )  # fmt: skip
    save(figure, path)


def _wrap(caption: str, width: int = 20, most: int = 3) -> list[str]:
    lines = [line for part in caption.splitlines() for line in textwrap.wrap(part, width) or [""]]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][: width - 1] + "…"]


def plot_confusion(counts: npt.NDArray[np.int64], names: Sequence[str], path: Path | str, *, title: str = "") -> None:
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
    norm = PowerNorm(0.4 if size > 20 else 1, vmin=0, vmax=100)
    image = axes.imshow(100 * share, cmap="Blues", norm=norm, interpolation="nearest")
    axes.set_xlabel("predicted class", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    if size <= 40 and any(names):
        short = [name if len(name) <= 22 else name[:21] + "…" for name in names]
        axes.set_xticks(range(size), short, rotation=60, ha="right", fontsize=8, family=fonts())
        axes.set_yticks(range(size), short, fontsize=8, family=fonts())
    if size <= 20:
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            colour = "white" if value > 0.55 else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("% of the true class's images", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    save(figure, path)
