"""Plot and tables of docs/num-workers*.md, made from what num_workers.py measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

PAGES = {"num-workers.md": "en", "num-workers.zh-CN.md": "zh"}
DATA = {
    "files": {"en": "JPEG files", "zh": "JPEG 文件"},
    "memory": {"en": "tensor in memory", "zh": "内存中的张量"},
    "packed": {"en": "alexnet-fast, packed", "zh": "alexnet-fast，打包后"},
}
STARTS = {
    "none": {"en": "-", "zh": "-"},
    "fork": {"en": "fork, every epoch", "zh": "fork，每轮重启"},
    "fork-once": {"en": "fork, persistent", "zh": "fork，常驻"},
    "spawn": {"en": "spawn, every epoch", "zh": "spawn，每轮重启"},
    "processes": {"en": "fork, persistent", "zh": "fork，常驻"},
    "threads": {"en": "threads", "zh": "线程"},
}
HEADINGS = {
    "en": ("data", "workers", "start", "first batch, s", "first epoch, s", "later epoch, s", "against 0 workers",
           "CPU s an epoch"),
    "zh": ("数据", "worker 数", "启动方式", "第一批（秒）", "第一轮（秒）", "之后各轮（秒）",
           "相对 0 个 worker", "每轮的 CPU 秒"),
}  # fmt: skip


def summarise(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a case: medians over the rounds; a later epoch is the median of those after a run's first."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        groups.setdefault((run["data"], run["workers"], run["start"]), []).append(run)
    rows = []
    for (data, workers, start), runs in groups.items():
        # Spawned workers read one epoch only: without persistent_workers the later ones start like the first.
        later = [median(epoch["seconds"] for epoch in run["epochs"][1:] or run["epochs"]) for run in runs]
        rows.append(
            {
                "data": data, "workers": workers, "start": start, "rounds": len(runs),
                "first_batch_s": median(run["epochs"][0]["first_batch_s"] for run in runs),
                "first_epoch_s": median(run["epochs"][0]["seconds"] for run in runs),
                "later_epoch_s": median(later), "spread": (max(later) - min(later)) / median(later),
                "cpu_s": median(e["cpu_s"] for run in runs for e in run["epochs"] if e["cpu_s"] is not None),
                "pictures": runs[0]["epochs"][0]["pictures"],
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]], language: str) -> str:
    """Every case as a Markdown row."""
    lines = [HEADINGS[language], ("---", "---:", "---", "---:", "---:", "---:", "---:", "---:")]
    for row in rows:
        none = next(r for r in rows if r["data"] == row["data"] and r["workers"] == 0)
        # Without workers nothing is started, so its later epochs are what the others are held against.
        ratio = row["later_epoch_s"] / none["later_epoch_s"]
        lines.append(
            (
                DATA[row["data"]][language], str(row["workers"]), STARTS[row["start"]][language],
                f"{row['first_batch_s']:.2f}", f"{row['first_epoch_s']:.2f}", f"{row['later_epoch_s']:.2f}",
                f"{ratio:.2f} x", f"{row['cpu_s']:.2f}",
            )
        )  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(result: dict[str, Any], rows: list[dict[str, Any]], language: str) -> str:
    """Where it was measured."""
    e, v = result["environment"], result["environment"]["versions"]
    rounds = min(row["rounds"] for row in rows)
    spread = sorted(row["spread"] for row in rows)[len(rows) // 2]
    if language == "zh":
        how = f"{rounds} 轮的中位数，（最大-最小）/中位数一般为 {spread:.0%}" if rounds > 1 else "每种情况测一轮"
        return (
            f"{e['machine']}，{e['usable_cores']} 个可用的核，{e['system'].split('-')[0]}，Python {v['python']}，"
            f"torch {v['torch']}，torchvision {v['torchvision']}；{rows[0]['pictures']:,} 张图片，"
            f"批大小 {e['batch_size']}；{how}。"
        )
    how = (
        f"medians of {rounds} rounds, (highest - lowest) / median {spread:.0%} in the median case"
        if rounds > 1
        else "one round of each case"
    )
    return (
        f"{e['machine']}, {e['usable_cores']} usable cores, {e['system'].split('-')[0]}, Python {v['python']}, torch "
        f"{v['torch']}, torchvision {v['torchvision']}; {rows[0]['pictures']:,} images in batches of "
        f"{e['batch_size']}; {how}."
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds of a later epoch by number of workers, a line per kind of worker; one panel per kind of data."""
    from alexnet_fast.plots import LINES, MARKERS, PALETTE, SOFT, legend, new_figure, save, style_axes

    looks = {"fork": 0, "spawn": 1, "fork-once": 2, "processes": 2, "threads": 3}
    figure = new_figure(
        3.3 * len({row["data"] for row in rows}) + 1.5, 4.6, title(rows),
        foot=f"Seconds to read {rows[0]['pictures']:,} images, no training; lower is better; logarithmic axis",
    )  # fmt: skip
    shown = [data for data in DATA if any(row["data"] == data for row in rows)]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    counts = sorted({row["workers"] for row in rows})
    for axes, data in zip(panels, shown, strict=True):
        own = [row for row in rows if row["data"] == data]
        none = next(row for row in own if row["workers"] == 0)
        for start in dict.fromkeys(row["start"] for row in own if row["workers"]):
            line = [none, *sorted((r for r in own if r["start"] == start and r["workers"]), key=lambda r: r["workers"])]
            x, y = [counts.index(row["workers"]) for row in line], [row["later_epoch_s"] for row in line]
            look = looks[start]
            axes.plot(
                x, y, marker=MARKERS[look], linestyle=LINES[look], linewidth=2, color=PALETTE[look],
                label=STARTS[start]["en"],
            )  # fmt: skip
        axes.axhline(none["later_epoch_s"], color=SOFT, linestyle=":", linewidth=1, label="0 workers")
        style_axes(axes, DATA[data]["en"], "number of workers", "seconds an epoch" if data == shown[0] else "")
        axes.set_yscale("log")
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        legend(axes)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    save(figure, path, metadata={"Software": None})


