"""An evaluation as one HTML page that needs nothing beside itself: curves, confusion, classes, and the images."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import ShardReader
from ..errors import UsageError
from ..inspection import read_image
from ..plots import INK, LINE, MAIN, SOFT, plot_confusion, plot_curves
from ..system import write_file_atomically
from ..training import LoadedRun, fit_verdict, made_harder_by
from .figures import FILTERS, GUESSES, NEIGHBOURS, draw_network
from .result import EvalResult, confused_pairs, short_name

CURVES, CONFUSION = "curves.png", "confusion.png"
_SIDE = 112  # pixels of an image on the page
_SHOWN = 24  # right images, and as many wrong ones
_PAIRS = 12
_NUMBERS = ("top-5", "precision", "images", "top-1 error", "top-5 error")  # columns that are aligned at the right

_STYLE = (
    """
:root { --ink:INK; --soft:SOFT; --line:LINE; --paper:#ffffff; --card:#f9fafb; --good:MAIN; --bad:#9a5b06;
  --bar:MAIN; }
* { box-sizing:border-box }
body { margin:0 auto; padding:24px; max-width:1180px; background:var(--paper); color:var(--ink);
  font:15px/1.45 system-ui,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC",sans-serif }
h1 { font-size:26px; margin:0 0 4px } h2 { font-size:19px; margin:36px 0 10px }
p { margin:6px 0 } .soft { color:var(--soft) }
.tiles { display:flex; flex-wrap:wrap; gap:12px; margin:18px 0 }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:12px 18px; min-width:130px }
.tile b { display:block; font-size:26px } .tile span { color:var(--soft); font-size:13px }
img.plot { max-width:100%; height:auto; border:1px solid var(--line); border-radius:10px }
.scroll { max-height:520px; overflow:auto; border:1px solid var(--line); border-radius:10px }
table { border-collapse:collapse; width:100%; font-size:14px }
th { position:sticky; top:0; background:var(--card); text-align:left; cursor:pointer; user-select:none }
th,td { padding:6px 12px; border-bottom:1px solid var(--line) }
td.share { white-space:nowrap }
td.n,th.n { text-align:right; font-variant-numeric:tabular-nums }
.bar { display:inline-block; height:10px; background:var(--bar); border-radius:3px; vertical-align:middle }
.rail { display:inline-block; width:140px; background:var(--line); border-radius:3px; line-height:10px }
.grid { display:grid; grid-template-columns:repeat(auto-fill,minmax(124px,1fr)); gap:14px }
figure { margin:0; font-size:12.5px; line-height:1.3 } figure img { width:112px; height:112px; object-fit:contain;
  background:var(--card); border-radius:6px; display:block; margin-bottom:4px }
.good { color:var(--good) } .bad { color:var(--bad); font-style:italic }
""".replace("INK", INK)
    .replace("SOFT", SOFT)
    .replace("LINE", LINE)
    .replace("MAIN", MAIN)
)

_SORT = """
document.querySelectorAll("table.sort th").forEach((head) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex, up = head.dataset.up !== "1";
  const key = (row) => row.cells[at].dataset.v ?? row.cells[at].textContent;
  const order = (a, b) => isNaN(key(a)) || isNaN(key(b)) ? key(a).localeCompare(key(b)) : key(a) - key(b);
  [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)).forEach((row) => body.append(row));
  head.parentNode.querySelectorAll("th").forEach((other) => delete other.dataset.up);
  head.dataset.up = up ? "1" : "0";
}));
"""


def write_report(result: EvalResult, folder: Path | str, loaded: LoadedRun | None = None) -> Path:
    """Write FOLDER/index.html, which holds all its images, and its drawings beside it as PNGs.

    Args:
        loaded: the network that was evaluated, for the paper's figures of it; None leaves them out.

    Returns:
        The page's path.

    Raises:
        UsageError: `folder` is a file. DamagedDataError: a record that the page shows cannot be read.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise UsageError(f"the report goes into a folder, and {target} is a file: give another --report")
    target.mkdir(parents=True, exist_ok=True)
    page = target / "index.html"
    write_file_atomically(page, _page(result, target, loaded).encode())
    return page


