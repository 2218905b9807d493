"""`alexnet-fast pack` beside `cp -r` of the same folder and beside the writers of MDS, WebDataset, LitData and FFCV.

    python benchmarks/pack.py SOURCE --envs ENVS --work WORK --out benchmarks/results/pack-NAME.json [--rounds 3]

SOURCE is a folder of JPEGs (Tiny ImageNet's, or one of class folders). Each contestant runs as a command of its own and
is followed by sync, in turns A B C A B C; its time ends when sync does. Before each, SOURCE is read once, so that all
start with it in the page cache, and the disk is synced. The peers read the same files in a shuffled order and store
their bytes as they are, with 1 and with 2 processes, and check nothing; pack decodes every image once. What a program
takes to start and to import its packages is told apart. Each peer has an interpreter, ENVS/NAME/bin/python
(`benchmarks/loaders.py setup` makes them).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = ("mds", "webdataset", "litdata", "ffcv")


def contestants(source: Path, envs: Path, work: Path) -> dict[str, list[str]]:
    """Command lines by name; each writes to WORK/out."""
    out = str(work / "out")
    commands = {
        "cp -r": ["cp", "-r", str(source), out],
        "alexnet-fast": [sys.executable, str(HERE / "writers" / "pack_writer.py"), str(source), out],
    }
    for name in PEERS:
        python = envs / name / "bin" / "python"
        if python.exists():
            for workers in (1, 2):
                script = str(HERE / "writers" / f"{name}_writer.py")
                commands[f"{name}, {workers} process{'es' if workers > 1 else ''}"] = [
                    str(python), script, str(source), out, str(workers),
                ]  # fmt: skip
    return commands


def run(command: list[str], source: Path, work: Path, limit: float) -> dict[str, Any]:
    """One run: wall seconds up to the end of sync, CPU seconds, bytes on disk."""
    shutil.rmtree(work / "out", ignore_errors=True)
    for folder, _, files in os.walk(source):
        for file in files:
            Path(folder, file).read_bytes()
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE / "writers")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit)
    command_ended = time.perf_counter()
    os.sync()
    ended = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    written = sum(p.stat().st_blocks * 512 for p in (work / "out").rglob("*"))
    result: dict[str, Any] = {
        "seconds": ended - began,
        "sync_seconds": ended - command_ended,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "megabytes_on_disk": written / 1e6,
    }
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if last.startswith("{"):
        result |= json.loads(last)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--envs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names to run; the others' results are kept")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a run may take")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    report = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": {}}
    report["environment"] = environment(arguments.source)
    commands = contestants(arguments.source, arguments.envs, arguments.work)
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            if arguments.only and name not in arguments.only:
                continue
            try:
                result = run(command, arguments.source, arguments.work, arguments.limit)
            except subprocess.TimeoutExpired:
                result = {"failed": f"not done after {arguments.limit} s"}
            report["runs"].setdefault(name, []).append(result)
            print(name, {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}, flush=True)
            report["summary"] = summary(report["runs"])
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(arguments.work / "out", ignore_errors=True)


def environment(source: Path) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    files = [p for p in source.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg")]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": {name: version(name) for name in ("numpy", "lmdb", "simplejpeg")},
        "source": {"name": source.name, "jpegs": len(files), "megabytes": sum(p.stat().st_size for p in files) / 1e6},
    }


def working(name: str, runs: list[dict[str, Any]]) -> float | None:
    """Median seconds from the end of the imports to the end of sync; None where imports were not told apart."""
    if name == "cp -r":  # imports nothing
        return statistics.median(run["seconds"] for run in runs)
    if not all("seconds_after_imports" in run for run in runs):
        return None
    return statistics.median(run["seconds_after_imports"] + run["sync_seconds"] for run in runs)


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of each: runs, median, least and most seconds, and what they went into; and how pack compares with the others."""
    rows = {}
    for name, results in runs.items():
        good = [r for r in results if "seconds" in r]
        if good:
            seconds = [r["seconds"] for r in good]
            rows[name] = {
                "runs": len(good), "median": statistics.median(seconds), "least": min(seconds), "most": max(seconds),
                "working": working(name, good),
                "cpu": statistics.median(r["cpu_seconds"] for r in good),
                "megabytes": statistics.median(r["megabytes_on_disk"] for r in good),
            }  # fmt: skip
    compared: dict[str, Any] = {}
    peers = [row for name, row in rows.items() if name not in ("alexnet-fast", "cp -r")]
    if ours := rows.get("alexnet-fast"):
        for column in ("median", "working"):
            if ours[column] is None:
                continue
            compared[column] = {
                "cp_over_ours": rows["cp -r"][column] / ours[column] if "cp -r" in rows else None,
                "fastest_peer_over_ours": min(row[column] for row in peers) / ours[column] if peers else None,
            }
    return {"seconds": rows, "compared": compared}


if __name__ == "__main__":
    main()
