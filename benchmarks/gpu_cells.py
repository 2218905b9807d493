"""What benchmarks/gpu.py measures: each cell one call, in a process of its own.

    python benchmarks/gpu_cells.py NAME < CELL.json      prints the row as JSON

A cell is a dict of plain settings: dataset (a packed one), device, dtype, backend, batch_size, image_size, threads,
prefetch, options of the backend, model, seconds of a turn and turns. Rates are medians of turns, after a warm-up turn.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Seconds of other work that are queued on the GPU before its batches are looked at. While it runs, the resizes of the
# batches under way come late, and a decoder that does not wait for them writes over what they have still to read.
HOLD_BACK = 0.2
CLASSES = 1000


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
    if not len(loader):
        raise SystemExit(f"{loader.num_records} records make no batch of {loader.config.batch_size}")
    while True:
        yield from loader


def turns(cell: dict[str, Any], work: Callable[[], int]) -> dict[str, Any]:
    """Images/s of `work` (one step, returning its images): a warm-up turn, then the median of the others."""
    from alexnet_fast.system import synchronize

    rates = []
    for turn in range(cell["turns"] + 1):
        synchronize(cell["device"])
        begin, images = time.perf_counter(), 0
        while time.perf_counter() - begin < cell["seconds"]:
            images += work()
        synchronize(cell["device"])
        if turn:
            rates.append(images / (time.perf_counter() - begin))
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
    """The step that `train` takes with recipe 'fast', for `CLASSES` classes whatever the data set has."""
    import torch

    from alexnet_fast.training import Step

    return Step.alone(
        cell["model"],
        num_classes=CLASSES,
        image_size=cell["image_size"],
        batch_size=cell["batch_size"],
        device=torch.device(cell["device"]),
        precision="bf16" if cell["dtype"] == "bfloat16" else "fp32",
        compile=cell.get("compile", False),
    )


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


def other_work(device: Any) -> Callable[[], None]:
    """A function that queues `HOLD_BACK` seconds of matrix products, which fill a GPU, on its current stream."""
    import torch

    if device.type != "cuda":
        return lambda: None
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(10):
        torch.mm(a, a, out=out)
    end.record()
    torch.cuda.synchronize()
    count = max(1, round(HOLD_BACK * 1000 / (begin.elapsed_time(end) / 10)))

    def queue() -> None:
        for _ in range(count):
            torch.mm(a, a, out=out)

    return queue


def measure_pixels(cell: dict[str, Any]) -> dict[str, Any]:
    """Hashes of the first batches of one epoch, over and over, with other work queued on the GPU in between."""
    import torch

    hold_back = other_work(torch.device(cell["device"]))
    seen: list[set[str]] = []
    first: list[Any] = []
    with open_backend(cell, dtype="uint8") as loader:
        for _ in range(cell["rounds"]):
            loader.load_state({"epoch": 0, "step": 0})
            for i, batch in enumerate(loader):
                if i == cell["batches"]:
                    break
                hold_back()
                host = batch.images.cpu().permute(0, 2, 3, 1).contiguous()
                digest = hashlib.sha256(host.numpy().tobytes()).hexdigest()
                if i == len(seen):
                    seen.append(set())
                    first.append(host)
                seen[i].add(digest)
        description = loader.description
    if not seen:
        raise SystemExit(f"the data set makes no batch of {cell['batch_size']}")
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
    # Chroma is upsampled in another way on a GPU; an image that is another image differs by tens.
    found["mean_difference_to_cpu"] = difference.mean().item()
    found["largest_of_a_picture"] = difference.max().item()
    found["trusted"] = found["batches_that_changed"] == 0 and found["largest_of_a_picture"] < 12
    return found


def measure_commands(cell: dict[str, Any]) -> dict[str, Any]:
    """`train` or `bench-loader` as typed, and what it wrote of its speed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        typed = [
            cell["command"],
            cell["dataset"],
            *("--backend", cell.get("backend", "dali")),
            *("--image-size", cell["image_size"]),
            *("--batch-size", cell["batch_size"]),
            *("--device", cell["device"].partition(":")[0]),
            *(word.replace("FOLDER", str(folder)) for word in cell["words"]),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "alexnet_fast", *map(str, typed)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        if cell["command"] == "train":
            summary = json.loads((folder / "summary.json").read_text())
            return {"totals": summary["totals"], "last": summary.get("last")}
        result = json.loads((folder / "bench-loader.json").read_text())
        wanted = ("backend", "num_workers", "batch_size", "images_per_s", "spread", "status")
        rows = [{key: row.get(key) for key in wanted} for row in result["rows"]]
        return {"rows": rows, "recommendation": result["recommendation"]}


CELLS = {
    "pixels": measure_pixels,
    "loader": measure_loader,
    "step": measure_step,
    "train": measure_train,
    "commands": measure_commands,
}


if __name__ == "__main__":
    print(json.dumps(CELLS[sys.argv[1]](json.load(sys.stdin))))
