"""The window order beside the full shuffle: how mixed its batches are, and what a network reaches with it.

    python benchmarks/orders.py DATASET --out benchmarks/results/orders.json

DATASET is packed with as many shards as a data set at a URL would have (`pack --shard-bytes 256KiB`, say). A batch's
distance is half the sum of the differences between its share of each label and the split's: the share of the batch
that would have to be others for the two to be equal. Runs are added to the file one by one, and those that are in it
are not repeated. What is committed was made with `--more TINY --epochs 6 --image-size 48`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from ablations import run_one

from alexnet_fast import ShardReader
from alexnet_fast.loaders.order import epoch_order, window_order
from alexnet_fast.system import choose_device, hardware, versions, write_file_atomically

WINDOWS = (1, 8)  # shards; 8 is what loaders read
EPOCHS = 20  # whose batches are looked at
ORDERS = {"full": "base", "window": "window order"}


def distances(labels: np.ndarray, order: np.ndarray, batch_size: int) -> list[float]:
    """Of each whole batch of an epoch."""
    classes = int(labels.max()) + 1
    whole = np.bincount(labels, minlength=classes) / len(labels)
    batches = labels[order[: len(order) // batch_size * batch_size]].reshape(-1, batch_size)
    return [0.5 * float(np.abs(np.bincount(b, minlength=classes) / batch_size - whole).sum()) for b in batches]


def mixing(reader: ShardReader, batch_size: int) -> dict[str, object]:
    """The mean distance of batches in each order, and the largest mean of an epoch."""
    labels, shards = np.asarray(reader.labels), [shard.records for shard in reader.split_info.shards]
    orders = {
        "full": lambda epoch: epoch_order(len(labels), seed=0, epoch=epoch),
        **{f"window of {n}": lambda epoch, n=n: window_order(shards, seed=0, epoch=epoch, window=n) for n in WINDOWS},
        "as packed": lambda epoch: np.arange(len(labels)),
    }
    found = {}
    for name, order in orders.items():
        means = [statistics.mean(distances(labels, order(epoch), batch_size)) for epoch in range(EPOCHS)]
        found[name] = {"mean": round(statistics.mean(means), 4), "worst_epoch": round(max(means), 4)}
    return {
        "records": len(labels), "classes": int(labels.max()) + 1, "shards": len(shards), "batch_size": batch_size,
        "distance": found,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/orders.json"))
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="packed data sets whose batches are looked at")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    run_args = argparse.Namespace(
        dataset=args.dataset, model="alexnet-bn", batch_size=args.batch_size, epochs=args.epochs, width=args.width,
        image_size=args.image_size, threads=1, backend="auto", num_workers=0,
    )  # fmt: skip
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    known = {(row["lever"], row["seed"]) for row in rows}
    batches = [mixing(ShardReader(path, "train"), args.batch_size) for path in (args.dataset, *args.more)]
    for seed in map(int, args.seeds.split(",")):
        for lever in ORDERS.values():
            if (lever, seed) not in known:
                rows.append(run_one(run_args, lever, seed))
                print(json.dumps(rows[-1]), flush=True)
            content = {
                "what": "reduced scale; accuracies are of the last epoch; other programs ran beside it",
                "val_images": len(ShardReader(args.dataset, "val")), "hardware": hardware(choose_device("cpu")),
                "versions": versions("torch", "numpy"), "batches": batches, "rows": rows,
            }  # fmt: skip
            write_file_atomically(args.out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
