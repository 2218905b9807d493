"""What decoding and resizing cost a worker, by who does it: compiled code with and without row starts, or the libraries
that Python calls.

    python benchmarks/stages.py full-224=DATASET 375-224=DATASET tiny-64=DATASET --out benchmarks/results/stages.json

Each data set is packed; the number is the side of the crops. One thread cuts the crops that a training epoch draws out
of JPEGs in memory, sixteen at a time as a worker does. The ways take turns, so that a change of the machine's speed
meets each of them alike; the first turn does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from loaders import environment

from alexnet_fast import ShardReader
from alexnet_fast.images import (
    Cropper,
    ImageDecoder,
    find_row_starts,
    native,
    output_array,
    plan_train,
    sample_crops,
    sample_flips,
)

WAYS = ("indexed", "compiled", "plain")
LOT = 16


class Images:
    """JPEGs of a packed data set in memory, with the crops of an epoch."""

    def __init__(self, dataset: Path, size: int, count: int) -> None:
        reader = ShardReader(dataset, "train")
        records = np.random.default_rng(0).permutation(len(reader))[: count // LOT * LOT]
        rows = reader.index[records]
        self.size, self.count = size, len(records)
        self.jpegs = reader.view_many(records)
        boxes = sample_crops(0, 0, records, rows["height"], rows["width"])
        self.plan = plan_train(boxes, rows["height"], rows["width"], size)
        self.seeks = [found[2] if found else None for found in map(find_row_starts, self.jpegs)]
        self.flips = sample_flips(0, 0, records)
        self.mean_bytes = round(float(rows["length"].mean()))
        self.out = output_array(np.zeros(LOT * 3 * size * size, np.uint8), size, "uint8")

    def cut(self, way: str) -> dict[str, float]:
        """Microseconds an image of one thread's CPU time: decoding alone, and all with what Python adds."""
        with no_compiled_code() if way == "plain" else nullcontext():
            cropper, decoder = Cropper(self.size), ImageDecoder()
        seeks = self.seeks if way == "indexed" else [None] * self.count
        begin = time.thread_time()
        for i in range(0, self.count, LOT):
            part = slice(i, i + LOT)
            cropper.jpegs(self.jpegs[part], seeks[part], self.plan[part], self.flips[part], self.out)
        cut = time.thread_time()
        for i in range(self.count):
            crop = self.plan.crop(i)
            decoder.box(self.jpegs[i], seeks[i], *crop.size, crop.box)
        decoded = time.thread_time()
        each = 1e6 / self.count
        return {"decode": (decoded - cut) * each, "all": (cut - begin) * each}


@contextmanager
def no_compiled_code() -> Iterator[None]:
    found = native.compiled_code
    native.compiled_code = lambda: None
    try:
        yield
    finally:
        native.compiled_code = found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="NAME-SIDE=DATASET")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for text in args.data:
        name, dataset = text.split("=", 1)
        size = int(name.rsplit("-", 1)[1])
        images = Images(Path(dataset), size, args.images * (4 if size <= 96 else 1))
        turns = [{way: images.cut(way) for way in WAYS} for _ in range(args.turns + 1)][1:]
        for way in WAYS:
            found = {stage: [turn[way][stage] for turn in turns] for stage in turns[0][way]}
            row = {
                "data": name,
                "way": way,
                "pictures": images.count,
                "mean_bytes": images.mean_bytes,
                **{f"{stage}_us": round(statistics.median(values), 2) for stage, values in found.items()},
                "all_us_range": [round(min(found["all"]), 2), round(max(found["all"]), 2)],
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {
        "benchmark": "stages",
        "environment": environment(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "simplejpeg", "numpy")},
        "turns": args.turns,
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
