"""Data on a GPU: the loader alone, the step alone, training end to end, and whether the pixels can be trusted.

    python benchmarks/gpu.py --source IMAGES --work WORK --out benchmarks/results/gpu-NAME.json [--sections a,b]
    python benchmarks/gpu.py --source IMAGES --work WORK --out OUT.json --small      (no GPU: the logic, on the CPU)

IMAGES is a folder or an archive that `alexnet-fast pack` takes, of full-size images: some hundred are enough, since
they are written --copies times. Two data sets are made of them in WORK: as they are, and with the shorter side at 256.

Sections, each written to OUT as soon as it is measured:

    pixels    the same batches decoded again and again while the GPU is kept busy, compared by hash; and with the CPU's
              pixels. nvJPEG's hardware engines were reported to write before earlier work on their stream has run
              (meta-pytorch/torchcodec, pull request 1634), so a share above 0 counts only where this finds nothing.
    step      the trainer's step alone on one resident batch, by batch size.
    train     the same step fed by each loader: images/s, its share of the step alone, and how long the GPU waited.
    loader    images/s of the DALI backend by region decoding, share of the engines, entropy decoding, chroma,
              threads, batch, and batches prepared ahead.
    commands  `train` and `bench-loader` with --backend dali, as typed.

A cell that fails or crashes costs its row and no more: each runs in a process of its own (gpu_cells.py). A run that was
stopped, or that came to the end of --budget, goes on where OUT ends when it is begun again with the same settings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpu_tables import line_of, summary

SECTIONS = ("pixels", "step", "train", "loader", "commands")
LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
CELLS = Path(__file__).with_name("gpu_cells.py")


def cells_of(section: str, base: dict[str, Any], data: dict[str, Path], small: bool) -> Iterator[dict[str, Any]]:
    """The cells of a section: settings around one centre, one thing varied at a time; what matters most comes first."""
    loads = LOADS[:1] if small else LOADS
    if section == "pixels":
        for region in (True, False):
            for options in [{"hw_decoder_load": load} for load in ((0.0,) if small else (0.0, 0.5, 1.0))] + [
                {"fancy_upsampling": True}
            ]:
                how = {"region": region, "hw_decoder_load": 0.0, **options}
                yield base | {"data": "full", "options": how, "rounds": 3 if small else 8, "batches": 4}
    elif section == "step":
        for batch in (base["batch_size"],) if small else (1024, 256, 512, 2048, 128):
            yield base | {"data": "full", "batch_size": batch}
        if not small:
            yield base | {"data": "full", "compile": True}
    elif section == "train":
        for name in data:
            yield base | {"data": name}
            for load in loads[1:]:
                yield base | {"data": name, "options": {"region": False, "hw_decoder_load": load}}
            for prefetch in (1,) if small else (1, 4):
                yield base | {"data": name, "prefetch": prefetch}
            yield base | {"data": name, "backend": "torchvision"}
    elif section == "loader":
        cores = base["threads"]
        for name in data:
            for region in (True, False):
                for load in loads:
                    yield base | {"data": name, "options": {"region": region, "hw_decoder_load": load}}
            yield base | {"data": name, "options": {"fancy_upsampling": True}}
            for threshold in () if small else (0, 100_000):
                yield base | {"data": name, "options": {"huffman_threshold": threshold}}
            for threads in sorted({1, max(1, cores // 2)} - {cores}):
                yield base | {"data": name, "threads": threads}
            for batch in () if small else (256, 512, 2048):
                yield base | {"data": name, "batch_size": batch}
            yield base | {"data": name, "prefetch": 1 if small else 4}
            yield base | {"data": name, "backend": "torchvision"}
    else:
        steps = "3" if small else "50"
        yield base | {
            "data": "full",
            "command": "train",
            "words": ["--model", base["model"], "--max-steps", steps, "--epochs", "1000", "--run-dir", "FOLDER"],
        }
        words = ["--num-workers", f"1,{base['threads']}", "--seconds", str(base["seconds"]), "--out", "FOLDER"]
        words += ["--model", "none"] if small else []
        yield base | {"data": "full", "command": "bench-loader", "words": words}


def run_cell(section: str, cell: dict[str, Any]) -> dict[str, Any]:
    """What the cell's process says, or how it ended."""
    limit = 120 + 3 * (cell["turns"] + 1) * cell["seconds"]
    try:
        done = subprocess.run(
            [sys.executable, str(CELLS), section],
            input=json.dumps(cell),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"status": f"hung: no answer in {limit:.0f} s"}
    if done.returncode < 0:
        return {"status": f"crashed with signal {-done.returncode}"}
    if done.returncode:
        return {"status": "failed: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]}
    return {"status": "ok", **json.loads(done.stdout.strip().splitlines()[-1])}


def prepare(source: Path, work: Path, copies: int, limit: int | None) -> dict[str, Path]:
    """The two data sets, made where they are not there; each image `copies` times under its own record."""
    from alexnet_fast import pack
    from alexnet_fast.dataset import (
        ClassInfo,
        DatasetInfo,
        ShardReader,
        ShardWriter,
        SplitInfo,
        shard_name,
        write_dataset_info,
    )

    made = {}
    for name, shorter in (("full", None), ("shorter-256", 256)):
        target = made[name] = work / f"{name}-x{copies}"
        if (target / "dataset.json").exists():
            continue
        once = work / f"{name}-once"
        info = pack(source, once, splits=["train"], resize_shorter=shorter, limit=limit, overwrite=once.exists())
        reader = ShardReader(once, "train")
        target.mkdir(parents=True, exist_ok=True)
        shards = []
        for i in range(copies):
            with ShardWriter(target, shard_name("train", i, copies)) as writer:
                for record in range(len(reader)):
                    row = reader.index[record]
                    writer.add(
                        bytes(reader.read(record)),
                        label=int(row["label"]),
                        width=int(row["width"]),
                        height=int(row["height"]),
                        key=reader.key(record),
                    )
                shards.append(writer.finish())
        split = SplitInfo(
            records=sum(s.records for s in shards),
            bytes=sum(s.bytes for s in shards),
            labelled=True,
            shards=tuple(shards),
        )
        classes = tuple(ClassInfo(index=c.index, wnid=c.wnid, name=c.name) for c in info.classes)
        write_dataset_info(target, DatasetInfo(classes=classes, splits={"train": split}, packing={"copies": copies}))
    return made


def describe_data(dataset: Path) -> dict[str, Any]:
    import numpy as np

    from alexnet_fast import ShardReader

    index = ShardReader(dataset, "train").index
    area = index["width"].astype(np.float64) * index["height"]
    return {
        "records": len(index),
        "mean_bytes": round(float(index["length"].mean())),
        "mean_megapixels": round(float(area.mean()) / 1e6, 3),
    }


def environment(device: str) -> dict[str, Any]:
    """The machine and the versions; `gpu` is None where the figures are a CPU's."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from alexnet_fast.system import cpu_name, usable_cores

    versions = {}
    for name in (
        "torch",
        "nvidia-dali-cuda120",
        "nvidia-dali-cuda130",
        "nvidia-nvimgcodec-cu12",
        "nvidia-nvimgcodec-cu13",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpu = None
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        driver = Path("/sys/module/nvidia/version")
        gpu = {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": driver.read_text().strip() if driver.exists() else "unknown",
        }
    return {"device": device, "gpu": gpu, "cpu": cpu_name(), "cores": usable_cores(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--copies", type=int, default=40, help="records of each image")
    parser.add_argument("--limit", type=int, help="of different images")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further cell is begun")
    parser.add_argument("--small", action="store_true", help="a few small cells, on the CPU where there is no GPU")
    chosen = parser.parse_args()
    wrong = set(chosen.sections.split(",")) - set(SECTIONS)
    if wrong:
        parser.error(f"sections are {', '.join(SECTIONS)}; not {', '.join(sorted(wrong))}")
    measure(chosen, parser)


def measure(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    import torch

    from alexnet_fast.loaders.dali.loader import why_not
    from alexnet_fast.system import usable_cores

    begun = time.monotonic()
    cuda = torch.cuda.is_available()
    if not cuda and not chosen.small:
        parser.error("torch finds no CUDA GPU here: add --small to run a few small cells on the CPU instead")
    device = "cuda:0" if cuda else "cpu"
    if (reason := why_not(device)) is not None:
        parser.error(reason)
    base: dict[str, Any] = {
        "device": device,
        "dtype": "bfloat16",
        "model": chosen.model,
        "batch_size": 32 if chosen.small and not cuda else chosen.batch_size,
        "image_size": 64 if chosen.small and not cuda else 224,
        "threads": usable_cores(),
        "seconds": min(chosen.seconds, 0.5) if chosen.small else chosen.seconds,
        "turns": 2 if chosen.small else chosen.turns,
        "options": {},
    }
    data = prepare(chosen.source, chosen.work, 2 if chosen.small else chosen.copies, chosen.limit)
    result: dict[str, Any] = {
        "kind": ("small " if chosen.small else "") + ("GPU run" if cuda else "CPU run"),
        "note": "" if cuda else "A dry run: small cells on a CPU show that the script runs, and nothing of a GPU.",
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(device),
        "settings": base,
        "data": {name: describe_data(path) for name, path in data.items()},
        "rows": [],
    }
    for name, about in result["data"].items():
        if about["records"] < base["batch_size"]:
            parser.error(f"{about['records']} records of {name} make no batch of {base['batch_size']}: add --copies")
    same = ("kind", "environment", "settings", "data")
    if chosen.out.exists():
        known = json.loads(chosen.out.read_text())
        if all(known.get(key) == result[key] for key in same):
            result["rows"] = [row for row in known["rows"] if row["status"] == "ok"]
    for section in chosen.sections.split(","):
        for cell in cells_of(section, base, data, chosen.small):
            varied = {k: v for k, v in cell.items() if base.get(k) != v}
            if any((row["section"], row["cell"]) == (section, varied) for row in result["rows"]):
                continue
            if time.monotonic() - begun > chosen.budget:
                print("stopped at --budget; the same command goes on from here", flush=True)
                return
            found = run_cell(section, cell | {"dataset": str(data[cell["data"]])})
            row = {"section": section, "cell": varied, **found}
            result["rows"].append(row)
            print(line_of(row), flush=True)
            write(chosen.out, result)
    print("\n" + summary(result))


def write(path: Path, result: dict[str, Any]) -> None:
    """In one step, so that an ended run leaves the rows it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(aside, path)


if __name__ == "__main__":
    main()
