"""What decoding and resizing cost a worker, by who does it: compiled code, or the libraries that Python calls.

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
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from loaders import environment

from alexnet_fast import ShardReader
from alexnet_fast.images import Cropper, OutputSlots, plan_train, sample_crops, sample_flips

WAYS = ("native", "nvimgcodec", "simplejpeg")
LOT = 16


class Images:
    """JPEGs of a packed data set in memory, with the crops of an epoch."""

    def __init__(self, dataset: Path, size: int, count: int) -> None:
        reader = ShardReader(dataset, "train")
        records = np.random.default_rng(0).permutation(len(reader))[: count // LOT * LOT]
        rows = reader.index[records]
        self.size, self.count = size, len(records)
        self.jpegs = reader.view_many(records)
        self.heights, self.widths = rows["height"].tolist(), rows["width"].tolist()
        self.plan = plan_train(sample_crops(0, 0, records, rows["height"], rows["width"]), size)
        self.flips = sample_flips(0, 0, records)
        self.mean_bytes = round(float(rows["length"].mean()))
        self.places = OutputSlots.over(np.zeros(LOT * 3 * size * size, np.uint8), size, "uint8")

    def cut(self, decoder: str) -> dict[str, float]:
        """Microseconds an image of one thread's CPU time: decoding, resizing, all with what Python adds."""
        cutter = Cropper(self.size, decoder=decoder)
        begin = time.thread_time()
        for i in range(0, self.count, LOT):
            part = slice(i, i + LOT)
            cutter.jpegs(
                self.jpegs[part], self.heights[part], self.widths[part], self.plan[part], self.flips[part], self.places
            )
        each = 1e6 / self.count
        return {
            "decode": cutter.decode_s * each,
            "resize": cutter.resize_s * each,
            "all": (time.thread_time() - begin) * each,
        }


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
        "versions": {name: version(name) for name in ("torch", "simplejpeg", "nvidia-nvimgcodec-cu12", "numpy")},
        "turns": args.turns,
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
