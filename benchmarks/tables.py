"""Tables and charts of docs/benchmarks.md and README.md, made from the committed results.

    python benchmarks/tables.py            write them
    python benchmarks/tables.py --check    exit 1 and name the file where one differs from the results

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end: NAME -->`, and is replaced as a whole. The
names are in TABLES; each is a function of the results alone.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gpu_tables
import pack_tables
import remote_tables
import sweep_tables
import training_tables
import truths

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    "README.md", "README.zh-CN.md", "docs/benchmarks.md", "docs/bench-loader.md", "docs/recipes.md", "docs/remote.md",
)  # fmt: skip
CHART = "docs/loaders.png"

OURS = ("alexnet-fast", "alexnet-fast-resident", "alexnet-fast-plain")
LIMIT = "bare-decode"
STORED = "ffcv-raw"  # the peer that reads pixels
TITLES = {
    "alexnet-fast": "**alexnet-fast**",
    "alexnet-fast-resident": "**alexnet-fast, resident**",
    "alexnet-fast-plain": "alexnet-fast, not compiled",
    "ffcv": "FFCV",
    "dali": "DALI (CPU)",
    "spdl": "SPDL",
    "torchvision-v2": "torchvision.io + v2",
    "torchvision-pil": "torchvision, PIL",
    "webdataset": "WebDataset",
    "litdata": "LitData",
    "mds": "MosaicML Streaming",
    "timm": "timm",
    "turboloader": "TurboLoader",
    "torchcodec": "TorchCodec + v2",
    "tfdata": "tf.data",
    "hf": "Hugging Face datasets",
    "ray": "Ray Data",
    "dali-aliased": "DALI (CPU), not antialiased",
    "tfdata-aliased": "tf.data, not antialiased",
    "turboloader-aliased": "TurboLoader, not antialiased",
    "torchvision-v2-aliased": "torchvision.io + v2, not antialiased",
    "ffcv-raw": "FFCV, stored decoded",
    "bare-decode": "*bare decode (limit)*",
}
CASES = {
    "full-224": "ImageNet, full size",
    "375-224": "ImageNet, longest side 375",
    "tiny-64": "Tiny ImageNet at 64",
    "tiny-224": "Tiny ImageNet up to 224",
}


# ---------------------------------------------------------------------------------------------------------------------
# What a result says


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def good_runs(peer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [run for run in peer.get("runs", []) if "error" not in run and not run.get("problems")]


def rate(run: Mapping[str, Any]) -> float:
    """Images a second of one run: the median of its whole epochs after the warm-up."""
    return statistics.median(epoch["pictures"] / epoch["seconds"] for epoch in run["epochs"][1:])


def summary(peer: Mapping[str, Any]) -> dict[str, float] | None:
    """Medians over a peer's runs in one case, with the slowest and fastest run; None where no run came through."""
    runs = good_runs(peer)
    if not runs:
        return None
    rates = [rate(run) for run in runs]
    return {
        "runs": len(runs),
        "rate": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "first_batch_s": statistics.median(
            run["epochs"][0]["first_batch_s"] + run["epochs"][0]["open_s"] for run in runs
        ),
        "memory_mb": statistics.median(run["peak_memory_mb"] for run in runs),
        "cpu": statistics.median(e["cpu_seconds_per_1k"] for run in runs for e in run["epochs"][1:]),
    }


