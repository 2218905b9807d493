"""One look for every drawing: palette, lines that differ without colour, a title that is a sentence.

Figures are built without pyplot, so that drawing needs no display, changes no global state and works in threads.
"""

from __future__ import annotations

import textwrap
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UsageError

INK, SOFT, LINE = "#1f2937", "#6b7280", "#e5e7eb"
# In this order, every two neighbours differ in lightness, so that a print in black and white still tells them apart;
# the styles of lines and the hatches of bars do so on their own.
PALETTE = ("#123f6d", "#d98c1f", "#39759d", "#5e2750", "#8fbf9f", "#6b7280")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
MAIN, OTHER, THIRD = PALETTE[:3]
# The first of these that is installed draws what DejaVu Sans has no glyphs for, such as Chinese class names.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "SimHei", "Arial Unicode MS",
)  # fmt: skip
_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
_LETTERS_AN_INCH = 9.5  # of a title


@cache
def fonts() -> list[str]:
    """DejaVu Sans, and the first font that is installed for what it lacks."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _FALLBACK_FONTS if name in installed][:1]]


def new_figure(width: float, height: float, title: str | None = None, *, foot: str | None = None) -> Any:
    """An empty matplotlib figure in this package's style.

    Args:
        width, height: inches.
        title: the one sentence that a reader should take away.
        foot: below the drawing: what was drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    if title:
        lines = "\n".join(textwrap.wrap(title, max(20, int(width * _LETTERS_AN_INCH))))
        figure.suptitle(
            lines, fontsize=12.5, fontweight="bold", color=INK, family=fonts(), x=0.012, ha="left", parse_math=False
        )
    if foot:
        lines = "\n".join(textwrap.wrap(foot, max(20, int(width * _LETTERS_AN_INCH * 1.45))))
        figure.supxlabel(lines, fontsize=8.5, color=SOFT, family=fonts(), x=0.012, ha="left", parse_math=False)
    return figure


def save(figure: Any, path: Path | str, **options: Any) -> None:
    """Write `figure` to `path`, whose folder is made where it is missing, in the format of its ending.

    `options` are those of matplotlib's savefig.

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
        aside = target.with_name(f".{target.name}.tmp")  # a full disk must not cost the picture that was there
        try:
            figure.savefig(aside, **{"format": target.suffix[1:].lower(), **options})
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


def style_axes(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Title, labels with units, a light grid and no box."""
    axes.set_title(title, fontsize=11, color=INK, loc="left", family=fonts())
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(which="both", labelsize=8, colors=INK)
    axes.grid(True, color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9ca3af")


def legend(axes: Any, place: str = "best", handles: Any = None, columns: int = 1) -> None:
    """A legend without a frame, on a veil that leaves the words legible over a line; none where there is no entry."""
    shown = axes.get_legend_handles_labels()[0] if handles is None else handles
    if shown:
        axes.legend(
            handles=shown, fontsize=8, framealpha=0.85, edgecolor="none", handlelength=3, loc=place, ncols=columns
        )
