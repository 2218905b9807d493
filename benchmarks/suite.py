"""Every benchmark at a small size with one summary: what `make bench` runs.

    python benchmarks/suite.py [--images FOLDER] [--out suite.json] [--seconds 2] [--only pack,loaders,sweep,step]

Without --images it draws some (240 JPEGs of about ImageNet's size, in 8 classes). Small and quick, so good for seeing
that nothing has become slower, not for figures to publish: those come from the scripts beside this one, which measure
longer, on real images and against more programs (loaders.py, num_workers.py, dali_readers.py, gpu.py).
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

SECTIONS = ("pack", "loaders", "sweep", "step")
Row = tuple[str, str, str]  # section, what, figure


def draw_images(folder: Path, classes: int = 8, per_class: int = 30) -> Path:
    """JPEGs of 500 x 375 pixels and about 100 kB, as ImageNet's in the median, from noise of several sizes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(classes):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True)
        for i in range(per_class):
            pixels = np.zeros((375, 500, 3))
            for cell in (4, 16, 64):
                coarse = Image.fromarray(random.integers(0, 255, (375 // cell + 1, 500 // cell + 1, 3), dtype=np.uint8))
                pixels += np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float64)
            pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
            (place / f"n{label:08d}_{i}.JPEG").write_bytes(buffer.getvalue())
    return folder


def bench_pack(images: Path, work: Path, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """`pack`, every image checked, beside a plain copy of the same folder; alternating, both synced."""
    import os

    from alexnet_fast.packing import pack

    count = sum(1 for _ in images.rglob("*.JPEG"))
    times: dict[str, list[float]] = {"pack": [], "copy": []}
    for turn in range(3):
        begin = time.perf_counter()
        pack(str(images), work / f"packed-{turn}")
        times["pack"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        shutil.copytree(images, work / f"copy-{turn}")
        os.sync()
        times["copy"].append(time.perf_counter() - begin)
    rates = {name: count / median(values) for name, values in times.items()}
    rows = [
        ("pack", "checked, into shards", f"{rates['pack']:,.0f} images/s"),
        ("pack", "plain copy of the folder", f"{rates['copy']:,.0f} images/s"),
    ]
    return rows, {"pictures": count, "pictures_per_s": rates, "seconds": times}


def bench_loaders(images: Path, packed: Path, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """Our backends and ImageFolder under a DataLoader, each with as many workers as cores, alternating."""
    from alexnet_fast.bench.measure import FolderConfig
    from alexnet_fast.bench.results import BASELINE, OK, Setting
    from alexnet_fast.bench.sweep import Cell
    from alexnet_fast.config import LoaderConfig
    from alexnet_fast.system import usable_cores

    device, workers = best_device(), usable_cores()
    common: dict[str, Any] = {"num_workers": workers, "pin_memory": False, "batch_size": 32}
    configs: dict[str, Any] = {
        name: LoaderConfig(dataset=packed, backend=name, image_size=224, **common)
        for name in ("torchvision", "dali", "resident")
    }
    configs[BASELINE] = FolderConfig(folder=str(images), image_size=224, device=device, **common)
    cells = {
        name: Cell(setting=Setting(backend=name, **common), config=config, device=device, seconds=seconds)
        for name, config in configs.items()
    }
    for _ in range(2):
        for cell in cells.values():
            if cell.status == OK:
                cell.measure(120)
    rows, results = [], {}
    for name, cell in cells.items():
        row = cell.row()
        results[name] = list(row.repeats) if row.ok else row.status
        figure = f"{row.rate:,.0f} images/s" if row.ok else row.status
        rows.append(("loaders", "ImageFolder + DataLoader" if name == BASELINE else name, figure))
    return rows, {"workers": workers, "pictures_per_s": results}


def bench_sweep(images: Path, packed: Path, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """`bench-loader` with its baseline: the setting that it recommends here."""
    from alexnet_fast.bench import bench_loader
    from alexnet_fast.config import BenchConfig

    report = bench_loader(
        BenchConfig(
            dataset=packed, baseline=images, batch_sizes=(32,), seconds=seconds, backends=("torchvision",),
            model="none",
        )
    )  # fmt: skip
    best = f"{report.recommendation}"
    rows = [("sweep", "recommended", best), ("sweep", "took", f"{report.seconds:.0f} s")]
    return rows, json.loads(report.to_json())


def bench_step(seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """A training step of each network on images that lie on the device."""
    from alexnet_fast.bench.measure import measure_demand
    from alexnet_fast.config import MODELS
    from alexnet_fast.errors import AlexNetFastError
    from alexnet_fast.system import Child

    rows, results = [], {}
    measure = partial(measure_demand, classes=1000, batch_size=32, image_size=224, seconds=seconds)
    for model in MODELS:
        try:
            with Child("alexnet_fast.bench.measure", keep_stderr=True) as child:
                demand = child.call(measure, model, "auto", timeout=300)
            results[model] = {name: getattr(demand, name) for name in ("images_per_s", "spread", "precision")}
            figure = f"{demand.images_per_s:,.0f} images/s ({demand.precision})"
        except AlexNetFastError as error:
            results[model], figure = {"error": str(error)}, str(error)
        rows.append(("step", model, figure))
    return rows, results


def best_device() -> str:
    """The kind of device that 'auto' takes."""
    from alexnet_fast.system import choose_device

    return choose_device("auto").type


def environment() -> dict[str, Any]:
    """Machine and versions."""
    from alexnet_fast.system import choose_device, cpu_name, device_name, usable_cores, versions

    device = choose_device("auto")
    return {
        "machine": cpu_name(), "usable_cores": usable_cores(), "device": device.type,
        "device_name": device_name(device),
        "versions": versions("torch", "torchvision", "nvidia-dali-cuda120", "lmdb", "numpy"),
    }  # fmt: skip


def main() -> None:
    """Run the sections that are asked for, and print one table."""
    from alexnet_fast.packing import pack

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of class folders of JPEGs; drawn if not given")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time of each part")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    a = parser.parse_args()
    wanted = a.only.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"--only takes {', '.join(SECTIONS)}: got {', '.join(sorted(unknown))}")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="alexnet-fast-bench-") as folder:
        work = Path(folder)
        images = a.images or draw_images(work / "pictures")
        packed = work / "packed"
        pack(str(images), packed)
        parts: dict[str, Callable[[], tuple[list[Row], dict[str, Any]]]] = {
            "pack": lambda: bench_pack(images, work, a.seconds),
            "loaders": lambda: bench_loaders(images, packed, a.seconds),
            "sweep": lambda: bench_sweep(images, packed, a.seconds),
            "step": lambda: bench_step(a.seconds),
        }
        rows: list[Row] = []
        result: dict[str, Any] = {"environment": environment()}
        for name in wanted:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found, result[name] = parts[name]()
            rows += found
    result["seconds"] = time.monotonic() - begin
    if a.out is not None:
        a.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(rows)
    e = result["environment"]
    print(f"\n{e['machine']}, {e['usable_cores']} usable cores, device {e['device_name']}; {result['seconds']:.0f} s")


def print_table(rows: list[Row]) -> None:
    """Three columns, the section named once."""
    wide = [max(len(row[i]) for row in rows) for i in range(2)]
    last = ""
    for section, what, figure in rows:
        print(f"{section if section != last else '':{wide[0]}}  {what:{wide[1]}}  {figure}")
        last = section


if __name__ == "__main__":
    main()
