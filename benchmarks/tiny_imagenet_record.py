"""The Tiny ImageNet record: how far an AlexNet gets from scratch, and in how much training time.

    python benchmarks/tiny_imagenet_record.py DATASET --seeds 5 --out benchmarks/results/record.json

Rules: five convolutions and three fully connected layers, at most 63 M parameters, no other data; top-1 on the whole
val split with an image and its mirror image averaged, of the last epoch, not of the best; ten-crop, the evaluation of
Krizhevsky et al. 2012 (section 4.1), stands beside it. The clock counts training (data included) from the end of the
first step, which is warm-up, to the last step; validation, compilation and loading are apart. On a machine that does
other work too, the CPU seconds of the whole process tell the cost: data, validation and all. Mean and spread are over
seeds. `--recipe fast` and `notebook` give baselines under the same clock. With `--keep` the run folders stay, and a run
that was ended goes on from its last checkpoint when the script is started again; the CPU seconds are then those since.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from alexnet_fast import TrainConfig, UsageError, evaluate, train
from alexnet_fast.dataset import read_dataset_info
from alexnet_fast.system import choose_device, hardware, versions, write_file_atomically
from alexnet_fast.training.checkpoint import load_checkpoint

_MOST_PARAMETERS = 63_000_000


def run_once(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, object]:
    """Train with one seed; the row of the results, with the log."""
    log: list[str] = []

    def say(line: str) -> None:
        log.append(line.replace(str(folder.resolve()), "RUNS").replace(str(folder), "RUNS"))
        print(line, flush=True)

    config = TrainConfig(
        dataset=args.dataset, run_dir=folder / "run", model=args.model, recipe=args.recipe, epochs=args.epochs,
        batch_size=args.batch_size, lr=args.lr, image_size=64, seed=seed, backend=args.backend, device=args.device,
        compile=args.compile, overrides=json.loads(args.set), resume=(folder / "run").exists(),
    )  # fmt: skip
    cpu = time.process_time()
    result = train(config, say=say)
    cpu = time.process_time() - cpu
    assert result is not None
    summary = json.loads((result.run_dir / "summary.json").read_text())
    parameters = summary["totals"]["parameters"]
    if parameters > _MOST_PARAMETERS:
        raise UsageError(f"{parameters:,} parameters are more than the {_MOST_PARAMETERS:,} allowed")
    scores = {
        tta: evaluate(result.run_dir / "last.pt", args.dataset, tta=tta, device=args.device, batch_size=500)
        for tta in ("none", "flip", "ten-crop")
    }
    return {
        "seed": seed,
        "top1": scores["flip"].top1,
        "top1_without_flip": scores["none"].top1,
        "top1_ten_crop": scores["ten-crop"].top1,
        "top5": scores["flip"].top5,
        "training_seconds": summary["totals"]["training_seconds"],
        "training_cpu_seconds": round(cpu, 1),
        "warm_up_seconds": summary["totals"]["warm_up_seconds"],
        "parameters": parameters,
        "precision": json.loads((result.run_dir / "config.json").read_text())["precision"],
        "recipe": load_checkpoint(result.run_dir / "last.pt")["config"]["recipe"],
        "log": log,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="the whole of Tiny ImageNet, packed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="alexnet-bn")
    parser.add_argument("--recipe", default="record")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--set", default="{}", help="further hyper-parameters, as a JSON object")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the runs, one a seed; else none are kept")
    args = parser.parse_args()
    info = read_dataset_info(args.dataset)
    rows: list[dict[str, object]] = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as name:
            rows.append(run_once(args, seed, Path(name) if args.keep is None else args.keep / f"seed-{seed}"))
        top1 = [row["top1"] for row in rows]
        seconds = [row["training_seconds"] for row in rows]
        content = {
            "what": "reduced scale: not a record"
            if info.num_classes != 200
            else "Tiny ImageNet, 200 classes, 64 pixels, from scratch",
            "model": args.model,
            "data": {"classes": info.num_classes, "splits": {name: s.records for name, s in info.splits.items()}},
            "top1_mean": round(statistics.mean(top1), 5),
            "top1_spread": round(statistics.stdev(top1), 5) if len(top1) > 1 else None,
            "training_seconds_mean": round(statistics.mean(seconds), 2),
            "hardware": hardware(choose_device(args.device)),
            "versions": versions("torch", "numpy"),
            "rows": rows,
        }
        write_file_atomically(args.out, (json.dumps(content, indent=1) + "\n").encode())
        print(
            f"seed {seed}: top-1 {top1[-1]:.2%} in {seconds[-1]:.1f} s; mean of {len(rows)}: {content['top1_mean']:.2%}"
        )


if __name__ == "__main__":
    main()