def title(rows: list[dict[str, Any]]) -> str:
    """The sentence over the plot: what workers gain on files, and what they cost where nothing is left to decode."""
    found = []
    for data, words in (("files", "reading JPEG files"), ("memory", "reading decoded images from memory")):
        own = [row for row in rows if row["data"] == data]
        if not own:
            continue
        none = next(row["later_epoch_s"] for row in own if row["workers"] == 0)
        best = min((row for row in own if row["workers"]), key=lambda row: row["later_epoch_s"])
        gain = none / best["later_epoch_s"]
        faster = f"{gain:.1f} times as fast as" if gain > 1 else f"{1 / gain:.1f} times slower than"
        found.append(f"{words}, {best['workers']} worker{'s' * (best['workers'] > 1)} at their best are {faster} none")
    return f"{'; '.join(found)}.".capitalize().replace("jpeg", "JPEG")


def renew(result_file: Path, docs: Path, *, check: bool) -> int:
    """Write tables and plot, or with `check` return 1 where a page's tables are not those of the result."""
    result = json.loads(result_file.read_text())
    rows = summarise(result)
    wrong = []
    for name, language in PAGES.items():
        text = (docs / name).read_text()
        new = _fill(text, "cases", table(rows, language))
        new = _fill(new, "machine", machine(result, rows, language))
        if new != text:
            wrong.append(name)
            if not check:
                (docs / name).write_text(new)
    if not check:
        draw(rows, docs / "num-workers.png")
        return 0
    for name in wrong:
        print(f"docs/{name} differs from {result_file}: run python benchmarks/num_workers.py doc")
    return 1 if wrong else 0


def _fill(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- num-workers: {name} -->", f"<!-- end num-workers: {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"the page has no place for {name!r}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
