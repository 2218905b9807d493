"""Why are 4 workers slower than 0? What worker processes cost and gain, measured on Tiny ImageNet's 64-pixel images.

    python benchmarks/num_workers.py run --train TINY/train --out RESULT.json [--rounds 1]
    python benchmarks/num_workers.py doc --result RESULT.json [--check]

`run` trains nothing: it reads 5,000 images (ten classes) for three epochs, as notebooks do, with a custom Dataset
under torch's DataLoader, and as this package does; each case in a process of its own, case after case, round after
round, added to RESULT at once. `doc` draws docs/num-workers.png and renews the tables of docs/num-workers*.md.

Cases: images from files (PIL, ToTensor, Normalize) or from a tensor in memory; 0, 1, 2 or 4 workers; workers that are
forked each epoch (PyTorch's default on Linux), forked once (persistent_workers), or spawned each epoch (the default of
Windows and macOS); and alexnet-fast over a packed data set, its workers forked once or threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLASSES, BATCH, EPOCHS = 10, 128, 3
WORKERS = (0, 1, 2, 4)
STARTS = ("fork", "fork-once", "spawn")


class FileDataset:
    """The custom Dataset of many notebooks: open, decode, to a float tensor, normalise."""

    def __init__(self, paths: list[tuple[str, int]]) -> None:
        from torchvision import transforms

        self.paths = paths
        steps = [
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        from PIL import Image

        path, label = self.paths[i]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


class MemoryDataset:
    """The same images decoded beforehand: __getitem__ only indexes a tensor."""

    def __init__(self, files: FileDataset) -> None:
        import torch

        self.images = torch.stack([files[i][0] for i in range(len(files))])
        self.labels = [label for _, label in files.paths]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.images[i], self.labels[i]


def list_files(train: Path) -> list[tuple[str, int]]:
    """(path, label) of the images of the first classes."""
    folders = sorted(folder for folder in train.iterdir() if folder.is_dir())[:CLASSES]
    return [(str(p), label) for label, folder in enumerate(folders) for p in sorted(folder.rglob("*.JPEG"))]


def cases() -> list[dict[str, Any]]:
    """Every case, in the order they are run."""
    found = []
    for data in ("files", "memory"):
        for workers in WORKERS:
            starts = ("none",) if not workers else STARTS if workers > 1 else STARTS[:2]
            found += [{"data": data, "workers": workers, "start": start} for start in starts]
    kinds = {workers: ("processes", "threads") if workers else ("none",) for workers in WORKERS}
    return found + [{"data": "packed", "workers": n, "start": kind} for n in WORKERS for kind in kinds[n]]


def open_batches(case: dict[str, Any], train: Path, packed: Path) -> Any:
    """Something whose every pass is an epoch of batches."""
    if case["data"] == "packed":
        from alexnet_fast import LoaderConfig, open_loader

        return open_loader(
            LoaderConfig(
                dataset=packed, batch_size=BATCH, image_size=64, num_workers=case["workers"],
                backend="torchvision", device="cpu",
                options={"workers": {"processes": "process", "threads": "thread"}.get(case["start"], "auto")},
            )
        )  # fmt: skip
    from torch.utils.data import DataLoader

    dataset: Any = FileDataset(list_files(train))
    if case["data"] == "memory":
        dataset = MemoryDataset(dataset)
    options: dict[str, Any] = {}
    if case["workers"]:
        options = {
            "multiprocessing_context": case["start"].removesuffix("-once"),
            "persistent_workers": case["start"] == "fork-once",
        }
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=case["workers"], **options)


def measure(case: dict[str, Any], train: Path, packed: Path) -> dict[str, Any]:
    """Seconds to each epoch's first batch and to its end, and CPU seconds over all processes."""
    from alexnet_fast.system.processes import possible_cpu_seconds, tree_usage

    load = os.getloadavg()[0]  # of the last minute: what else the machine was doing
    batches = open_batches(case, train, packed)
    epochs = []
    for _ in range(1 if case["start"] == "spawn" else EPOCHS):  # which is slow enough to be clear
        before, begin = tree_usage(os.getpid()), time.perf_counter()
        first = count = 0.0
        for _batch in batches:
            count += 1
            first = first or time.perf_counter() - begin
        seconds = time.perf_counter() - begin
        after = tree_usage(os.getpid())
        cpu = possible_cpu_seconds(before, after, seconds) if before and after else None
        epochs.append({"first_batch_s": first, "seconds": seconds, "pictures": int(count) * BATCH, "cpu_s": cpu})
    return {**case, "load_average": load, "epochs": epochs}


def run(train: Path, out: Path, rounds: int, budget: float) -> None:
    """Measure every case in a fresh process, and add it to `out`; go on where an earlier call ended."""
    begin = time.monotonic()
    result = json.loads(out.read_text()) if out.exists() else {"environment": environment(), "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        write_packed(list_files(train), packed)
        done_before = len(result["runs"])
        for number, case in enumerate(cases() * rounds):
            if number >= done_before and time.monotonic() - begin < budget:
                task = json.dumps({"case": case, "train": str(train), "packed": str(packed)})
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", __file__, "case", task],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                result["runs"].append(json.loads(done.stdout))
                print(case, [round(e["seconds"], 2) for e in result["runs"][-1]["epochs"]], file=sys.stderr, flush=True)
                out.write_text(json.dumps(_rounded(result), indent=1) + "\n")


def write_packed(files: list[tuple[str, int]], folder: Path) -> None:
    """The same images as a packed data set."""
    from alexnet_fast.packing import pack

    source = folder.with_name("source")
    for path, _ in files:
        link = source / Path(path).parents[1].name / Path(path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    pack(str(source), folder)


def environment() -> dict[str, Any]:
    """Machine and versions."""
    from alexnet_fast.system import cpu_name, memory_bytes, usable_cores, versions

    return {
        "machine": cpu_name(), "usable_cores": usable_cores(), "memory_bytes": memory_bytes()[0],
        "system": platform.platform(), "versions": versions("torch", "torchvision", "numpy"),
        "batch_size": BATCH, "classes": CLASSES,
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["case"]:
        task = json.loads(sys.argv[2])
        print(json.dumps(measure(task["case"], Path(task["train"]), Path(task["packed"]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--train", type=Path, required=True)
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--rounds", type=int, default=1)
    runs.add_argument("--seconds-budget", type=float, default=float("inf"), help="Begin no case after so long.")
    docs = commands.add_parser("doc")
    docs.add_argument("--result", type=Path, default=HERE / "results" / "num-workers.json")
    docs.add_argument("--check", action="store_true", help="Exit 1 where the pages differ from the result.")
    a = parser.parse_args()
    if a.command == "run":
        run(a.train, a.out, a.rounds, a.seconds_budget)
    else:
        from num_workers_doc import renew

        sys.exit(renew(a.result, HERE.parent / "docs", check=a.check))


if __name__ == "__main__":
    main()
