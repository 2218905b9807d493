"""Is bench-loader right? Set-ups whose verdict is known beforehand, each swept by the command itself.

    sudo python benchmarks/truths.py run [--out results/bench-loader-truths.json] [--only NAME,NAME] [--seconds 0.5]

A set-up is a data set (big, small or tiny images, ballast behind them), surroundings (affinity, CPU quota, memory
limit, a disk slowed to some MB/s, cold or warm, programs that eat a core), and options; and what the verdict must and
must not say. Quotas, limits and slow disks are cgroups (v1), so they need root; those that cannot be set up are listed
as such. The machine must be at rest: what other programs take is in the verdict, as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GROUPS = Path("/sys/fs/cgroup")
BIG, MEDIUM, SMALL, SPECKS = (2400, 1800), (500, 375), (64, 64), (12, 12)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One set-up and its verdict.

    Attributes:
        name, setup: a word, and the set-up in words.
        images: (width, height, count, bytes of ballast behind each).
        options: of bench-loader.
        cores, quota, memory_mb, disk_mb_s, cold, eaters: surroundings; None, False and 0 for as they are.
        must, must_not: patterns of what the verdict says.
    """

    name: str
    setup: str
    images: tuple[int, int, int, int] = (*MEDIUM, 200, 0)
    options: tuple[str, ...] = ("--num-workers", "0,2")
    cores: int | None = None
    quota: float | None = None
    memory_mb: int | None = None
    disk_mb_s: float | None = None
    cold: bool = False
    eaters: int = 0
    native: bool = True
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


BALLAST, SOME_BALLAST = 1 << 20, 60 << 10
DECODE, RESIZE = r"decode-bound", r"bound by crop and resize"
FULL = r"Too few cores for more"
WAITS = r"It waits for the disk"
DISK_ROWS = r"the disk's, not the page cache's"
FIRST = r"The first epoch is read-bound"
EVERY = r"Every epoch is read-bound"
OTHERS = r"Other programs took"
IDLE = r"The cores are not the limit"
ALONE = r"has one to itself"
NONE_TO_DISK = (WAITS, DISK_ROWS, EVERY)


def _truths() -> list[Truth]:
    found: list[Truth] = []

    def add(name: str, setup: str, must: tuple[str, ...], must_not: tuple[str, ...] = (), **values: Any) -> None:
        found.append(Truth(name=name, setup=setup, must=must, must_not=must_not, **values))

    big, medium, small, specks = (*BIG, 40, 0), (*MEDIUM, 200, 0), (*SMALL, 2000, 0), (*SPECKS, 400, 0)
    ballast, small_file = (*SMALL, 60, BALLAST), (*MEDIUM, 600, SOME_BALLAST)
    none, one, two = (("--num-workers", count) for count in "012")
    # As the machine is: what the images are decides.
    on_cores = (*NONE_TO_DISK, IDLE)
    add("big", "large images", (DECODE, FULL), on_cores, images=big)
    add("medium", "ImageNet's median size", (DECODE, FULL), on_cores)
    add("upscaled", "specks resized to 224", (RESIZE,), (DECODE, *NONE_TO_DISK), images=specks)
    add("uncompiled", "an artificially slow decoder: no compiled code", (DECODE,), NONE_TO_DISK, native=False)
    add("alone", "no workers are swept, a core is left", (ALONE,), (IDLE, FULL), options=none)
    add("one-worker", "one worker is swept, a core is left", (ALONE,), (IDLE, FULL), options=one)
    too_large = (*none, "--batch-size", "16,4000")
    add("batch", "a batch that the split cannot fill", (r"a batch of 4000 is more than",), options=too_large)
    # Cores.
    for images, label in ((big, "large"), (medium, "medium"), (small, "small")):
        affinity = r"its affinity allows this process 1"
        add(f"affinity-{label}", f"{label} images, affinity of 1 core", (FULL, affinity), on_cores,
            images=images, cores=1, options=("--num-workers", "1,2"))  # fmt: skip
        for name, quota, setup, granted in (
            ("1", 1.0, "1 core on 2", "1 core's"), ("half", 0.5, "half a core", "0.5 cores'"),
        ):  # fmt: skip
            add(f"quota-{name}-{label}", f"{label} images, quota of {setup}",
                (FULL, rf"its cgroup grants it {granted} worth"), (*on_cores, OTHERS),
                images=images, quota=quota)  # fmt: skip
        add(f"eaten-{label}", f"{label} images, two programs that eat a core each",
            (FULL, OTHERS, r"other programs take"), (*on_cores, r"would use ([3-9]|\d\d)"),
            images=images, eaters=2)  # fmt: skip
    add("eaten-alone", "no workers, two programs that eat a core each", (OTHERS,), (IDLE,), eaters=2, options=none)
    add("quota-eaten", "quota of half a core, one program that eats a core",
        (FULL, r"its cgroup grants it 0.5"), (IDLE, OTHERS), quota=0.5, eaters=1)  # fmt: skip
    # A disk, slow as a network may be.
    few = {"images": (*MEDIUM, 150, 0), "disk_mb_s": 2}
    add("disk-warm", "a disk of 2 MB/s, the split in memory", (DECODE, FIRST), (WAITS, DISK_ROWS, EVERY), **few)
    add("disk-cold-small", "a disk of 2 MB/s, a cold split that is read in 10 s",
        (DECODE, FIRST), (WAITS, EVERY), cold=True, **few)  # fmt: skip
    slow = {"images": (*MEDIUM, 2500, SOME_BALLAST), "disk_mb_s": 2, "cold": True}
    add("disk-cold", "a disk of 2 MB/s, a cold split of 200 MB",
        (WAITS, DISK_ROWS, FIRST), (DECODE, IDLE, FULL), **slow)  # fmt: skip
    add("disk-cold-fast", "a disk of 20 MB/s, a cold split of 50 MB",
        (FIRST,), (WAITS, DISK_ROWS), images=small_file, disk_mb_s=20, cold=True)  # fmt: skip
    add("disk-none", "a disk of 2 MB/s, cold, no workers", (WAITS,), (DECODE, ALONE), options=none, **slow)
    add("disk-two", "a disk of 2 MB/s, cold, 2 workers", (WAITS,), (DECODE, FULL), options=two, **slow)
    add("disk-eaten", "a disk of 2 MB/s, cold, and two programs that eat a core each",
        (WAITS, OTHERS), (DECODE,), eaters=2, **slow)  # fmt: skip
    add("disk-quota", "a disk of 2 MB/s, cold, quota of 1 core", (WAITS,), (DECODE, FULL), quota=1.0, **slow)
    add("ballast-warm", "a megabyte behind each small image, in memory",
        (r"read-bound",), (WAITS, DISK_ROWS, DECODE), images=ballast)  # fmt: skip
    # Memory.
    wide = {"images": (*MEDIUM, 6000, 100 << 10), "disk_mb_s": 20, "cold": True}
    add("memory", "a memory limit of 600 MB, a split of 800 MB", (EVERY, r"does not fit"), memory_mb=600, **wide)
    add("memory-fits", "a memory limit of 1.5 GB, a split of 50 MB", (FIRST,), (EVERY + r"[^,]*,? .*does not fit",),
        images=small_file, memory_mb=1500, disk_mb_s=2, cold=True)  # fmt: skip
    add("memory-free", "no memory limit, a split of 800 MB on a disk of 20 MB/s",
        (FIRST,), (r"does not fit",), **wide)  # fmt: skip
    # A network and its demand.
    add("network", "a network slower than the loader",
        (r"so the device is slower than the loader",), (r"no setting feeds it",),
        images=small, options=("--num-workers", "0,2", "--model", "alexnet", "--image-size", "64"))  # fmt: skip
    return found


