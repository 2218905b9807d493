"""Write a data set of very many tiny images and measure what each part of it costs.

python tools/scale_check.py --records 1000000 --shards 8 --json benchmarks/results/scale.json
python tools/scale_check.py --workers 64 --json benchmarks/results/many-workers.json
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_fast.dataset import (
    ClassInfo,
    DatasetInfo,
    ShardReader,
    ShardWriter,
    SplitInfo,
    shard_name,
    write_dataset_info,
)
from alexnet_fast.loaders import epoch_order
from alexnet_fast.system import cpu_name


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--workers", type=int, help="pack, verify and load with so many, and nothing else")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine: dict[str, Any] = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "lmdb": lmdb.__version__,
        "cpu": cpu_name(),
    }
    if options.workers:
        with tempfile.TemporaryDirectory() as folder:
            _show(machine | _many_workers(Path(folder), options.workers), options.json)
        return
    result = {"records": options.records, "shards": options.shards} | machine
    with tempfile.TemporaryDirectory() as folder:
        result["base_mb"] = _megabytes()
        result |= _write(Path(folder), options.records, options.shards)
        result |= _read(Path(folder), options.records)
    result["order_of_more_s"] = {}
    for records in (14_197_122, 100_000_000):  # ImageNet-21k, and beyond
        begin = time.perf_counter()
        epoch_order(records, seed=0, epoch=0)
        result["order_of_more_s"][str(records)] = round(time.perf_counter() - begin, 3)
    result["peak_mb_at_the_end"] = _megabytes()
    _show(result, options.json)


def _show(result: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(result, indent=2)
    if path:
        path.write_text(text + "\n")
    print(text)


def _many_workers(folder: Path, workers: int) -> dict[str, Any]:
    """Seconds of each command with far more workers than cores, on four images for each worker."""
    from alexnet_fast.dataset import verify
    from alexnet_fast.packing import pack

    random = np.random.default_rng(0)
    for label in range(4):
        place = folder / "source" / "train" / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(workers):
            pixels = random.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.JPEG", "JPEG")
    found: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)), "workers": workers, "images": 4 * workers, "seconds": {},
    }  # fmt: skip

    def timed(what: str, action: Callable[[], object]) -> None:
        begin = time.perf_counter()
        action()
        found["seconds"][what] = round(time.perf_counter() - begin, 1)

    # Two shards for each worker: then every worker writes shards of its own.
    size = sum(path.stat().st_size for path in folder.rglob("*.JPEG")) // (2 * workers + 1)
    data = folder / "data"
    timed("pack", lambda: pack(folder / "source", data, workers=workers, shard_bytes=size))
    timed("verify", lambda: verify(data, decode=True, workers=workers))
    for kind in ("thread", "process"):
        timed(f"two epochs, {kind} workers", functools.partial(_load, data, workers, kind))
    return found


def _load(data: Path, workers: int, kind: str) -> None:
    from alexnet_fast import LoaderConfig, open_loader  # torch would be in the other figures of memory

    config = LoaderConfig(
        dataset=data, split="train", batch_size=16, image_size=48, num_workers=workers, backend="torchvision",
        device="cpu", options={"workers": kind},
    )  # fmt: skip
    with contextlib.closing(open_loader(config)) as loader:
        for _ in range(2):
            assert sum(len(labels) for _, labels in loader) == 4 * workers


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _write(folder: Path, records: int, shards: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 128).save(buffer, "JPEG", quality=50)
    image = buffer.getvalue()
    cuts = np.linspace(0, records, shards + 1).astype(int)
    begin = time.perf_counter()
    written = []
    for number in range(shards):
        with ShardWriter(folder, shard_name("train", number, shards)) as writer:
            for record in range(cuts[number], cuts[number + 1]):
                writer.add(image, label=record % 1000, width=8, height=8, key=f"n{record % 1000:08d}/{record}.JPEG")
            written.append(writer.finish())
    seconds = time.perf_counter() - begin
    split = SplitInfo(records=records, bytes=sum(s.bytes for s in written), labelled=True, shards=tuple(written))
    classes = tuple(ClassInfo(index=i, wnid=f"n{i:08d}", name=f"class {i}") for i in range(1000))
    write_dataset_info(folder, DatasetInfo(classes=classes, splits={"train": split}))
    return {
        "image_bytes": len(image),
        "write_records_per_s": round(records / seconds),
        "data_bytes": sum(s.data_bytes for s in written),
        "index_bytes": sum((folder / s.index_path).stat().st_size for s in written),
        "peak_mb_after_writing": _megabytes(),
    }


def _read(folder: Path, records: int) -> dict[str, object]:
    opening, ordering = [], []
    for epoch in range(5):
        begin = time.perf_counter()
        reader = ShardReader(folder, "train")
        opening.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        order = epoch_order(records, seed=0, epoch=epoch)
        ordering.append(time.perf_counter() - begin)
    rates = []
    for repeat in range(5):
        some = order[repeat::5][:100_000]
        begin = time.perf_counter()
        for start in range(0, len(some), 128):
            reader.read_many(some[start : start + 128])
        rates.append(len(some) / (time.perf_counter() - begin))
    return {
        "open_s": [round(s, 3) for s in opening],
        "order_s": [round(s, 4) for s in ordering],
        "read_records_per_s": [round(r) for r in rates],
        "read_records_per_s_median": round(statistics.median(rates)),
        "peak_mb_after_reading": _megabytes(),
    }


if __name__ == "__main__":
    main()
