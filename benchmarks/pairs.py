"""Whether every network learns with every recipe: short runs, each judged against guessing on the validation split.

    python benchmarks/pairs.py DATASET --image-size 64 --batch-size 64 --steps 100 --out RESULT.json

Runs are of the network's whole width and the recipe's own values, but for the batch and for epochs enough to reach the
number of steps. A row is over chance where an exact one-sided test of its hits gives less than 0.1%. Results are added
to the file run by run, and runs that are in it are not repeated, so it can be stopped at any time and given other sizes
or another data set.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

from alexnet_fast import TrainConfig, train
from alexnet_fast.config import MODELS, RECIPES
from alexnet_fast.dataset import read_dataset_info
from alexnet_fast.system import choose_device, hardware, versions, write_file_atomically
from alexnet_fast.training.diagnosis import over_chance

_KEY = ("model", "recipe", "classes", "image_size", "batch_size", "seed")


def run_one(args: argparse.Namespace, model: str, recipe: str) -> dict[str, object]:
    """One run, in this process: its row of the results."""
    info = read_dataset_info(args.dataset)
    per_epoch = info.split("train").records // args.batch_size
    said: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        cpu = time.process_time()
        result = train(
            TrainConfig(
                dataset=args.dataset, run_dir=Path(name) / "run", model=model, recipe=recipe, seed=args.seed,
                epochs=math.ceil(args.steps / per_epoch), batch_size=args.batch_size, image_size=args.image_size,
                num_workers=args.num_workers,
            ),
            say=said.append,
        )  # fmt: skip
        cpu = time.process_time() - cpu
    assert result is not None
    last, val = result.rows[-1], info.split("val").records
    return {
        "model": model, "recipe": recipe, "classes": info.num_classes, "image_size": args.image_size,
        "batch_size": args.batch_size, "seed": args.seed, "steps": per_epoch * len(result.rows),
        "val_top1": last["val_top1"], "val_images": val, "val_loss": last["val_loss"],
        "over_chance": over_chance(round(last["val_top1"] * val), val, 1 / info.num_classes),
        "adapted": next((line for line in said if " adapted: " in line or "as published" in line), None),
        "stands_still": last.get("still"), "cpu_seconds": round(cpu, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="packed, with as many validation images of each class")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pairs.json"), help="result file")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--image-size", type=int, default=64, help="pixels a side")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100, help="at least; whole epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=0, help="of the loader")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    classes = read_dataset_info(args.dataset).num_classes
    known = {tuple(row[name] for name in _KEY) for row in rows}
    for model in args.models.split(","):
        for recipe in args.recipes.split(","):
            if (model, recipe, classes, args.image_size, args.batch_size, args.seed) in known:
                continue
            rows.append(run_one(args, model, recipe))
            print(json.dumps(rows[-1]), flush=True)
            content = {
                "what": "runs of the whole width, as the recipe is but for batch and epochs; top-1 of the last epoch; "
                "over_chance: an exact one-sided test of the hits gives less than 0.1%",
                "hardware": hardware(choose_device("auto")),
                "versions": versions("torch", "numpy"),
                "rows": rows,
            }
            write_file_atomically(args.out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
