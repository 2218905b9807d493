"""What a result of benchmarks/pack.py says, as the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {
    "alexnet-fast": "**alexnet-fast pack**",
    "cp -r": "`cp -r`",
    "mds": "MosaicML Streaming",
    "webdataset": "WebDataset",
    "litdata": "LitData",
    "ffcv": "FFCV",
}
HEADER = ("", "runs", "seconds (least–most)", "without imports", "CPU s", "MB on disk", "to pack's")


def table(result: Mapping[str, Any]) -> str:
    """A row for each way to write a data set, the quickest first, with its time as a multiple of pack's."""
    rows = result["summary"]["seconds"]
    ours = rows["alexnet-fast"]
    source = result["environment"]["source"]
    lines = [
        f"{source['jpegs']:,} pictures, {source['megabytes']:,.0f} MB:",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" + "|---:" * (len(HEADER) - 1) + "|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: item[1]["median"]):
        bold = "**" if name == "alexnet-fast" else ""
        cells = [
            title(name), str(row["runs"]), f"{bold}{row['median']:.2f}{bold} ({row['least']:.2f}–{row['most']:.2f})",
            seconds(row["working"]), f"{row['cpu']:.1f}", f"{row['megabytes']:,.0f}",
            f"{row['median'] / ours['median']:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def title(name: str) -> str:
    first, comma, rest = name.partition(",")
    return TITLES[first] + comma + rest


def sentence(tiny: Mapping[str, Any]) -> str:
    """How long the whole of Tiny ImageNet takes, for README."""
    rows = dict(tiny["summary"]["seconds"])
    ours, copy = rows.pop("alexnet-fast"), rows.pop("cp -r")
    fastest = min(rows, key=lambda name: float(rows[name]["median"]))
    e = tiny["environment"]
    return (
        f"Tiny ImageNet's 110,000 labelled pictures are packed in {ours['median']:.1f} s on {e['cores']} cores of an "
        f"{e['cpu']}, each of them decoded.\nOf the writers of MDS, WebDataset, LitData and FFCV, which decode none, the "
        f"quickest ({title(fastest.partition(',')[0])}) takes {rows[fastest]['median']:.1f} s;\n`cp -r` and sync take "
        f"{copy['median']:.1f} s ([all figures](docs/benchmarks.md#packing))."
    )


def machine(result: Mapping[str, Any]) -> str:
    """The machine and the versions, in a sentence each."""
    e = result["environment"]
    versions = dict(e["versions"])
    for name, runs in result["runs"].items():
        versions |= {title(name.partition(",")[0]).strip("*"): run["version"] for run in runs if "version" in run}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{e['cores']} cores of an {e['cpu']}, Linux {e['kernel']}, Python {e['python']}; measured {e['date']}. "
        f"Versions: {listed}." + (f" {e['note']}" if "note" in e else "")
    )
