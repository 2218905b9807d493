"""Training steps without data: a plain fp32 loop and ours, side by side, and what share of the machine ours uses.

    python benchmarks/step.py --repeats 5 --out benchmarks/results/step-xeon.json
    python benchmarks/step.py --device cuda --batch-sizes 128,256,512,1024 --out benchmarks/results/step-gpu.json

The two loops run alternately, so that whatever else the machine does falls on both. The plain loop is the one of most
tutorials: float32, the default memory layout, torch.optim.SGD as it comes. Ours is a step of the trainer itself.
The roofline counts three forward passes of multiplies and adds for a training step and divides by the rate of a large
matrix product in the same number format, measured here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from alexnet_fast import LoaderConfig, create_model, open_loader
from alexnet_fast.config import MODELS
from alexnet_fast.models import count_parameters
from alexnet_fast.models.alexnet import forward_flops
from alexnet_fast.models.precision import cpu_bf16_instructions
from alexnet_fast.system import choose_device, hardware, synchronize, versions, write_file_atomically
from alexnet_fast.training import Step


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """Without TF32 in matrix products and without cuDNN's trials, which the trainer has switched on."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.benchmark = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.benchmark = before


def plain_steps(model: str, batch: int, classes: int, size: int, device: torch.device):
    """A function that takes one step of the plain loop."""
    network = create_model(model, classes, size).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.randint(classes, (batch,), device=device)

    def step() -> None:
        with as_torch_comes():
            optimizer.zero_grad()
            loss = cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()

    return step


def our_steps(args: argparse.Namespace, model: str, batch: int, device: torch.device):
    """(a function that takes one step of the trainer, its precision)."""
    step = Step.alone(
        model, num_classes=args.classes, image_size=args.image_size, batch_size=batch, device=device,
        precision=args.precision, compile=args.compile == "on",
    )  # fmt: skip
    loader = open_loader(
        LoaderConfig(
            backend="synthetic", batch_size=batch, image_size=args.image_size, device=str(device),
            dtype=step.precision.dtype, options={"num_records": 100 * batch, "num_classes": args.classes},
        )
    )  # fmt: skip
    images, labels = next(iter(loader))
    return lambda: step(images, labels), step.precision


def time_steps(step, count: int, device: torch.device) -> float:
    """Seconds a step."""
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return (time.perf_counter() - begin) / count


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large square matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * n**3 / min(time_steps(lambda: torch.mm(a, b), 3, device) for _ in range(5))


def measure(args: argparse.Namespace, model: str, batch: int, device: torch.device) -> dict[str, object]:
    ours, precision = our_steps(args, model, batch, device)
    plain = plain_steps(model, batch, args.classes, args.image_size, device)
    warm = {"ours": time_steps(ours, 1, device), "plain": time_steps(plain, 1, device)}
    count = args.steps if device.type == "cuda" else 1
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(args.repeats):
        for label, step in (("plain", plain), ("ours", ours)):
            seconds[label].append(time_steps(step, count, device))
    with torch.device("meta"):
        network = create_model(model, args.classes, args.image_size)
        flops = 3 * forward_flops(network, args.image_size)
    rate = {label: batch / statistics.median(times) for label, times in seconds.items()}
    peak = matmul_rate(precision.dtype, device)
    return {
        "model": model,
        "batch_size": batch,
        "image_size": args.image_size,
        "classes": args.classes,
        "parameters": count_parameters(network),
        "training_gflop_per_picture": round(flops / 1e9, 3),
        "precision": precision.name,
        "plain_fp32_pictures_per_s": round(rate["plain"], 2),
        "pictures_per_s": round(rate["ours"], 2),
        "spread": [round(batch / max(seconds["ours"]), 2), round(batch / min(seconds["ours"]), 2)],
        "plain_spread": [round(batch / max(seconds["plain"]), 2), round(batch / min(seconds["plain"]), 2)],
        "speed_up": round(rate["ours"] / rate["plain"], 3),
        "first_step_s": {label: round(value, 2) for label, value in warm.items()},
        "tflop_per_s": round(rate["ours"] * flops / 1e12, 4),
        "matmul_tflop_per_s": round(peak / 1e12, 4),
        "share_of_matmul": round(rate["ours"] * flops / peak, 3),
        "repeats": args.repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch-sizes", default="64")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", default="off", choices=("on", "off"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="a repeat, on a GPU")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = choose_device(args.device)
    rows = []
    for model in args.models.split(","):
        for batch in map(int, args.batch_sizes.split(",")):
            rows.append(measure(args, model, batch, device))
            print(json.dumps(rows[-1]), flush=True)
            content = {
                "what": __doc__.splitlines()[0],
                "hardware": {**hardware(device), "bf16_instructions": cpu_bf16_instructions()},
                "versions": versions("torch", "numpy"),
                "rows": rows,
            }
            if args.out is not None:
                write_file_atomically(args.out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