def write_images(folder: Path, width: int, height: int, count: int, ballast: int) -> Path:
    """Class folders of JPEGs of noise of several sizes; what stands behind an image is part of its file."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(count):
        place = folder / f"n{i % 4:08d}" / f"{i}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 255, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        place.write_bytes(buffer.getvalue() + random.bytes(ballast))
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Surroundings


class CannotSetUp(Exception):
    """These surroundings cannot be made here; the text says why."""


@contextlib.contextmanager
def group(controller: str, files: dict[str, str]) -> Iterator[list[str]]:
    """The beginning of a command that runs it in a cgroup (v1) with these settings."""
    path = GROUPS / controller / f"truths-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        raise CannotSetUp(f"no cgroup of {controller} can be made ({error.strerror})") from None
    try:
        for name, text in files.items():
            try:
                (path / name).write_text(text)
            except OSError as error:
                raise CannotSetUp(f"{controller}: {name} cannot be set ({error.strerror})") from None
        yield ["sh", "-c", f'echo $$ > {path}/cgroup.procs && exec "$@"', "sh"]
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()


def disk_of(folder: Path) -> str:
    """major:minor of the block device that holds a folder."""
    device = folder.stat().st_dev
    if os.major(device) == 0:
        raise CannotSetUp("the data lie on no block device whose speed could be limited")
    return f"{os.major(device)}:{os.minor(device)}"


@contextlib.contextmanager
def surroundings(truth: Truth, dataset: Path) -> Iterator[list[str]]:
    """The beginning of a command that runs it as the truth wants it."""
    with contextlib.ExitStack() as stack:
        prefix: list[str] = []
        if truth.quota is not None:
            files = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": str(int(truth.quota * 100_000))}
            prefix += stack.enter_context(group("cpu", files))
        if truth.memory_mb is not None:
            limit = str(truth.memory_mb << 20)
            prefix += stack.enter_context(group("memory", {"memory.limit_in_bytes": limit}))
        if truth.disk_mb_s is not None:
            speed = f"{disk_of(dataset)} {int(truth.disk_mb_s * 1e6)}"
            prefix += stack.enter_context(group("blkio", {"blkio.throttle.read_bps_device": speed}))
        if truth.cores is not None:
            allowed = sorted(os.sched_getaffinity(0))[: truth.cores]
            prefix += ["taskset", "-c", ",".join(map(str, allowed))]
        for _ in range(truth.eaters):
            eater = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(eater.wait)
            stack.callback(eater.kill)
        yield prefix


def set_page_cache(dataset: Path, *, cold: bool) -> None:
    """Read the data set, or drop it from the page cache."""
    for path in dataset.rglob("data.mdb"):
        with open(path, "rb") as file:
            os.fdatasync(file.fileno())
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass


def judge(truth: Truth, dataset: Path, out: Path, seconds: float) -> dict[str, Any]:
    """Sweep, and compare the verdict with the truth."""
    image_size = [] if "--image-size" in truth.options else ["--image-size", "224"]
    model = [] if "--model" in truth.options else ["--model", "none"]
    batch = [] if "--batch-size" in truth.options else ["--batch-size", "16"]
    command = [
        sys.executable, "-m", "alexnet_fast", "bench-loader", str(dataset), "--backend", "torchvision",
        "--device", "cpu", "--seconds", str(seconds), "--out", str(out), *truth.options, *image_size, *model, *batch,
    ]  # fmt: skip
    environment = {**os.environ, **({} if truth.native else {"ALEXNET_FAST_NATIVE": "off"})}
    row = {"name": truth.name, "setup": truth.setup, "must": truth.must, "must_not": truth.must_not}
    try:
        with surroundings(truth, dataset) as prefix:
            set_page_cache(dataset, cold=truth.cold)
            done = subprocess.run([*prefix, *command], capture_output=True, text=True, env=environment, timeout=900)
    except CannotSetUp as error:
        return {**row, "verdict": "not set up", "why": str(error)}
    said = done.stdout + done.stderr
    if done.returncode:
        return {**row, "verdict": "failed", "why": said.strip().splitlines()[-1]}
    wrong = [f"lacks: {words}" for words in truth.must if not re.search(words, said)]
    wrong += [f"says: {words}" for words in truth.must_not if re.search(words, done.stdout)]
    report = json.loads((out / "bench-loader.json").read_text())
    others = [r["other_cores"] for r in report["rows"] if r["other_cores"] is not None]
    return {
        **row, "verdict": "wrong" if wrong else "right", "why": "; ".join(wrong), "explanation": report["explanation"],
        "images_per_s": {str(r["num_workers"]): r["images_per_s"] for r in report["rows"]},
        "others_took": round(sum(others) / len(others), 2) if others else None,
    }  # fmt: skip


def run(out: Path, only: list[str], seconds: float) -> None:
    """Judge all truths, or those named; each result is added to `out` at once."""
    from alexnet_fast.packing import pack
    from alexnet_fast.system import cpu_name, usable_cores, versions

    result = json.loads(out.read_text()) if out.exists() else {}
    known = {row["name"]: row for row in result.get("truths", ())}
    machine = {"cpu": cpu_name(), "usable_cores": usable_cores(), "versions": versions("torch", "numpy")}
    truths = [truth for truth in _truths() if not only or truth.name in only]
    scratch = HERE.parent / "build"  # on a disk, which /tmp need not be: some truths are about a cold one
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="truths-", dir=scratch) as folder:
        packed: dict[tuple[int, int, int, int], Path] = {}
        for truth in truths:
            if truth.images not in packed:
                place = Path(folder) / str(len(packed))
                pack(write_images(place / "images", *truth.images), place / "packed")
                packed[truth.images] = place / "packed"
            known[truth.name] = judge(truth, packed[truth.images], Path(folder) / "out", seconds)
            print(f"{truth.name}: {known[truth.name]['verdict']} {known[truth.name]['why']}", flush=True)
            out.write_text(json.dumps({"machine": machine, "truths": list(known.values())}, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """A line a set-up, as Markdown."""
    lines = ["| set-up | the verdict must say | it is | other programs took, cores |", "|---|---|---|--:|"]
    for row in result["truths"]:
        must = "; ".join(re.sub(r"[\\^$]", "", words) for words in row["must"])
        others = "" if row.get("others_took") is None else f"{row['others_took']:.1f}"
        verdict = row["verdict"] + (f": {row['why']}" if row["why"] else "")
        lines.append(f"| {row['setup']} | {must} | {verdict} | {others} |".replace("(?:", "("))
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--out", type=Path, default=HERE / "results" / "bench-loader-truths.json")
    runs.add_argument("--only", default="", help="names, separated by commas")
    runs.add_argument("--seconds", type=float, default=0.5)
    shows = commands.add_parser("table")
    shows.add_argument("--result", type=Path, default=HERE / "results" / "bench-loader-truths.json")
    a = parser.parse_args()
    if a.command == "run":
        run(a.out, [name for name in a.only.split(",") if name], a.seconds)
    else:
        print(table(json.loads(a.result.read_text())))


if __name__ == "__main__":
    main()
