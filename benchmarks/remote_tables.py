"""What the results of benchmarks/remote.py and benchmarks/orders.py say, as tables of docs/."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Markdown = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
OURS, LOCAL = "alexnet-fast", "alexnet-fast, local"
TITLES = {
    OURS: "**alexnet-fast**",
    LOCAL: "alexnet-fast, data set in a folder",
    "litdata": "LitData",
    "mds": "MosaicML Streaming",
    "webdataset": "WebDataset",
}
CASES = {"full": "ImageNet, full size", "tiny": "Tiny ImageNet at 64"}
FIGURES = ("first_s", "first_cpu_s", "first_batch_s", "second_s", "second_cpu_s")
ORDERS = {"full": "full shuffle", "window of 8": "window order", "window of 1": "windows of one shard"}


def good(row: Mapping[str, Any]) -> bool:
    return "error" not in row and not row["problems"]


def medians(rows: Sequence[Mapping[str, Any]], case: str, limited: bool) -> dict[str, dict[str, float]]:
    """By peer, of its runs that came through."""
    found = {}
    for peer in TITLES:
        runs = [r for r in rows if (r["case"], bool(r["limit_mb_s"]), r["peer"]) == (case, limited, peer) and good(r)]
        if runs:
            found[peer] = {name: statistics.median(run[name] for run in runs) for name in FIGURES}
    return found


def free_table(result: Mapping[str, Any], case: str, markdown: Markdown) -> str:
    """Of a server without a limit."""
    found = medians(result["rows"], case, False)
    rows = [
        [title, *(f"{found[peer][name]:.2f}" for name in ("first_s", "first_cpu_s", "second_s", "second_cpu_s"))]
        for peer, title in TITLES.items() if peer in found
    ]  # fmt: skip
    peers = [row for peer, row in found.items() if peer not in (OURS, LOCAL)]
    columns = ("first_s", "first_cpu_s", "second_s", "second_cpu_s")
    least = [f"{min(row[name] for row in peers) / found[OURS][name]:.2f}x" for name in columns]
    header = [
        f"{CASES[case]}: {result['data'][case]['records']:,} images", "first epoch s", "its CPU s", "second epoch s",
        "its CPU s",
    ]  # fmt: skip
    return markdown(header, [*rows, ["the least of the others to alexnet-fast", *least]])


def limited_table(result: Mapping[str, Any], case: str, markdown: Markdown) -> str:
    """Of a server with a limit: what the network alone would take for each peer's files, and what it took."""
    found = medians(result["rows"], case, True)
    limit = next(row["limit_mb_s"] for row in result["rows"] if row["case"] == case and row["limit_mb_s"])
    rows = []
    for peer, title in TITLES.items():
        if peer in found:
            size = result["data"][case]["bytes"][peer] / 1e6
            cells = (size, size / limit, found[peer]["first_s"], found[peer]["first_batch_s"])
            rows.append([title, f"{size:,.0f}", *(f"{cell:.1f}" for cell in cells[1:])])
    header = [f"{CASES[case]}, at {limit} MB/s", "MB", "network alone s", "first epoch s", "of it to the first batch s"]
    return markdown(header, rows)


def machine(result: Mapping[str, Any]) -> str:
    e, rows = result["environment"], result["rows"]
    loads = [row["load_before"] for row in rows if good(row)]
    versions: dict[str, str] = {}
    for found in result["versions"].values():
        versions |= found
    runs = Counter((row["case"], row["limit_mb_s"], row["peer"]) for row in rows if good(row))
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if name != "numpy")
    bad = [f"{TITLES[row['peer']]} ({row.get('error') or '; '.join(row['problems'])})" for row in rows if not good(row)]
    least, most = min(runs.values()), max(runs.values())
    return (
        f"{e['cores']} cores of an {e['cpu']}, {e['memory_gib']:.0f} GiB, {e['system']}. The server ran on them too"
        f"{', and so did other programs' if max(loads) > 4 else ''}: a load of {min(loads):.0f} to {max(loads):.0f} "
        f"before a run. Medians of {least if least == most else f'{least} to {most}'} runs of each loader and case. "
        f"Versions: {listed}." + (f" No figures came of: {'; '.join(bad)}." if bad else "")
    )


def remote_tables(free: Mapping[str, Any], limited: Mapping[str, Any], markdown: Markdown) -> dict[str, str]:
    """Of a server without a limit, and of one with: two results, since they were measured on two machines."""
    return {
        "remote": "\n\n".join(free_table(free, case, markdown) for case in CASES),
        "remote-machine": machine(free),
        "remote-limited": "\n\n".join(limited_table(limited, case, markdown) for case in CASES),
        "remote-limited-machine": machine(limited),
    }


def orders_tables(result: Mapping[str, Any], markdown: Markdown) -> dict[str, str]:
    """The label histograms of batches, and the accuracy of training runs with each order."""
    rows = []
    for batches in result["batches"]:
        about = f"{batches['classes']} classes, {batches['records']:,} records in {batches['shards']} shards"
        rows.append([about, *(f"{batches['distance'][name]['mean']:.3f}" for name in ORDERS)])
    runs: dict[str, list[float]] = {}
    for row in result["rows"]:
        runs.setdefault(row["lever"], []).append(row["val_top1"])
    accuracy = "top-1 after {} epochs, {} seeds".format(result["rows"][0]["epochs"], len(runs["base"]))
    cells = [
        f"{statistics.mean(found):.1%} ({', '.join(f'{100 * value:.1f}' for value in found)})"
        for found in (runs["base"], runs["window order"])
    ]
    return {"orders": markdown(["", *ORDERS.values()], [*rows, [accuracy, *cells, "–"]])}
