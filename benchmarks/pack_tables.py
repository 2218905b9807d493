"""What a result of benchmarks/pack.py says, as the tables of docs/benchmarks.md."""

from __future__ import annotations

import textwrap
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
        f"{source['jpegs']:,} images, {source['megabytes']:,.0f} MB:",
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
    if "note" in result["environment"]:
        lines += ["", result["environment"]["note"]]
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
    quickest, e = rows[fastest], tiny["environment"]
    imports = f", {quickest['median'] - quickest['working']:.1f} s of it to import its packages"
    text = (
        f"Tiny ImageNet's 110,000 labelled images are packed, each of them decoded, in {ours['median']:.1f} s on "
        f"{e['cores']} cores of an {e['cpu']}. Of the writers of MDS, WebDataset, LitData and FFCV, which decode none, "
        f"the quickest ({title(fastest.partition(',')[0])}) takes {quickest['median']:.1f} s{imports}; `cp -r` and "
        f"sync take {copy['median']:.1f} s ([all figures](docs/benchmarks.md#packing))."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def machine(result: Mapping[str, Any]) -> str:
    """The machine and the versions, in a sentence each."""
    e = result["environment"]
    versions = dict(e["versions"])
    for name, runs in result["runs"].items():
        versions |= {title(name.partition(",")[0]).strip("*"): run["version"] for run in runs if "version" in run}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{e['cores']} cores of an {e['cpu']}, Linux {e['kernel']}, Python {e['python']}; measured {e['date']}. "
        f"Versions: {listed}."
    )
