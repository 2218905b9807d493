"""Everything that a GPU is to be asked, in one command that needs no network: prepare, receive, run.

    python benchmarks/gpu.py prepare --tiny TINY --images IMAGES --out build/gpu-kit      where there is a network
    python benchmarks/gpu.py receive PIECE --kit KIT                                      on the machine with the GPU
    python benchmarks/gpu.py run --kit KIT --out OUT [--budget SECONDS]
    python benchmarks/gpu.py run --dry-run --out OUT                                      no GPU: the same cells, tiny

`prepare` makes pieces of at most 60 MiB: DALI and what else PyTorch's own environment lacks, for Python 3.12 and one
GPU architecture; this package with its compiled code; TINY (Tiny ImageNet in any form that `pack` takes) packed whole;
IMAGES (a folder of class folders, or of files WNID_anything) packed as they are and at a longest side of 375. It prints
the commands to give on the other machine.

`run` works through cells in order of worth (gpu_plan.py): whether everything imports and the doctor agrees; the tests
marked gpu; Tiny ImageNet to 60% top-1; whether DALI's pixels can be trusted; training from JPEGs; the synthetic ceiling
of the networks; peers; host synchronisations; bench-loader; loaders alone. Each cell runs in a process of its own, so
one that crashes costs its row. OUT/gpu.json is written after each cell; begun again, `run` goes on where it stopped,
and a table stands in OUT/gpu.md at the end. A cell whose data, GPU or package is not there is left out, with the
reason, and done when it has come.

A dry run shows that the cells work, on a CPU with DALI's CPU operators. Its figures say nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gpu_cells
import gpu_data
import gpu_kit
import gpu_plan
from gpu_tables import line_of, table

ROOT = Path(__file__).resolve().parent.parent
_STOP_SECONDS = 25  # that a stopped cell has for its checkpoint
_RECKONED = 90  # seconds that must be left for a cell that cannot go on where it was stopped


class Runner:
    """Runs cells, each in a process forked from one that has imported PyTorch: on a cold machine that takes seconds."""

    def __init__(self, out: Path) -> None:
        self._answers = out / "cells"
        self._answers.mkdir(parents=True, exist_ok=True)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "torchvision", "numpy", "alexnet_fast.cli", "gpu_cells"])

    def __call__(self, name: str, kind: str, cell: dict[str, Any], limit: float) -> dict[str, Any]:
        """What the cell's process says, or how it ended."""
        answer = self._answers / f"{name}.json"
        answer.unlink(missing_ok=True)
        process = self._context.Process(target=gpu_cells.perform, args=(kind, cell, str(answer)))
        begin = time.monotonic()
        process.start()
        try:
            process.join(limit)
            hung = process.is_alive()
            if hung:
                os.kill(process.pid, signal.SIGTERM)  # type: ignore[arg-type]
                process.join(_STOP_SECONDS)
        finally:
            if process.is_alive():
                process.kill()
            _end_group(process.pid)
            process.join()
        seconds = round(time.monotonic() - begin, 1)
        if answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text())
        elif hung:
            found = {"status": f"hung: no answer in {limit:.0f} s"}
        elif (process.exitcode or 0) < 0:
            found = {"status": f"crashed with {signal.Signals(-process.exitcode).name}"}  # type: ignore[operator]
        else:
            found = {"status": f"ended with exit code {process.exitcode} and no answer"}
        return {**found, "seconds": seconds}


def _end_group(pid: int | None) -> None:
    """End what the cell has left running; it leads a process group of its own."""
    if pid is not None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


def missing(cell: gpu_plan.Cell, facts: dict[str, Any], data: dict[str, Path]) -> str | None:
    """Why a cell cannot be measured here, None where it can."""
    if cell.cuda and not facts["device"].startswith("cuda"):
        return "it needs a CUDA GPU"
    if cell.dali and facts["dali"] is not None:
        return facts["dali"]
    if cell.module is not None and find_spec(cell.module) is None:
        return f"{cell.module} is not installed"
    if cell.data is not None and cell.data not in data:
        return f"its data set, {cell.data}, is not here"
    return None