def summaries(case: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By peer, in the order of TITLES."""
    found = {name: summary(case["peers"][name]) for name in TITLES if name in case["peers"]}
    return {name: row for name, row in found.items() if row is not None}


def fastest_peer(rows: Mapping[str, Mapping[str, float]]) -> str | None:
    """Of those that read JPEGs."""
    peers = [name for name in rows if name not in (*OURS, LIMIT, STORED)]
    return max(peers, key=lambda name: rows[name]["rate"], default=None)


def ratios(case: Mapping[str, Any], name: str, peer: str | None = None) -> dict[str, Any] | None:
    """Rate of `name` over that of `peer`, or of the fastest one: of the medians, and the least and most of rounds."""
    rows = summaries(case)
    best = peer or fastest_peer(rows)
    if best not in rows or name not in rows:
        return None
    pairs = zip(good_runs(case["peers"][name]), good_runs(case["peers"][best]), strict=False)
    rounds = [rate(ours) / rate(theirs) for ours, theirs in pairs]
    return {"peer": best, "ratio": rows[name]["rate"] / rows[best]["rate"], "low": min(rounds), "high": max(rounds)}


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def loaders_overview(result: Mapping[str, Any], output: str = "uint8") -> str:
    """A row for each loader, a column for each data set: images a second."""
    cases = {title: result["cases"].get(f"{name}-{output}") for name, title in CASES.items()}
    columns = {title: (case, summaries(case)) for title, case in cases.items() if case and summaries(case)}
    rows = []
    for name, title in TITLES.items():
        if not any(name in found for _, found in columns.values()):
            continue
        cells = [f"{found[name]['rate']:,.0f}" if name in found else "–" for _, found in columns.values()]
        rows.append([title, *(f"**{cell}**" if "**" in title and cell != "–" else cell for cell in cells)])
    for name, peer, words in (
        ("alexnet-fast", None, "alexnet-fast to the fastest that reads JPEGs"),
        ("alexnet-fast-resident", None, "resident to it"),
        ("alexnet-fast-resident", STORED, "resident to the one that reads pixels"),
        ("alexnet-fast-plain", None, "not compiled to it"),
    ):
        found = [ratios(case, name, peer) for case, _ in columns.values()]
        if any(found):
            rows.append([words, *(f"{r['ratio']:.2f}x ({TITLES[r['peer']]})" if r else "–" for r in found)])
    share = [
        f"{found['alexnet-fast']['rate'] / found[LIMIT]['rate']:.0%}" if {"alexnet-fast", LIMIT} <= set(found) else "–"
        for _, found in columns.values()
    ]
    if any(cell != "–" for cell in share):
        rows.append(["alexnet-fast to bare decode", *share])
    return markdown(["images/s", *columns], rows)


def loaders_machine(result: Mapping[str, Any]) -> str:
    e = result["environment"]
    versions: dict[str, str] = {}
    for case in result["cases"].values():
        for peer in case["peers"].values():
            versions |= {name: v for name, v in peer.get("versions", {}).items() if v != "not installed"}
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    runs = [s["runs"] for case in result["cases"].values() for s in summaries(case).values()]
    peers = [peer for case in result["cases"].values() for peer in case["peers"].values()]
    at = sorted(run["at"] for peer in peers for run in peer.get("runs", []))
    if not at:
        return "Not measured yet."
    span = f"{min(runs):.0f} to {max(runs):.0f} runs" if max(runs) > 1 else "1 run"
    return (
        f"{e['cores']} cores of an {e['cpu']} ({', '.join(e['vector_extensions'][-3:])}), {e['memory_gib']:.0f} GiB, "
        f"{e['system']}; measured {at[0][:10]}; {span} of each loader and case. "
        f"Versions: {listed}."
    )


def loaders_detail(result: Mapping[str, Any]) -> str:
    """One table a case."""
    parts = []
    for key, case in result["cases"].items():
        found = summaries(case)
        if not found:
            continue
        name, _, output = key.rpartition("-")
        d = case["data"]
        best = fastest_peer(found)
        rows = []
        for peer, s in sorted(found.items(), key=lambda item: -item[1]["rate"]):
            settings = case["peers"][peer]["settings"]
            rows.append(
                [
                    TITLES[peer],
                    f"{s['rate']:,.0f}",
                    f"{s['low']:,.0f}–{s['high']:,.0f}",
                    f"{s['rate'] / found[best]['rate']:.2f}" if best else "–",
                    f"{s['cpu']:.2f}",
                    f"{s['memory_mb']:,.0f}",
                    f"{s['first_batch_s']:.1f}",
                    ", ".join(f"{k}={str(v).lower()}" for k, v in settings.items()),
                ]
            )
        header = ["", "images/s", "slowest–fastest run", "to the fastest peer", "CPU s / 1,000", "memory MB"]
        parts.append(
            f"### {CASES.get(name, name)}, {output}\n\n"
            f"{d['records']:,} records ({d['distinct_pictures']:,} different images), {d['mean_bytes'] / 1000:.1f} "
            f"kB and {d['mean_pixels']:,} pixels on average; batches of {case['batch_size']}.\n\n"
            + markdown([*header, "first batch s", "settings"], rows)
        )
    return "\n\n".join(parts)


def loaders_tuning(result: Mapping[str, Any]) -> str:
    """Which settings were tried for each loader, and the best and worst rate among them."""
    rows = []
    for key, case in result["cases"].items():
        for peer, found in case["peers"].items():
            trials = found.get("tuning", [])
            if not trials:
                continue
            tried: dict[str, list[str]] = {}
            for trial in trials:
                for name, value in trial["settings"].items():
                    word = str(value).lower()
                    if word not in tried.setdefault(name, []):
                        tried[name].append(word)
            rates = [trial["images_per_s"] for trial in trials]
            what = "; ".join(f"{name}: {', '.join(values)}" for name, values in tried.items() if len(values) > 1)
            rows.append([key, TITLES[peer], str(len(trials)), f"{min(rates):,.0f}–{max(rates):,.0f}", what])
    return markdown(["case", "loader", "trials", "images/s", "tried"], rows)


def loaders_short(result: Mapping[str, Any]) -> str:
    """The first screen's table: ours, the fastest other one, and the loader that PyTorch's tutorials use."""
    header = ["images/s on 2 cores", "alexnet-fast", "fastest other loader", "torchvision with PIL"]
    rows = []
    for name, title in CASES.items():
        case = result["cases"].get(f"{name}-uint8")
        if case is None:
            continue
        found = summaries(case)
        ours = max(row["rate"] for peer, row in found.items() if peer in OURS)
        others = {peer: row["rate"] for peer, row in found.items() if peer not in OURS and peer != LIMIT}
        best = max(others, key=lambda peer: others[peer])
        usual = found.get("torchvision-pil")
        rows.append(
            [
                title,
                f"**{ours:,.0f}**",
                f"{others[best]:,.0f} ({TITLES[best]})",
                f"{usual['rate']:,.0f}" if usual else "–",
            ]
        )
    return markdown(header, rows)


def loaders_augmented(result: Mapping[str, Any]) -> str:
    """A row for each loader that takes torchvision's transforms: rate and CPU time of both data sets."""
    columns = {CASES[key.rpartition("-")[0]]: summaries(case) for key, case in result["cases"].items()}
    rows = []
    for name, title in TITLES.items():
        found = [rows_of.get(name) for rows_of in columns.values()]
        if any(found):
            cells = [[f"{s['rate']:,.0f}", f"{s['cpu']:.2f}"] if s else ["–", "–"] for s in found]
            rows.append([title, *(cell for pair in cells for cell in pair)])
    compared: list[str] = []
    for rows_of in columns.values():
        ours = rows_of["alexnet-fast"]
        others = [s for name, s in rows_of.items() if name != "alexnet-fast"]
        compared.append(f"{ours['rate'] / max(s['rate'] for s in others):.2f}x")
        compared.append(f"{min(s['cpu'] for s in others) / ours['cpu']:.2f}x")
    header = [words for title in columns for words in (f"{title}: images/s", "CPU s / 1,000")]
    return markdown(["", *header], [*rows, ["alexnet-fast to the best of the others", *compared]])


def loaders_tables() -> dict[str, str]:
    augmented = load("loaders-augmented")
    tables = {}
    if augmented is not None:
        tables = {
            "loaders-augmented": loaders_augmented(augmented),
            "loaders-augmented-machine": loaders_machine(augmented),
        }
    result = load("loaders-2core-xeon")
    if result is None:
        return tables
    return tables | {
        "loaders": loaders_overview(result),
        "loaders-short": loaders_short(result),
        "loaders-float": loaders_overview(result, "float"),
        "loaders-machine": loaders_machine(result),
        "loaders-detail": loaders_detail(result),
        "loaders-tuning": loaders_tuning(result),
    }


def gpu_results() -> dict[str, str]:
    """A table for each run of benchmarks/gpu.py; the dry run gives way once a GPU was measured."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu-*.json"))]
    measured = [result for result in found if result["environment"]["gpu"]]
    return {"gpu": "\n\n".join(map(gpu_tables.table, measured or found))} if found else {}


def pack_results() -> dict[str, str]:
    found = {name: result for name in ("full", "tiny") if (result := load(f"pack-{name}")) is not None}
    tables = {f"pack-{name}": pack_tables.table(result) for name, result in found.items()}
    if "tiny" in found:
        tables["pack-sentence"] = pack_tables.sentence(found["tiny"])
    return tables | ({"pack-machine": pack_tables.machine(next(iter(found.values())))} if found else {})


def sweep_results() -> dict[str, str]:
    """Two sweeps over each data set."""
    path = RESULTS / "bench-loader-truths.json"
    found = {"bench-loader-truths": truths.table(json.loads(path.read_text()))} if path.exists() else {}
    return {**sweep_tables.tables(RESULTS, markdown), **found}


def training_results() -> dict[str, str]:
    return training_tables.training_tables(load, markdown)


def remote_results() -> dict[str, str]:
    free, limited, orders = load("remote-xeon"), load("remote-epyc"), load("orders")
    return {
        **(remote_tables.remote_tables(free, limited, markdown) if free and limited else {}),
        **(remote_tables.orders_tables(orders, markdown) if orders else {}),
    }


# Other benchmarks add a function here: {name of a table: its Markdown}.
def stage_results() -> dict[str, str]:
    path = RESULTS / "stages.json"
    result = json.loads(path.read_text()) if path.exists() else None
    return {"stages": stages_table(result), "stages-machine": stages_machine(result)} if result else {}


def stages_table(result: Mapping[str, Any]) -> str:
    """Milliseconds an image of decoding and of all, by who does it."""
    by_data: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in result["rows"]:
        by_data.setdefault(row["data"], {})[row["way"]] = row
    ways_ = ("indexed", "compiled", "plain")
    rows = [
        [
            CASES[name],
            *(f"{ways[way][stage] / 1000:.3f}" for stage in ("decode_us", "all_us") for way in ways_),
            f"{ways['plain']['all_us'] / ways['indexed']['all_us']:.1f}x",
        ]
        for name, ways in by_data.items()
    ]
    words = ("with a seek index", "without one", "plain")
    header = ["ms of a core", *(f"{stage}, {word}" for stage in ("decoding", "all") for word in words), "plain to best"]
    return markdown(header, rows)


def stages_machine(result: Mapping[str, Any]) -> str:
    e, versions = result["environment"], result["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"One thread's CPU time on an {e['cpu']}, median of {result['turns']} turns; {listed}."


TABLES: list[Callable[[], dict[str, str]]] = [
    loaders_tables, stage_results, gpu_results, pack_results, sweep_results, training_results,
    remote_results,
]  # fmt: skip


def all_tables() -> dict[str, str]:
    found: dict[str, str] = {}
    for tables in TABLES:
        found |= tables()
    return found


def replaced(page: str, tables: Mapping[str, str]) -> str:
    """`page` with each table that it names."""

    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in tables:  # a misspelt name, or a result that is not there, must not leave an old table behind
            raise SystemExit(f"no committed result gives the table {name}")
        return f"<!-- table: {name} -->\n\n{tables[name]}\n\n<!-- end: {name} -->"

    return re.sub(r"<!-- table: ([\w-]+) -->.*?<!-- end: \1 -->", table, page, flags=re.DOTALL)


# ---------------------------------------------------------------------------------------------------------------------
# Chart


def loaders_chart(result: Mapping[str, Any], path: Path) -> None:
    """Bars of images a second, a panel a data set, with the slowest and fastest run; bare decode as a line."""
    from alexnet_fast.plots import INK, LINE, MAIN, OTHER, legend, new_figure, save, style_axes

    panels = [(title, summaries(result["cases"][f"{name}-uint8"])) for name, title in CASES.items()
              if f"{name}-uint8" in result["cases"]]  # fmt: skip
    panels = [(title, rows) for title, rows in panels if rows]
    figure = new_figure(
        4.2 * len(panels), 0.8 + 0.24 * max(len(rows) for _, rows in panels), loaders_sentence(panels),
        foot=f"Images a second as batches of uint8 on {result['environment']['cores']} cores, each loader at its best "
        "settings; the bars' ends: slowest and fastest run",
    )  # fmt: skip
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        bars = sorted(((n, r) for n, r in rows.items() if n != LIMIT), key=lambda item: item[1]["rate"])
        names = [TITLES[name].strip("*") for name, _ in bars]
        rates = [row["rate"] for _, row in bars]
        errors = [[row["rate"] - row["low"] for _, row in bars], [row["high"] - row["rate"] for _, row in bars]]
        own = [name in OURS for name, _ in bars]
        axis.barh(
            names, rates, xerr=errors, ecolor=INK, capsize=2, color=[MAIN if o else LINE for o in own],
            edgecolor=[MAIN if o else "#9ca3af" for o in own], hatch=["" if o else "//" for o in own],
        )  # fmt: skip
        if LIMIT in rows:
            axis.axvline(rows[LIMIT]["rate"], color=OTHER, linestyle="--", linewidth=1.5, label="bare decode")
        style_axes(axis, title, "images/s", "")
        axis.grid(axis="y", visible=False)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        legend(axis, "lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date or version of matplotlib in the file: the same result makes the same bytes.
    save(figure, path, dpi=110, metadata={"Software": None})


def loaders_sentence(panels: list[tuple[str, dict[str, Any]]]) -> str:
    """The title of the chart: how our fastest loader stands to the fastest other one, from panel to panel."""
    factors = []
    for _, rows in panels:
        ours = max(row["rate"] for name, row in rows.items() if name in OURS)
        others = [row["rate"] for name, row in rows.items() if name not in OURS and name != LIMIT]
        factors += [ours / max(others)] if others else []
    low, high = min(factors), max(factors)
    span = f"{low:.1f} to {high:.1f}" if f"{low:.1f}" != f"{high:.1f}" else f"{low:.1f}"
    return f"alexnet-fast loads images {span} times as fast as the fastest other loader."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    tables = all_tables()
    stale = []
    for name in PAGES:
        page = ROOT / name
        if not page.exists():
            continue
        text = page.read_text()
        wanted = replaced(text, tables)
        if wanted != text:
            stale.append(name)
            if not args.check:
                page.write_text(wanted)
    result = load("loaders-2core-xeon")
    if result is not None and not args.check:
        loaders_chart(result, ROOT / CHART)
    if stale:
        print(f"{'differ from the results' if args.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
