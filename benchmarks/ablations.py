"""What each lever of a recipe is worth: short runs that differ in one hyper-parameter, over several seeds.

    python benchmarks/ablations.py DATASET --epochs 8 --width 0.25 --threads 1 --jobs 2 --out RESULT.json   on a CPU
    python benchmarks/ablations.py DATASET --epochs 16 --out RESULT.json                                    on a GPU

Results are added to the file run by run, and runs that are in it are not repeated, so it can be stopped at any time.
On a CPU this is a reduced scale: few classes, a narrow network, small images, few epochs. It tells which way a lever
moves a small problem, not what it is worth on ImageNet.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from alexnet_fast import TrainConfig, evaluate, train
from alexnet_fast.dataset import read_dataset_info
from alexnet_fast.system import choose_device, hardware, versions, write_file_atomically
from alexnet_fast.training.recipes import choose_recipe

# Each differs from 'base', the fast recipe, in what it names; of lr and batch_size the number is a factor. The most
# telling come first, since the runs may be stopped early.
LEVERS: dict[str, dict[str, object]] = {
    "base": {},
    "notebook recipe": {"recipe": "notebook"},
    "notebook recipe and network alexnet": {"recipe": "notebook", "model": "alexnet"},
    "random flips": {"flip": "random"},
    "no label smoothing": {"label_smoothing": 0.0},
    "no warm-up": {"warmup": 0.0},
    "running mean of weights": {"ema": 0.99},
    "images grow from 3/4": {"start_size": 0.75, "full_size_at": 0.75},
    "crop area from 0.08": {"area": [0.08, 1.0]},
    "crop area from 0.5": {"area": [0.5, 1.0]},
    "no dropout": {"dropout": 0.0},
    "dropout 0.5": {"dropout": 0.5},
    "half the rate": {"lr": 0.5},
    "twice the rate": {"lr": 2.0},
    "half the batch": {"batch_size": 0.5},
    "twice the batch": {"batch_size": 2.0},
    "cosine schedule": {"schedule": "cosine"},
    "constant rate": {"schedule": "constant"},
    "decay on norms and biases": {"decay_norms_and_biases": True},
    "a tenth of the weight decay": {"weight_decay": 5e-5},
    "four times the weight decay": {"weight_decay": 2e-3},
    "no Nesterov": {"nesterov": False},
    "first stride 1": {"stem_stride": 1},
    # torchvision's transforms. The images that they change are none that the network validates on.
    "MixUp 0.2": {"mixup": 0.2},
    "CutMix 1": {"cutmix": 1.0},
    "RandAugment 9": {"randaugment": 9},
    "MixUp 0.2 + CutMix 1 + RandAugment 9": {"mixup": 0.2, "cutmix": 1.0, "randaugment": 9},
    # The start of a run, with --model alexnet: as it was before weights were scaled, and each change alone.
    "as before: published weights and no clipping at a fifth of the rate": {
        "init": "published",
        "lr": 0.2,
        "clip": 0.0,
    },
    "published weights": {"init": "published"},
    "no clipping": {"clip": 0.0},
    "no clipping at a fifth of the rate": {"lr": 0.2, "clip": 0.0},
    # The recipe record with the batch of the base; the rates are the best known here of each optimiser.
    "record recipe": {"recipe": "record", "batch_size": 1.0, "lr": 0.2},
    "record recipe with SGD": {
        "recipe": "record",
        "batch_size": 1.0,
        "optimizer": "sgd",
        "nesterov": True,
        "weight_decay": 5e-4,
        "lr": 1.0,
    },
    "record recipe at whole size": {"recipe": "record", "batch_size": 1.0, "lr": 0.2, "start_size": 1.0},
    # Few shards at a time, as of a data set at a URL.
    "window order": {"shuffle": "window"},
    "network alexnet": {"model": "alexnet"},
    "network alexnet-owt": {"model": "alexnet-owt"},
    "network alexnet-paper": {"model": "alexnet-paper"},
    "paper recipe and network alexnet-paper": {"recipe": "paper", "model": "alexnet-paper"},
    "paper recipe": {"recipe": "paper"},
    "paper recipe and network alexnet": {"recipe": "paper", "model": "alexnet"},
    "paper recipe and network alexnet-owt": {"recipe": "paper", "model": "alexnet-owt"},
    "notebook recipe and network alexnet-owt": {"recipe": "notebook", "model": "alexnet-owt"},
    "notebook recipe and network alexnet-paper": {"recipe": "notebook", "model": "alexnet-paper"},
}


def run_one(args: argparse.Namespace, lever: str, seed: int) -> dict[str, object]:
    """One training run, in this process: its row of the results."""
    if args.threads:
        torch.set_num_threads(args.threads)
    overrides: dict[str, object] = {"width": args.width, **LEVERS[lever]}
    recipe, model = overrides.pop("recipe", "fast"), overrides.pop("model", args.model)
    shuffle = overrides.pop("shuffle", "auto")
    images = read_dataset_info(args.dataset).split("train").records
    base = choose_recipe(TrainConfig(dataset=args.dataset, model=model, batch_size=args.batch_size), images)
    if args.batch_size is not None:
        overrides.setdefault("batch_size", 1.0)
    if "lr" in overrides:
        overrides["lr"] = base.lr * overrides["lr"]
    if "batch_size" in overrides:
        overrides["batch_size"] = int(base.batch_size * overrides["batch_size"])
    with tempfile.TemporaryDirectory() as name:
        began, cpu = time.perf_counter(), cpu_seconds()
        result = train(
            TrainConfig(
                dataset=args.dataset, run_dir=Path(name) / "run", model=model, recipe=recipe, epochs=args.epochs,
                seed=seed, image_size=args.image_size, overrides=overrides, backend=args.backend,
                num_workers=args.num_workers, shuffle=shuffle,
            ),
            say=lambda line: None,
        )  # fmt: skip
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        flipped = evaluate(Path(name) / "run" / "last.pt", args.dataset, tta="flip")
        used = json.loads((Path(name) / "run" / "config.json").read_text())
    last = result.rows[-1]
    return {
        "lever": lever, "seed": seed, "model": model, "epochs": args.epochs, "width": args.width,
        "image_size": args.image_size, "batch_size": used["recipe"]["batch_size"], "lr": used["recipe"]["lr"],
        "precision": used["precision"], "val_top1": last["val_top1"], "val_loss": last["val_loss"],
        "val_top1_flip": flipped.top1, "train_top1": last["train_top1"], "train_loss": last["train_loss"],
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
    }  # fmt: skip


def cpu_seconds() -> float:
    """CPU time of this process and of its workers that have ended: RandAugment costs theirs, not its own."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def summarise(rows: list[dict[str, object]]) -> dict[str, object]:
    """Per lever the mean over its seeds and the gain over 'base' with the same seeds; and what the noise is.

    The noise of one gain, the same for all levers, is the standard deviation of the differences between a lever and
    the base around the lever's own mean, pooled over the levers; over n seeds it falls with the square root of n.
    """
    found: dict[str, dict[int, dict]] = {}
    for row in rows:
        found.setdefault(row["lever"], {})[row["seed"]] = row
    base = found.get("base", {})

    def differences(lever: str, name: str) -> list[float]:
        return [row[name] - base[seed][name] for seed, row in found[lever].items() if seed in base]

    pooled: dict[str, float | None] = {}
    for name in ("val_top1", "val_loss"):
        groups = [differences(lever, name) for lever in found if lever != "base"]
        squares = sum(sum((d - statistics.mean(g)) ** 2 for d in g) for g in groups if g)
        freedom = sum(len(g) - 1 for g in groups if g)
        pooled[name] = math.sqrt(squares / freedom) if freedom > 0 else None
    table = []
    for lever, runs in found.items():
        group = list(runs.values())
        line: dict[str, object] = {"lever": lever, "runs": len(group)}
        for name in ("val_top1", "val_top1_flip", "val_loss", "cpu_seconds"):
            line[name] = round(statistics.mean(row[name] for row in group), 4)
        for name, noise in pooled.items():
            gains = differences(lever, name) if lever != "base" else []
            line[f"{name}_gain"] = round(statistics.mean(gains), 4) if gains else None
            line[f"{name}_noise"] = round(noise / math.sqrt(len(gains)), 4) if gains and noise is not None else None
        table.append(line)
    spread = [row["val_top1"] for row in base.values()]
    return {
        "base_spread": round(statistics.stdev(spread), 4) if len(spread) > 1 else None,
        "flip_at_test_gain": round(statistics.mean(row["val_top1_flip"] - row["val_top1"] for row in rows), 4),
        "flip_at_test_wins": sum(row["val_top1_flip"] > row["val_top1"] for row in rows),
        "levers": table,
    }


