"""How near the torchvision backend comes to bare JPEG decoding, by its settings, on one packed data set.

    python benchmarks/decode.py DATASET [--split train] [--out benchmarks/results/decode.json]

Bare decoding is simplejpeg (libjpeg-turbo) in as many threads as the loader has workers, each into one reused buffer,
on records read in random order: no crop, no resize, no batch. All settings take turns, so that a change of the
machine's speed meets each of them alike; look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from alexnet_fast import Loader, LoaderConfig, ShardReader, open_loader
from alexnet_fast.device import usable_cores

BATCH, SIZE, WARM_UP = 128, 224, 3


def bare_decode(reader: ShardReader, workers: int, count: int) -> float:
    """Pictures/s of threads that read and decode whole pictures and do nothing else."""
    largest = int((reader.index["height"].astype(np.int64) * reader.index["width"]).max()) * 3

    def work(seed: int) -> None:
        buffer = np.empty(largest, np.uint8)
        for record in np.random.default_rng(seed).integers(0, len(reader), count // workers).tolist():
            simplejpeg.decode_jpeg(reader.view_many((record,))[0], "RGB", buffer=buffer)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(workers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count // workers * workers / (time.perf_counter() - begin)


def loader_rate(loader: Loader, batches: int) -> float:
    """Pictures/s over some batches, after the first few of a pass."""
    steps = iter(loader)
    for _ in range(WARM_UP):
        next(steps)
    begin = time.perf_counter()
    for _ in range(batches):
        next(steps)
    rate = batches * BATCH / (time.perf_counter() - begin)
    steps.close()  # type: ignore[attr-defined]
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=8, help="measured in each round")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    reader = ShardReader(given.dataset, given.split)
    given.batches = min(given.batches, len(reader) // BATCH - WARM_UP)
    workers = usable_cores()
    base: dict[str, Any] = {
        "dataset": given.dataset, "split": given.split, "train": True, "backend": "torchvision", "device": "cpu",
        "batch_size": BATCH, "image_size": SIZE, "num_workers": workers, "dtype": "uint8",
    }  # fmt: skip
    settings: dict[str, LoaderConfig] = {}
    for decoder in ("auto", "simplejpeg"):
        for kind in ("thread", "process"):
            settings[f"{kind}, decoder {decoder}, uint8"] = LoaderConfig(
                **base, options={"workers": kind, "decoder": decoder}
            )
    settings["thread, decoder auto, float32"] = LoaderConfig(**{**base, "dtype": "float32"})
    loaders = {name: open_loader(config) for name, config in settings.items()}
    runs: dict[str, Callable[[], float]] = {
        "bare decode": lambda: bare_decode(reader, workers, given.batches * BATCH),
        **{name: lambda x=x: loader_rate(x, given.batches) for name, x in loaders.items()},  # type: ignore[misc]
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(given.rounds + 1):
        for name, run in runs.items():
            rate = run()
            if number:  # the first round starts workers and fills the page cache
                rates[name].append(rate)
    for loader in loaders.values():
        loader.close()
    bare = statistics.median(rates["bare decode"])
    rows = [
        {
            "setting": name,
            "images_per_s": round(statistics.median(values), 1),
            "least": round(min(values), 1),
            "most": round(max(values), 1),
            "share_of_bare_decode": round(statistics.median(values) / bare, 3),
        }
        for name, values in rates.items()
    ]
    result = {
        "environment": {
            "cores": workers,
            "machine": platform.machine(),
            "python": platform.python_version(),
            "load_average_at_end": os.getloadavg()[0],
            **{name: version(name) for name in ("torch", "simplejpeg", "numpy")},
        },
        "data": {"records": len(reader), "mean_bytes": int(reader.index["length"].mean())},
        "rounds": given.rounds,
        "batches": given.batches,
        "rows": rows,
    }
    for row in rows:
        print(f"{row['setting']:36s} {row['images_per_s']:8.0f}/s  {row['share_of_bare_decode']:.2f} of bare decode")
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