def run(chosen: argparse.Namespace) -> int:
    begun = time.monotonic()
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    kit: Path | None = chosen.kit
    _use_packages(kit)
    runner = Runner(out)
    facts = runner("facts", "facts", {}, 300)
    if facts["status"] != "ok":
        raise gpu_kit.KitError(
            f"this machine's facts cannot be had ({facts['status']}): see {out}/cells/facts.json.log", 1
        )
    dry = chosen.dry_run
    if not dry and not facts["device"].startswith("cuda"):
        raise gpu_kit.KitError("PyTorch finds no CUDA GPU here: add --dry-run for the same cells at a tiny scale")
    scale = gpu_plan.dry_scale(facts["cores"]) if dry else gpu_plan.full_scale(facts["cores"])
    data = gpu_data.dry_data(out / "data") if dry else gpu_data.kit_data(kit, scale.copies)
    result = _go_on(out, facts, scale, dry, kit)
    left_out = result["left_out"] = {}
    shared = {
        "device": facts["device"] if not dry else "cpu", "cores": facts["cores"], "batch_size": scale.batch_size,
        "image_size": scale.image_size, "width": scale.width, "seconds": scale.seconds, "turns": scale.turns,
        "scratch": str((out / "runs").resolve()),
    }  # fmt: skip
    (out / "runs").mkdir(exist_ok=True)
    for cell in gpu_plan.cells(scale):
        if chosen.only and not any(cell.name.startswith(prefix) for prefix in chosen.only.split(",")):
            continue
        done = next((row for row in result["rows"] if row["cell"] == cell.name), None)
        if done is not None and (done["status"] == "ok" or not chosen.retry):
            continue
        reason = missing(cell, facts, data)
        if reason is not None:
            left_out[cell.name] = reason
            continue
        left = chosen.budget - (time.monotonic() - begun) - _STOP_SECONDS
        if left < (20 if cell.resumes else min(cell.limit, _RECKONED)):
            print(f"stopped at --budget before {cell.name}; the same command goes on from here", flush=True)
            _write(out, result)
            return 0
        settings = {**shared, "name": cell.name, **cell.settings}
        if cell.data is not None:
            settings["dataset"] = str(data[cell.data])
        if cell.name == "imports":
            settings["datasets"] = {name: str(path) for name, path in data.items()}
        row = runner(cell.name, cell.section, settings, min(cell.limit, left))
        if (row["status"].startswith("stopped") or row["status"].startswith("hung")) and left < cell.limit:
            print(f"{cell.name} was stopped at --budget; the same command goes on from here", flush=True)
            _write(out, result)
            return 0
        result["rows"] = [known for known in result["rows"] if known["cell"] != cell.name]
        result["rows"].append({"section": cell.section, "cell": cell.name, "settings": cell.settings, **row})
        print(line_of(result["rows"][-1]), flush=True)
        _write(out, result)
    _write(out, result)
    (out / "gpu.md").write_text(table(result) + "\n")
    print("\n" + table(result))
    return 0


def _use_packages(kit: Path | None) -> None:
    """Put the kit's packages, or else this tree, before all others, here and in every process started from here."""
    site = (kit / "site").resolve() if kit is not None and (kit / "site").is_dir() else ROOT
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), str(Path(__file__).resolve().parent), *before])
    # Processes that are started with -c would else look into the working folder first, and find this tree's package.
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.path.insert(1, str(site))


def _go_on(out: Path, facts: dict[str, Any], scale: gpu_plan.Scale, dry: bool, kit: Path | None) -> dict[str, Any]:
    """The result so far, or a new one."""
    environment = {key: value for key, value in facts.items() if key not in ("status", "seconds")}
    result: dict[str, Any] = {
        "format": 2,
        "kind": "dry run" if dry else "GPU run",
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment,
        "scale": asdict(scale),
        "sources_as_packed": _same_sources(kit),
        "rows": [],
    }
    path = out / "gpu.json"
    if path.exists():
        known = json.loads(path.read_text())
        machine = ("gpu", "cpu", "device")
        if known.get("kind") != result["kind"] or any(
            known["environment"].get(key) != environment.get(key) for key in machine
        ):
            raise gpu_kit.KitError(f"{path} holds results of another machine or kind of run: give another --out")
        result["rows"], result["begun"] = known["rows"], known["begun"]
    return result