def write(args: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    info = read_dataset_info(args.dataset)
    content = {
        "what": "reduced scale where width is below 1 or classes below 200; seeds differ in order, crops, flips, "
        "dropout and initial weights; accuracies are of the last epoch; the machine did other work at the same time, "
        "so cpu_seconds (of the run and its workers) tell the cost and not seconds",
        "model": args.model,
        "dataset": {
            "classes": info.num_classes,
            "splits": {name: split.records for name, split in info.splits.items()},
        },
        "hardware": hardware(choose_device("auto")),
        "versions": versions("torch", "numpy"),
        "summary": summarise(rows),
        "rows": rows,
    }
    write_file_atomically(args.out, (json.dumps(content, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablations-cpu.json"), help="result file")
    parser.add_argument("--model", default="alexnet-bn", help="of the base")
    parser.add_argument("--levers", default=",".join(LEVERS), help="by name, separated by commas; base belongs to them")
    parser.add_argument("--seeds", default="0,1,2", help="one after another, all levers with each")
    parser.add_argument("--epochs", type=int, default=8, help="of every run")
    parser.add_argument("--batch-size", type=int, default=None, help="of the base; its rate follows")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the network's channels")
    parser.add_argument("--image-size", type=int, default=64, help="pixels a side")
    parser.add_argument("--backend", default="auto", help="of the loader")
    parser.add_argument("--num-workers", type=int, default=1, help="of the loader")
    parser.add_argument("--threads", type=int, default=0, help="of torch in each run; 0 leaves its own choice")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    known = {(row["lever"], row["seed"]) for row in rows}
    wanted = [(lever, int(seed)) for seed in args.seeds.split(",") for lever in args.levers.split(",")]
    # Processes of their own, so that several runs share a CPU: a narrow network is too small for two threads.
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(run_one, args, lever, seed) for lever, seed in wanted if (lever, seed) not in known]
        for run in as_completed(runs):
            rows.append(run.result())
            print(json.dumps(rows[-1]), flush=True)
            write(args, rows)


if __name__ == "__main__":
    main()
