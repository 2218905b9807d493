"""What a network has learnt, as the paper shows it: first-layer filters, guesses beside images, images alike.

Figures 3 and 4 of Krizhevsky, Sutskever, Hinton 2012.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .style import INK, LINE, MAIN, OTHER, SOFT, fonts, new_figure, save

Pixels = npt.NDArray[np.uint8]
_LETTER = 0.034  # of a bar's panel, in the size of its words


def plot_filters(
    weights: npt.NDArray[np.float32], path: Path | str, *, title: str | None = None, foot: str | None = None
) -> None:
    """Draw the filters of a first convolution as small colour images (figure 3).

    Args:
        weights: (filters, 3, k, k). One scale serves all of them, grey where a weight is 0: a filter that is stronger
            than another looks so. The strongest 1 in 200 weights are clipped.
    """
    count, _, k, _ = weights.shape
    columns = min(16, max(1, math.ceil(math.sqrt(count * 2.6))))
    rows = math.ceil(count / columns)
    most = float(np.quantile(np.abs(weights), 0.995)) or 1.0
    shown = np.clip(0.5 + weights / (2 * most), 0, 1).transpose(0, 2, 3, 1)
    sheet = np.ones((rows * (k + 1) + 1, columns * (k + 1) + 1, 3), np.float32)
    for i in range(count):
        top, left = (i // columns) * (k + 1) + 1, (i % columns) * (k + 1) + 1
        sheet[top : top + k, left : left + k] = shown[i]
    width = 9.0
    figure = new_figure(width, width * rows / columns + 1.0, title, foot=foot)
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.axis("off")
    save(figure, path)


def plot_guesses(
    images: Sequence[Pixels],
    names: Sequence[str],
    guesses: Sequence[Sequence[tuple[str, float]]],
    path: Path | str,
    *,
    title: str | None = None,
    foot: str | None = None,
) -> None:
    """Draw images, the true class below each, and its likeliest classes as bars (figure 4, left).

    Args:
        images: uint8 (height, width, 3).
        names: the true classes; '' where there is none.
        guesses: of each image (class, probability), the likeliest first. The true one's bar is dark, the others' are
            light and hatched.
    """
    columns = max(1, min(4, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = new_figure(2.9 * columns, 3.9 * rows + 0.9, title, foot=foot)
    cells = figure.add_gridspec(2 * rows, columns, height_ratios=[1.7, 1] * rows)
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        top, bottom = (figure.add_subplot(cells[2 * row + part, column]) for part in (0, 1))
        if i >= len(images):
            top.axis("off")
            bottom.axis("off")
            continue
        _show(top, images[i], _short(names[i], 28), fontsize=10, color=INK)
        _bars(bottom, names[i], guesses[i])
    save(figure, path)


def _show(axes: Any, image: Pixels, caption: str, **face: Any) -> None:
    axes.imshow(image, interpolation="nearest" if max(image.shape) <= 96 else "auto")
    axes.set_title(caption, family=fonts(), parse_math=False, **face)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(LINE)


def _bars(axes: Any, true: str, guesses: Sequence[tuple[str, float]]) -> None:
    places = range(len(guesses))
    right = [name == true for name, _ in guesses]
    axes.barh(
        places, [share for _, share in guesses], height=0.82, edgecolor=[MAIN if r else OTHER for r in right],
        color=[MAIN if r else "#f3dcb8" for r in right], hatch=["" if r else "//" for r in right],
    )  # fmt: skip
    for place, (name, share) in zip(places, guesses, strict=True):
        words = f"{_short(name, 22)}  {share:.0%}"
        room = _LETTER * len(words)
        inside = share > room or share + room > 1
        axes.text(
            0.02 if inside else share + 0.02, place, words, va="center", fontsize=8, family=fonts(), parse_math=False,
            color="white" if inside and right[place] else INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            if inside and not right[place] else None,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(len(guesses) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def plot_neighbours(
    images: Sequence[Pixels],
    names: Sequence[str],
    neighbours: Sequence[Sequence[tuple[Pixels, str]]],
    path: Path | str,
    *,
    title: str | None = None,
    foot: str | None = None,
) -> None:
    """Draw images in the first column, and beside each the training images most like it (figure 4, right).

    Args:
        images: uint8 (height, width, 3).
        names: their classes.
        neighbours: of each image (image, class), the nearest first; a class other than the image's own is marked.
    """
    columns = 1 + max((len(found) for found in neighbours), default=0)
    rows = max(1, len(images))
    figure = new_figure(1.45 * columns + 0.4, 1.62 * rows + 0.9, title, foot=foot)
    cells = figure.add_gridspec(rows, columns + 1, width_ratios=[1, 0.12, *[1] * (columns - 1)])
    for row in range(len(images)):
        _small(figure.add_subplot(cells[row, 0]), images[row], names[row], color=INK, fontweight="bold")
        for column, (image, name) in enumerate(neighbours[row]):
            axes = figure.add_subplot(cells[row, column + 2])
            if name == names[row]:
                _small(axes, image, name, color=INK)
            else:
                _small(axes, image, f"not so: {name}", color=SOFT, fontstyle="oblique")
    save(figure, path)


def _small(axes: Any, image: Pixels, caption: str, **face: Any) -> None:
    _show(axes, image, _short(caption, 20), fontsize=7.5, pad=2, **face)
    axes.axis("off")


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