def _same_sources(kit: Path | None) -> bool | None:
    """Whether the kit's package was built from the sources of this tree; None without a kit."""
    if kit is None or not (kit / gpu_kit.MANIFEST).exists():
        return None
    same = gpu_kit.read_manifest(kit)["sources"] == gpu_kit.source_digest(ROOT / "alexnet_fast")
    if not same:
        print("note: the kit's package is of other sources than this tree: what runs is the kit's", flush=True)
    return bool(same)


def _write(out: Path, result: dict[str, Any]) -> None:
    """In one step, so that an ended run leaves the rows it has."""
    aside = out / ".gpu.json.tmp"
    aside.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(aside, out / "gpu.json")


def prepare(chosen: argparse.Namespace) -> int:
    if not 1 <= chosen.piece_mib <= 60:
        raise gpu_kit.KitError(f"--piece-mib is from 1 to 60, got {chosen.piece_mib}")
    for path in (chosen.tiny, chosen.images):
        if path is not None and not path.exists():
            raise gpu_kit.KitError(f"{path} is not there")
    sys.path.insert(1, str(ROOT))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    kit = gpu_kit.prepare(
        chosen.out, tiny=chosen.tiny, images=chosen.images, most=chosen.piece_mib << 20, dali=not chosen.without_dali,
        capability=chosen.capability,
    )  # fmt: skip
    total = sum(piece["bytes"] for piece in kit["pieces"])
    print(f"{len(kit['pieces'])} pieces, {total / 2**20:.0f} MiB, in {chosen.out}")
    print(
        f"\nCarry {gpu_kit.MANIFEST} and one piece after another into a checkout of this tree on the machine with the "
        "GPU, to the same places. Give there, in this order:\n"
    )
    for line in gpu_kit.commands(kit, chosen.out):
        print(f"  {line}")
    print("\nGive the last one again until it ends with a table. Bring back gpu-out/gpu.json and gpu-out/gpu.md.")
    return 0


def receive(chosen: argparse.Namespace) -> int:
    whole: list[str] = []
    for piece in chosen.pieces:
        whole = gpu_kit.receive(piece, chosen.kit)
        print(f"{piece.name}: sound; complete so far: {', '.join(whole) or 'nothing'}", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("prepare", help="make the pieces that travel; needs a network")
    making.add_argument("--tiny", type=Path, help="Tiny ImageNet, in any form that `pack` takes")
    making.add_argument("--images", type=Path, help="full-size images")
    making.add_argument("--out", type=Path, default=Path("build/gpu-kit"))
    making.add_argument("--piece-mib", type=int, default=58, help="the most of one piece, up to 60")
    making.add_argument("--capability", type=int, default=90, help="of the GPU, times ten: 90 for H100 and H200")
    making.add_argument("--without-dali", action="store_true")
    making.set_defaults(do=prepare)
    getting = actions.add_parser("receive", help="check and unpack pieces that have arrived")
    getting.add_argument("pieces", type=Path, nargs="+")
    getting.add_argument("--kit", type=Path, required=True, help="folder to put together")
    getting.set_defaults(do=receive)
    running = actions.add_parser("run", help="measure, in order of worth")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--kit", type=Path, help="what `receive` has put together")
    running.add_argument("--budget", type=float, default=1e9, help="seconds after which it ends, to be begun again")
    running.add_argument("--dry-run", action="store_true", help="the same cells at a tiny scale, on the CPU")
    running.add_argument("--only", help="names of cells, or how they begin, with commas")
    running.add_argument("--retry", action="store_true", help="also cells that have failed before")
    running.set_defaults(do=run)
    chosen = parser.parse_args()
    try:
        return int(chosen.do(chosen))
    except gpu_kit.KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(main())
