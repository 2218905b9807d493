"""The Tiny ImageNet record: how far an AlexNet gets from scratch, and in how much training time.

    python benchmarks/tiny_imagenet_record.py DATASET --seeds 5 --out benchmarks/results/record.json     on a GPU
    python benchmarks/tiny_imagenet_record.py DATASET --reduced --seeds 2 --out ...                      on a CPU

Rules: five convolutions and three fully connected layers, at most 63 M parameters, no other data; top-1 on the whole
val split with an image and its mirror image averaged, of the last epoch, not of the best. The clock counts training
(data included) from the end of the first step, which is warm-up, to the last step; validation, compilation and loading
are apart. Mean and spread are over seeds. `--recipe notebook` gives the baseline under the same clock.

`--reduced` narrows the network and shortens the run so that a CPU finishes; its figures are marked as such and say
nothing about the record.
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
# The recipe on top of `fast`. A first stride of 1 keeps maps of 64, 31, 15 and 7 pixels, as 224-pixel images nearly
# have, at four times the arithmetic, which a GPU has to spare. A running mean of the weights gained nothing in
# ablations-xeon.json, so there is none.
RECORD = {"stem_stride": 1}
REDUCED = {"width": 0.25}


def run_once(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, object]:
    """Train with one seed; the row of the results, with the log."""
    overrides = dict(REDUCED) if args.reduced else dict(RECORD) if args.recipe == "fast" else {}
    overrides |= json.loads(args.set)
    log: list[str] = []

    def say(line: str) -> None:
        log.append(line)
        print(line, flush=True)

    config = TrainConfig(
        dataset=args.dataset, run_dir=folder / "run", model=args.model, recipe=args.recipe, epochs=args.epochs,
        batch_size=args.batch_size, lr=args.lr, image_size=64, seed=seed, backend=args.backend, device=args.device,
        compile=args.compile, overrides=overrides,
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
        for tta in ("none", "flip")
    }
    return {
        "seed": seed,
        "top1": scores["flip"].top1,
        "top1_without_flip": scores["none"].top1,
        "top5": scores["flip"].top5,
        "training_seconds": summary["totals"]["training_seconds"],
        "training_cpu_seconds": round(cpu, 1),
        "warm_up_seconds": summary["totals"]["warm_up_seconds"],
        "parameters": parameters,
        "recipe": load_checkpoint(result.run_dir / "last.pt")["config"]["recipe"],
        "log": log,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="the whole of Tiny ImageNet, packed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="alexnet-bn")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--set", default="{}", help="further hyper-parameters, as a JSON object")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--reduced", action="store_true", help="a narrow network, for a CPU; not a record")
    args = parser.parse_args()
    info = read_dataset_info(args.dataset)
    rows: list[dict[str, object]] = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as name:
            rows.append(run_once(args, seed, Path(name)))
        top1 = [row["top1"] for row in rows]
        seconds = [row["training_seconds"] for row in rows]
        reduced = args.reduced or info.num_classes != 200
        content = {
            "what": "reduced scale: not a record" if reduced else "Tiny ImageNet, 200 classes, 64 pixels, from scratch",
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
