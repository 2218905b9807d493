"""Write a data set of very many tiny pictures and measure what each part of it costs.

python tools/scale_check.py --records 1000000 --shards 8 --json benchmarks/results/scale.json
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alexnet_fast.order import epoch_order
from alexnet_fast.shards import (
    ClassInfo,
    DatasetInfo,
    ShardReader,
    ShardWriter,
    SplitInfo,
    shard_name,
    write_dataset_info,
)


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "records": options.records,
        "shards": options.shards,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "lmdb": lmdb.__version__,
        "cpu": _cpu(),
    }
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
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _write(folder: Path, records: int, shards: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 128).save(buffer, "JPEG", quality=50)
    picture = buffer.getvalue()
    cuts = np.linspace(0, records, shards + 1).astype(int)
    begin = time.perf_counter()
    written = []
    for number in range(shards):
        with ShardWriter(folder, shard_name("train", number, shards)) as writer:
            for record in range(cuts[number], cuts[number + 1]):
                writer.add(picture, label=record % 1000, width=8, height=8, key=f"n{record % 1000:08d}/{record}.JPEG")
            written.append(writer.finish())
    seconds = time.perf_counter() - begin
    split = SplitInfo(records=records, bytes=sum(s.bytes for s in written), labelled=True, shards=tuple(written))
    classes = tuple(ClassInfo(index=i, wnid=f"n{i:08d}", name=f"class {i}") for i in range(1000))
    write_dataset_info(folder, DatasetInfo(classes=classes, splits={"train": split}))
    return {
        "picture_bytes": len(picture),
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