def _page(result: EvalResult, folder: Path, loaded: LoadedRun | None) -> str:
    rows = _metrics(result.run)
    names = [short_name(c.name) for c in result.classes]
    parts = [
        f"<h1>{_text(result.dataset_name)}, split {_text(result.split)}</h1>",
        f'<p class="soft">{_text(result.description)}'
        + ("" if result.tta == "none" else f", test-time augmentation: {_text(result.tta)}")
        + "</p>",
        _tiles(result),
        *(f"<p>{_text(line)}</p>" for line in result.caveats()),
        *_beside_paper(result),
    ]
    if rows:
        recipe = loaded.config.get("recipe", {}) if loaded is not None else {}
        plot_curves(rows, folder / CURVES, training=made_harder_by(recipe))
        parts += ["<h2>How it was trained</h2>", f"<p>{_text(fit_verdict(rows))}</p>"]
        parts.append(_drawn("Curves of the run, by epoch", folder / CURVES))
    if loaded is not None:
        heads = {FILTERS: "First-layer filters", GUESSES: "Guesses", NEIGHBOURS: "Training images alike"}
        for figure in draw_network(result, loaded, folder):
            head = heads[figure.path.name]
            parts += [f"<h2>{head}</h2>", _drawn(f"{head}: {figure.title}", figure.path)]
    parts += ["<h2>Most confused</h2>", _confused(result, names)]
    parts += ["<h2>Classes</h2>", _classes(result, names)]
    counts = result.confusion()
    shared = -(-len(names) // len(counts))
    plot_confusion(counts, names if shared == 1 else [""] * len(counts), folder / CONFUSION)
    parts += [
        "<h2>Confusion</h2>",
        '<p class="soft">Each row is a true class; its cells are the shares that were taken for each class'
        + (", in per cent." if len(names) <= 20 else ".")
        + (f" {shared} neighbouring classes share a row and a column." if shared > 1 else "")
        + "</p>",
        _drawn("Confusion matrix", folder / CONFUSION),
    ]
    parts += _images(result, names)
    title = f"{result.dataset_name}: top-1 {result.top1:.1%}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + f"\n<script>{_SORT}</script>\n</body></html>\n"
    )


def _beside_paper(result: EvalResult) -> list[str]:
    """Errors beside the paper's, where the classes are ImageNet's."""
    paper = result.beside_paper()
    if paper is None:
        return []
    rows = (
        f'<tr><td>{_text(who)}</td><td class="n">{top1:.1%}</td><td class="n">{top5:.1%}</td></tr>'
        for who, top1, top5 in paper
    )
    return ["<h2>Errors beside the paper's</h2>", _table(("network", "top-1 error", "top-5 error"), rows)]


def _text(words: object) -> str:
    return html.escape(str(words))


