"""Drawings for people, in one look: curves of a run, grids of images, confusions, and what a network has learnt."""

from __future__ import annotations

from .curves import best_row, is_number, plot_curves
from .grids import plot_confusion, plot_grid
from .networks import plot_filters, plot_guesses, plot_neighbours
from .style import (
    HATCHES,
    INK,
    LINE,
    LINES,
    MAIN,
    MARKERS,
    OTHER,
    PALETTE,
    SOFT,
    THIRD,
    legend,
    new_figure,
    save,
    style_axes,
)

__all__ = [
    "HATCHES",
    "INK",
    "LINE",
    "LINES",
    "MAIN",
    "MARKERS",
    "OTHER",
    "PALETTE",
    "SOFT",
    "THIRD",
    "best_row",
    "is_number",
    "legend",
    "new_figure",
    "plot_confusion",
    "plot_curves",
    "plot_filters",
    "plot_grid",
    "plot_guesses",
    "plot_neighbours",
    "save",
    "style_axes",
]
