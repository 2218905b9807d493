"""Data on a GPU: the loader alone, the step alone, training end to end, and whether the pixels can be trusted.

    python benchmarks/gpu.py --source PICTURES --work WORK --out benchmarks/results/gpu-NAME.json [--sections a,b]
    python benchmarks/gpu.py --source PICTURES --work WORK --out OUT.json --small      (no GPU: the logic, on the CPU)

PICTURES is a folder or an archive that `alexnet-fast pack` takes, of full-size pictures: some hundred are enough, since
they are written --copies times. Two data sets are made of them in WORK: as they are, and with the shorter side at 256.

Sections, each written to OUT as soon as it is measured:

    pixels   the same batches decoded again and again while the GPU is kept busy, compared by hash; and with the CPU's
             pixels. nvJPEG's hardware engines were reported to write before earlier work on their stream has run
             (meta-pytorch/torchcodec, pull request 1634), so a share above 0 counts only where this finds nothing.
    loader   pictures/s of the DALI backend by region decoding, share of the engines, entropy decoding, threads, batch.
    step     the training step alone on one resident batch, by batch size.
    train    the loop with each loader: pictures/s, its share of the step alone, and the time the GPU stood waiting.

A cell that fails or crashes costs its row and no more: each runs in a process of its own. Rates are medians of turns,
after a warm-up turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

TARGET = 30_000  # pictures/s end to end on one H200 and 16 cores
TARGET_SHARE = 0.9  # of the step alone
SECTIONS = ("pixels", "loader", "step", "train")
HOLD_BACK = 0.2  # seconds of other work queued before a decode, in which a write that comes too early would show

# ---------------------------------------------------------------------------------------------------------------------
# Cells: each is one call in a process of its own, named by its function, with plain settings


def open_backend(cell: dict[str, Any], *, train: bool = True, dtype: str | None = None) -> Any:
    """The loader of a cell."""
    from alexnet_fast import LoaderConfig, open_loader

    return open_loader(
        LoaderConfig(
            dataset=cell["dataset"],
            split="train",
            train=train,
            backend=cell.get("backend", "dali"),
            batch_size=cell["batch_size"],
            image_size=cell["image_size"],
            num_workers=cell["threads"],
            device=cell["device"],
            dtype=dtype or cell["dtype"],
            prefetch=cell.get("prefetch", 2),
            options=cell.get("options", {}),
        )
    )


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def synchronise(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def turns(cell: dict[str, Any], work: Callable[[], int]) -> dict[str, Any]:
    """Pictures/s of `work` (one step, returning its pictures): a warm-up turn, then the median of the others."""
    rates = []
    for turn in range(cell["turns"] + 1):
        synchronise(cell["device"])
        begin, pictures = time.perf_counter(), 0
        while time.perf_counter() - begin < cell["seconds"]:
            pictures += work()
        synchronise(cell["device"])
        if turn:
            rates.append(pictures / (time.perf_counter() - begin))
    return {"pictures_per_s": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}


def measure_loader(cell: dict[str, Any]) -> dict[str, Any]:
    """Batches taken and thrown away."""
    begin = time.perf_counter()
    with open_backend(cell) as loader:
        batches = endless(loader)
        next(batches)
        first = time.perf_counter() - begin
        cpu, clock = time.process_time(), time.perf_counter()
        found = turns(cell, lambda: len(next(batches).labels))
        cores = (time.process_time() - cpu) / (time.perf_counter() - clock)
        return {**found, "first_batch_s": first, "cores_busy": cores, "description": loader.description, **memory()}


def memory() -> dict[str, Any]:
    import resource

    import torch

    found: dict[str, Any] = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found["gpu_used_mib"] = (total - free) >> 20
    return found


def make_step(cell: dict[str, Any]) -> Callable[[Any, Any], Any]:
    """One optimiser step of the network, as training takes it: bf16 where the device has it, fused SGD."""
    import torch
    from torch.nn.functional import cross_entropy

    from alexnet_fast import create_model
    from alexnet_fast.precision import choose_precision

    device = torch.device(cell["device"])
    precision = choose_precision("bf16" if cell["dtype"] == "bfloat16" else "fp32", device)
    torch.backends.cudnn.benchmark = True
    model = create_model(cell["model"], 1000, cell["image_size"]).to(device).to(memory_format=torch.channels_last)
    run = torch.compile(model) if cell.get("compile") else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=True)

    def step(images: Any, labels: Any) -> Any:
        with precision.autocast():
            logits = run(images)
        loss = cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def measure_step(cell: dict[str, Any]) -> dict[str, Any]:
    """The step on one batch of noise that lies on the device."""
    step = make_step(cell)
    with open_backend({**cell, "backend": "synthetic"}) as loader:
        images, labels = next(iter(loader))

        def work() -> int:
            step(images, labels)
            return len(labels)

        return {**turns(cell, work), **memory()}


def measure_train(cell: dict[str, Any]) -> dict[str, Any]:
    """The loop: a batch, a step, no look at the loss. `gpu_waits` is the share of time its stream had nothing to do."""
    import torch

    step = make_step(cell)
    cuda = cell["device"].startswith("cuda")
    with open_backend(cell) as loader:
        batches = endless(loader)
        spans: list[tuple[Any, Any]] = []

        def work() -> int:
            images, labels = next(batches)
            if cuda:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
            step(images, labels)
            if cuda:
                end.record()
                spans.append((begin, end))
            return len(labels)

        found = turns(cell, work)
        if spans:
            # From the end of a step to the begin of the next the stream stood still; warm-up and turns' seams left out.
            torch.cuda.synchronize()
            gaps, used = 0.0, 0.0
            for (_, before), (begin, end) in zip(spans[len(spans) // 4 :], spans[len(spans) // 4 + 1 :], strict=False):
                gap = before.elapsed_time(begin)
                if gap < 1000 * cell["seconds"] / 2:
                    gaps, used = gaps + gap, used + gap + begin.elapsed_time(end)
            found["gpu_waits"] = gaps / used if used else None
        else:
            found["gpu_waits"] = None
        return {**found, "description": loader.description, **memory()}


def measure_pixels(cell: dict[str, Any]) -> dict[str, Any]:
    """Hashes of the first batches of one epoch, over and over, with other work queued on the GPU in between."""
    import torch

    device = torch.device(cell["device"])
    cuda = device.type == "cuda"
    busy = torch.randn(4096, 4096, device=device) if cuda else None
    seen: list[set[str]] = []
    first: list[Any] = []
    with open_backend(cell, dtype="uint8") as loader:
        for _ in range(cell["rounds"]):
            loader.load_state({"epoch": 0, "step": 0})
            for i, batch in enumerate(loader):
                if i == cell["batches"]:
                    break
                if busy is not None:
                    torch.cuda._sleep(int(HOLD_BACK * 1e8))
                    busy = (busy @ busy).clamp_(-1, 1)
                host = batch.images.cpu().permute(0, 2, 3, 1).contiguous()
                digest = hashlib.sha256(host.numpy().tobytes()).hexdigest()
                if i == len(seen):
                    seen.append(set())
                    first.append(host)
                seen[i].add(digest)
        description = loader.description
    found: dict[str, Any] = {
        "rounds": cell["rounds"],
        "batches": len(seen),
        "batches_that_changed": sum(len(hashes) > 1 for hashes in seen),
        "description": description,
    }
    with open_backend({**cell, "backend": "torchvision", "device": "cpu", "options": {}}, dtype="uint8") as reference:
        apart = []
        for ours, theirs in zip(first, reference, strict=False):
            other = theirs.images.permute(0, 2, 3, 1)
            apart.append((ours.short() - other.short()).abs().float().mean(dim=(1, 2, 3)))
        difference = torch.cat(apart)
    # Chroma is upsampled in another way on a GPU; a picture that is another picture differs by tens.
    found["mean_difference_to_cpu"] = difference.mean().item()
    found["largest_of_a_picture"] = difference.max().item()
    found["trusted"] = found["batches_that_changed"] == 0 and found["largest_of_a_picture"] < 12
    return found


CELLS = {
    "pixels": measure_pixels,
    "loader": measure_loader,
    "step": measure_step,
    "train": measure_train,
}


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def cells_of(section: str, base: dict[str, Any], data: dict[str, Path], small: bool) -> Iterator[dict[str, Any]]:
    """The cells of a section: settings around one centre, one thing varied at a time."""
    cores = base["threads"]
    loads = (0.0,) if small else (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
    regions = (True, False)
    if section == "pixels":
        for region in regions:
            for load in loads[:: max(1, len(loads) - 3)]:
                options = {"region": region, "hw_decoder_load": load}
                yield base | {"data": "full", "options": options, "rounds": 3 if small else 8, "batches": 4}
    elif section == "loader":
        for name in data:
            for region in regions:
                for load in loads:
                    yield base | {"data": name, "options": {"region": region, "hw_decoder_load": load}}
            for threshold in () if small else (0, 100_000):
                yield base | {"data": name, "options": {"huffman_threshold": threshold}}
            for threads in sorted({1, max(1, cores // 2)} - {cores}):
                yield base | {"data": name, "threads": threads}
            for batch in () if small else (256, 512, 2048):
                yield base | {"data": name, "batch_size": batch}
            yield base | {"data": name, "backend": "torchvision"}
    elif section == "step":
        for batch in (base["batch_size"],) if small else (128, 256, 512, 1024, 2048):
            yield base | {"data": "full", "batch_size": batch}
        if not small:
            yield base | {"data": "full", "compile": True}
    else:
        for name in data:
            yield base | {"data": name}
            for load in loads[1:]:
                yield base | {"data": name, "options": {"region": False, "hw_decoder_load": load}}
            yield base | {"data": name, "backend": "torchvision"}


def run_cell(section: str, cell: dict[str, Any]) -> dict[str, Any]:
    """What the cell's process says, or how it ended."""
    command = [sys.executable, str(Path(__file__).resolve()), "--cell", section]
    limit = 120 + 3 * (cell["turns"] + 1) * cell["seconds"]
    try:
        done = subprocess.run(
            command, input=json.dumps(cell), capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"status": f"hung: no answer in {limit:.0f} s"}
    if done.returncode < 0:
        return {"status": f"crashed with signal {-done.returncode}"}
    if done.returncode:
        return {"status": "failed: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]}
    return {"status": "ok", **json.loads(done.stdout.strip().splitlines()[-1])}


def prepare(source: Path, work: Path, copies: int, limit: int | None) -> dict[str, Path]:
    """The two data sets, made where they are not there; each picture `copies` times under its own record."""
    from alexnet_fast import pack
    from alexnet_fast.shards import (
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

    from alexnet_fast.device import usable_cores

    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
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
    return {"device": device, "gpu": gpu, "cpu": cpu, "cores": usable_cores(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--copies", type=int, default=40, help="records of each picture")
    parser.add_argument("--limit", type=int, help="of different pictures")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further cell is begun")
    parser.add_argument("--small", action="store_true", help="a few small cells, on the CPU where there is no GPU")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.cell:
        print(json.dumps(CELLS[chosen.cell](json.load(sys.stdin))))
        return
    if not (chosen.source and chosen.work and chosen.out):
        parser.error("--source, --work and --out are needed")
    wrong = set(chosen.sections.split(",")) - set(SECTIONS)
    if wrong:
        parser.error(f"sections are {', '.join(SECTIONS)}; not {', '.join(sorted(wrong))}")
    measure(chosen, parser)


def measure(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    import torch

    from alexnet_fast.device import usable_cores

    begun = time.monotonic()
    cuda = torch.cuda.is_available()
    if not cuda and not chosen.small:
        parser.error("torch finds no CUDA GPU here: add --small to run a few small cells on the CPU instead")
    device = "cuda:0" if cuda else "cpu"
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
        "environment": environment(device),
        "note": "" if cuda else "no GPU: small cells on the CPU, which show that the script runs and nothing of a GPU",
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": base,
        "data": {name: describe_data(path) for name, path in data.items()},
        "rows": [],
    }
    for section in chosen.sections.split(","):
        for cell in cells_of(section, base, data, chosen.small):
            if time.monotonic() - begun > chosen.budget:
                result["note"] = (result["note"] + " stopped at its budget of time").strip()
                break
            varied = {k: v for k, v in cell.items() if base.get(k) != v}
            row = {"section": section, **varied, **run_cell(section, cell | {"dataset": str(data[cell["data"]])})}
            result["rows"].append(row)
            print(line_of(row), flush=True)
            write(chosen.out, result)
    print("\n" + table(result))


def write(path: Path, result: dict[str, Any]) -> None:
    """In one step, so that an ended run leaves the rows it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(aside, path)


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def line_of(row: dict[str, Any]) -> str:
    skip = {"section", "status", "description", "pictures_per_s", "lowest", "highest", "rounds", "batches", "data"}
    measured = {"first_batch_s", "cores_busy", "peak_rss_mib", "gpu_used_mib", "gpu_waits"}
    pixels = {"batches_that_changed", "mean_difference_to_cpu", "largest_of_a_picture", "trusted"}
    settings = {k: v for k, v in row.items() if k not in skip | measured | pixels}
    how = ", ".join(
        f"{k} {v}"
        for key, value in settings.items()
        for k, v in (value.items() if key == "options" else [(key, value)])
    )
    label = f"{row['section']:7} {row.get('data', ''):12} {how or 'default':44}"
    if row["status"] != "ok":
        return f"{label} {row['status']}"
    if row["section"] == "pixels":
        return (
            f"{label} {row['batches_that_changed']} of {row['batches']} batches changed, "
            f"{row['mean_difference_to_cpu']:.2f} levels off the CPU's (worst {row['largest_of_a_picture']:.1f})"
        )
    waits = f", GPU waits {row['gpu_waits']:.1%}" if row.get("gpu_waits") is not None else ""
    return f"{label} {row['pictures_per_s']:>10,.0f}/s ({row['lowest']:,.0f} to {row['highest']:,.0f}){waits}"


def table(result: dict[str, Any]) -> str:
    """The rates in Markdown, and how they stand to the targets."""
    e = result["environment"]
    where = e["gpu"]["name"] if e["gpu"] else "CPU only"
    lines = [f"{where}, {e['cores']} cores ({e['cpu']}). {result['note']}".strip(), ""]
    lines += ["| section | data | setting | pictures/s | lowest to highest |", "|---|---|---|---:|---|"]
    for row in result["rows"]:
        if row["section"] == "pixels" or row["status"] != "ok":
            continue
        words = line_of(row).split(f"{row['pictures_per_s']:,.0f}/s")[0].split(None, 2)
        setting = words[2].strip() if len(words) > 2 else "default"
        spread = f"{row['lowest']:,.0f} to {row['highest']:,.0f}"
        lines.append(
            f"| {row['section']} | {row.get('data', '')} | {setting} | {row['pictures_per_s']:,.0f} | {spread} |"
        )
    best = {
        section: max(
            (r["pictures_per_s"] for r in result["rows"] if r["section"] == section and r["status"] == "ok"), default=0
        )
        for section in ("step", "train")
    }
    if best["step"] and best["train"]:
        share = best["train"] / best["step"]
        lines += ["", f"End to end {best['train']:,.0f} pictures/s, {share:.0%} of the step alone."]
        if e["gpu"]:
            lines.append(f"Targets on one H200 with 16 cores: {TARGET:,} pictures/s and {TARGET_SHARE:.0%}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