def _tiles(result: EvalResult) -> str:
    chance = 1 / max(1, len(result.classes))
    sizes = result.images_of_classes()
    uneven = sizes.max() != sizes.min()
    tiles = [
        (f"{result.top1:.2%}", "top-1 accuracy"),
        (f"{result.top5:.2%}", "top-5 accuracy"),
        *([(f"{result.balanced_top1:.2%}", "balanced accuracy")] if uneven else []),
        (f"{result.loss:.4f}", "loss, nats"),
        (f"{result.images:,}", "images"),
        (f"{len(result.classes):,}", f"classes (chance: {chance:.1%})"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{a}</b><span>{_text(b)}</span></div>' for a, b in tiles)
        + "</div>"
    )


def _metrics(run: Path) -> list[dict[str, Any]]:
    """The run's metrics.jsonl, [] where it has none."""
    folder = run if run.is_dir() else run.parent
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return []


def _drawn(words: str, path: Path) -> str:
    """A drawing of the report's folder, within the page."""
    return f'<img class="plot" alt="{_text(words)}" src="{_data("image/png", path.read_bytes())}">'


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _bar(share: float) -> str:
    return f'<span class="rail"><span class="bar" style="width:{140 * share:.0f}px"></span></span>'


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th class="n">{_text(h)}</th>' if h in _NUMBERS else f"<th>{_text(h)}</th>" for h in heads)
    return (
        f'<div class="scroll"><table class="sort"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _classes(result: EvalResult, names: Sequence[str]) -> str:
    total, right = result.images_of_classes(), result.hits_of_classes()
    in_five = np.bincount(
        result.labels[(result.predictions == result.labels[:, None]).any(1)], minlength=len(result.classes)
    )
    taken = np.bincount(result.predictions[:, 0], minlength=len(result.classes))
    share = right / np.maximum(1, total)
    order = sorted(map(int, np.flatnonzero(total)), key=lambda label: (share[label], names[label]))
    rows = (
        f"<tr><td>{_text(result.classes[i].wnid)}</td><td>{_text(result.classes[i].name)}</td>"
        f'<td class="share" data-v="{share[i]:.6f}">{_bar(share[i])} {share[i]:.1%}</td>'
        f'<td class="n" data-v="{in_five[i] / total[i]:.6f}">{in_five[i] / total[i]:.1%}</td>'
        f'<td class="n" data-v="{right[i] / max(1, taken[i]):.6f}">{right[i] / max(1, taken[i]):.1%}</td>'
        f'<td class="n" data-v="{total[i]}">{total[i]:,}</td></tr>'
        for i in order
    )
    heads = ("class", "name", "top-1 (recall)", "top-5", "precision", "images")
    note = '<p class="soft">The hardest first; a click on a heading sorts by it.</p>'
    return note + _table(heads, rows)


def _confused(result: EvalResult, names: Sequence[str]) -> str:
    pairs = confused_pairs(result)
    if not pairs:
        return "<p>Nothing was confused.</p>"
    rows = (
        f'<tr><td>{_text(names[t])}</td><td class="bad">{_text(names[p])}</td>'
        f'<td class="share" data-v="{share:.6f}">{_bar(share)} {share:.1%}</td>'
        f'<td class="n" data-v="{count}">{count:,}</td></tr>'
        for t, p, count, share in pairs
    )
    return _table(("this class", "is taken for", "share of its images", "images"), rows)


def _images(result: EvalResult, names: Sequence[str]) -> list[str]:
    right = result.predictions[:, 0] == result.labels
    sure = result.probabilities[:, 0]
    wrong_first = np.flatnonzero(~right)[np.argsort(-sure[~right], kind="stable")][:_SHOWN]
    # An even sample of what was right, from the least to the most certain.
    ranked = np.flatnonzero(right)[np.argsort(sure[right], kind="stable")]
    places = np.unique(np.linspace(0, len(ranked) - 1, min(_SHOWN, len(ranked))).astype(np.int64))
    reader = result.open_split()
    try:
        return [
            "<h2>Wrong, and most certain of it</h2>",
            _figures(result, reader, names, wrong_first),
            "<h2>Right, from the least to the most certain</h2>",
            _figures(result, reader, names, ranked[places]),
        ]
    finally:
        reader.close()


def _figures(result: EvalResult, reader: ShardReader, names: Sequence[str], places: Iterable[int]) -> str:
    """The images at some places of the result."""
    from PIL import Image

    cells = []
    for place in places:
        record = int(result.records[place])
        image = Image.fromarray(read_image(reader, record))
        image.thumbnail((2 * _SIDE, 2 * _SIDE))
        held = io.BytesIO()
        image.save(held, "JPEG", quality=85)
        true, guess = int(result.labels[place]), int(result.predictions[place, 0])
        mark = "✓" if guess == true else "✗"
        words = f"{mark} {_text(names[guess])} {result.probabilities[place, 0]:.0%}"
        second = "" if guess == true else f"<br>is {_text(names[true])}"
        cells.append(
            f'<figure><img alt="{_text(reader.key(record))}" src="{_data("image/jpeg", held.getvalue())}">'
            f'<span class="{"good" if guess == true else "bad"}">{words}</span>{second}</figure>'
        )
    return f'<div class="grid">{"".join(cells)}</div>' if cells else "<p>None.</p>"
