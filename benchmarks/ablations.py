"""What each lever of a recipe is worth: short runs that differ in one hyper-parameter, over several seeds.

    python benchmarks/ablations.py DATASET --out benchmarks/results/ablations-cpu.json

Results are added to the file run by run, and runs that are in it are not repeated, so it can be stopped at any time.
On a CPU this is a reduced scale: few classes, a narrow network, small pictures, few epochs. It tells which way a lever
moves a small problem, not what it is worth on ImageNet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from alexnet_fast import TrainConfig, train
from alexnet_fast.device import choose_device
from alexnet_fast.run_folder import hardware, versions
from alexnet_fast.shards import write_file_atomically

# Each differs from 'base', the fast recipe, in what it names.
LEVERS: dict[str, dict[str, object]] = {
    "base": {},
    "crop area from 0.08": {"area": [0.08, 1.0]},
    "crop area from 0.5": {"area": [0.5, 1.0]},
    "random flips": {"flip": "random"},
    "no label smoothing": {"label_smoothing": 0.0},
    "half the rate": {"lr": 0.5},
    "twice the rate": {"lr": 2.0},
    "cosine schedule": {"schedule": "cosine"},
    "no warm-up": {"warmup": 0.0},
    "running mean of weights": {"ema": 0.99},
    "a tenth of the weight decay": {"weight_decay": 5e-5},
    "decay on norms and biases": {"decay_norms_and_biases": True},
    "no dropout": {"dropout": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "no Nesterov": {"nesterov": False},
    "pictures grow from 3/4": {"start_size": 0.75, "full_size_at": 0.75},
    "first stride 1": {"stem_stride": 1},
    "half the batch": {"batch_size": 0.5},
    "twice the batch": {"batch_size": 2.0},
}


def run_one(args: argparse.Namespace, model: str, lever: str, seed: int, base: dict[str, object]) -> dict[str, object]:
    """One training run; rates and batches in LEVERS are factors on the recipe's."""
    overrides: dict[str, object] = {"width": args.width, **LEVERS[lever]}
    for name in ("lr", "batch_size"):
        if name in overrides:
            overrides[name] = type(base[name])(base[name] * overrides[name])
    folder = Path(tempfile.mkdtemp())
    begin = time.perf_counter()
    try:
        result = train(
            TrainConfig(
                dataset=args.dataset, run_dir=folder / "run", model=model, epochs=args.epochs, seed=seed,
                image_size=args.image_size, overrides=overrides, backend=args.backend, num_workers=args.num_workers,
            ),
            say=lambda line: None,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    last = result.rows[-1]
    row = {"model": model, "lever": lever, "seed": seed, "epochs": args.epochs, "width": args.width}
    row |= {"image_size": args.image_size, "val_top1": last["val_top1"], "val_loss": last["val_loss"]}
    row |= {"train_loss": last["train_loss"], "seconds": round(time.perf_counter() - begin, 1)}
    return row


def summarise(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Mean and spread (standard deviation) over seeds, and the difference from 'base'."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        found.setdefault((row["model"], row["lever"]), []).append(row)
    table = []
    for (model, lever), group in found.items():
        top1 = [row["val_top1"] for row in group]
        base = [row["val_top1"] for row in found.get((model, "base"), [])]
        table.append(
            {
                "model": model,
                "lever": lever,
                "runs": len(group),
                "val_top1": round(statistics.mean(top1), 4),
                "spread": round(statistics.stdev(top1), 4) if len(top1) > 1 else None,
                "val_loss": round(statistics.mean(row["val_loss"] for row in group), 4),
                "gain": round(statistics.mean(top1) - statistics.mean(base), 4) if base else None,
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablations-cpu.json"))
    parser.add_argument("--models", default="alexnet-bn")
    parser.add_argument("--levers", default=",".join(LEVERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--backend", default="torchvision")
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--most", type=int, default=10**6, help="runs to make before stopping")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    from alexnet_fast.recipes import choose_recipe
    from alexnet_fast.shards import read_dataset_info

    done = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    known = {(row["model"], row["lever"], row["seed"]) for row in done}
    pictures = read_dataset_info(args.dataset).split("train").records
    made = 0
    for seed in range(args.seeds):
        for model in args.models.split(","):
            recipe = choose_recipe(TrainConfig(dataset=args.dataset, model=model), pictures)
            base = {"lr": recipe.lr, "batch_size": recipe.batch_size}
            for lever in args.levers.split(","):
                if (model, lever, seed) in known or made >= args.most:
                    continue
                done.append(run_one(args, model, lever, seed, base))
                made += 1
                print(json.dumps(done[-1]), flush=True)
                content = {
                    "what": "reduced scale: see the columns epochs, width and image_size; seeds differ in order, "
                    "crops, flips, dropout and initial weights",
                    "dataset": {"pictures": pictures, "classes": read_dataset_info(args.dataset).num_classes},
                    "hardware": hardware(choose_device("auto")),
                    "versions": versions(),
                    "summary": summarise(done),
                    "rows": done,
                }
                write_file_atomically(args.out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
