"""Our loader beside every other that one can install, on the same JPEG bytes, with the same crop and the same cores.

    python benchmarks/loaders.py setup   --envs ENVS
    python benchmarks/loaders.py prepare --envs ENVS --work WORK --source full=FOLDER --source 375=FOLDER ...
    python benchmarks/loaders.py tune    --envs ENVS --work WORK --out RESULT.json --case full-224-uint8
    python benchmarks/loaders.py run     --envs ENVS --work WORK --out RESULT.json --case full-224-uint8 375-224-uint8

Each peer has an interpreter of its own, ENVS/NAME/bin/python, which runs its adapter in benchmarks/peers. `prepare`
writes each peer's own format from the same files, byte for byte. `run` goes round the peers, one process after another,
A B C A B C, and adds each run to the result file at once; it may be stopped, or given a --seconds-budget, and goes on
where it was. What each column means is written in docs/benchmarks.md, which benchmarks/tables.py makes from the result.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ADAPTERS = HERE / "peers"
sys.path.insert(0, str(ADAPTERS))
from common import OUTPUTS, histogram_digest  # noqa: E402  the folder is known from here on

GROUP = (
    12 * 128
)  # records: whole batches of 128 for one, two, three or four workers, so that every peer reads every one


@dataclass(frozen=True)
class Peer:
    """A way to load images: its adapter, the environment that runs it, and settings that make it this variant."""

    name: str
    title: str
    adapter: str
    env: str
    fixed: Mapping[str, Any]


PEERS = [
    Peer("alexnet-fast", "alexnet-fast", "ours_loader", "ours", {"backend": "torchvision"}),
    Peer("ffcv", "FFCV", "ffcv_loader", "ffcv", {"store": "jpg"}),
    Peer("dali", "DALI (CPU)", "dali_loader", "dali", {}),
    Peer("spdl", "SPDL", "spdl_loader", "spdl", {}),
    Peer("torchvision-v2", "torchvision.io + v2", "torchvision_loader", "torchvision", {"decoder": "torchvision"}),
    Peer("webdataset", "WebDataset", "webdataset_loader", "webdataset", {}),
    Peer("litdata", "LitData", "litdata_loader", "litdata", {}),
    Peer("mds", "MosaicML Streaming", "mds_loader", "mds", {}),
    Peer("torchvision-pil", "torchvision, PIL", "torchvision_loader", "torchvision", {"decoder": "pil"}),
    Peer("timm", "timm", "timm_loader", "timm", {}),
    Peer("turboloader", "TurboLoader", "turboloader_loader", "turboloader", {}),
    Peer("torchcodec", "TorchCodec + v2", "torchvision_loader", "torchcodec", {"decoder": "torchcodec"}),
    Peer("tfdata", "tf.data", "tfdata_loader", "tfdata", {}),
    Peer("hf", "Hugging Face datasets", "hf_loader", "hf", {}),
    Peer("ray", "Ray Data", "ray_loader", "ray", {}),
    # Without antialiasing a pixel is mixed from 4 of those under it, however many there are: cheaper, and grainy.
    Peer("dali-aliased", "DALI (CPU), not antialiased", "dali_loader", "dali", {"antialias": False}),
    Peer("tfdata-aliased", "tf.data, not antialiased", "tfdata_loader", "tfdata", {"antialias": False}),
    Peer(
        "turboloader-aliased",
        "TurboLoader, not antialiased",
        "turboloader_loader",
        "turboloader",
        {"antialias": False},
    ),
    Peer(
        "torchvision-v2-aliased",
        "torchvision.io + v2, not antialiased",
        "torchvision_loader",
        "torchvision",
        {"decoder": "torchvision", "antialias": False},
    ),
    Peer("alexnet-fast-resident", "alexnet-fast, resident", "ours_loader", "ours", {"backend": "resident"}),
    Peer(
        "alexnet-fast-plain",
        "alexnet-fast, not compiled",
        "ours_loader",
        "ours",
        {"backend": "torchvision", "compiled": "off"},
    ),
    Peer("ffcv-raw", "FFCV, stored decoded", "ffcv_loader", "ffcv", {"store": "raw"}),
    Peer("bare-decode", "bare libjpeg-turbo decode", "bare_decode", "ours", {}),
]
BY_NAME = {peer.name: peer for peer in PEERS}
OURS = "alexnet-fast"
LIMIT = "bare-decode"
AUGMENTED = (OURS, "ffcv", "torchvision-v2", "litdata")
PIXELS = ("alexnet-fast-resident", "ffcv-raw")  # they read pixels and decode nothing in an epoch


@dataclass(frozen=True)
class Case:
    """One table: a data set, the side of the crops and what is handed over."""

    data: str
    image_size: int
    output: str

    @classmethod
    def parse(cls, text: str) -> Case:
        try:
            data, size, output = text.rsplit("-", 2)
            if output not in OUTPUTS:
                raise ValueError
            return cls(data, int(size), output)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"a case is DATA-SIZE-OUTPUT, with an output of {', '.join(OUTPUTS)}, got {text!r}"
            ) from None

    def __str__(self) -> str:
        return f"{self.data}-{self.image_size}-{self.output}"


# ---------------------------------------------------------------------------------------------------------------------
# Environments and data


def setup(envs: Path, peers: Sequence[Peer]) -> None:
    """Make ENVS/NAME from benchmarks/peers/requirements-NAME.txt, each with the Python that runs this."""
    uv = shutil.which("uv")
    for name in dict.fromkeys(peer.env for peer in peers):
        folder = envs / name
        requirements = ["-r", str(ADAPTERS / f"requirements-{name}.txt")]
        if name == "ours":
            requirements += ["-e", f"{HERE.parent}[remote]"]
        if uv:
            subprocess.run([uv, "venv", "--allow-existing", "--python", sys.executable, str(folder)], check=True)
            install = [uv, "pip", "install", "--python", str(folder / "bin/python")]
        else:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(folder / "bin/python"), "-m", "pip", "install"]
        subprocess.run([*install, *requirements], check=True)
        later = ADAPTERS / f"requirements-{name}-no-isolation.txt"
        if later.exists():  # what must be built against the versions that were just installed
            subprocess.run([*install, "--no-build-isolation", "-r", str(later)], check=True)


def prepare(work: Path, name: str, source: Path, count: int | None, envs: Path, peers: Sequence[Peer]) -> None:
    """WORK/NAME: the images as class folders, their order, and each peer's own format."""
    data = work / name
    if not (data / "data.json").exists():
        lay_out(data, source, count)
    for peer in dict.fromkeys((peer.adapter, peer.env) for peer in peers):
        adapter, env = peer
        wanted = getattr(importlib.import_module(adapter), "FORMAT", None)
        if wanted is None or (data / wanted).exists():
            continue
        print(f"{name}: {wanted}", flush=True)
        begin = time.perf_counter()
        subprocess.run([*_python(envs, env), str(ADAPTERS / f"{adapter}.py"), "--data", data, "--prepare"], check=True)
        print(f"  {time.perf_counter() - begin:.1f} s", flush=True)


def lay_out(data: Path, source: Path, count: int | None) -> None:
    """Hard-link (or copy) images of `source`, a folder of class folders, into DATA/jpeg, and write their order.

    Images are taken from the classes in turn. Where more are wanted than there are, they are taken again.
    """
    from PIL import Image

    classes: dict[str, list[Path]] = {}
    left_out = 0
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in (".jpeg", ".jpg"):
            continue
        with Image.open(path) as image:
            if image.format != "JPEG" or image.mode not in ("RGB", "L"):
                left_out += 1
                continue
        classes.setdefault(path.relative_to(source).parts[0], []).append(path)
    rng = random.Random(0)
    for files in classes.values():
        rng.shuffle(files)
    turns = range(max(len(files) for files in classes.values()))
    found = [(name, files[turn]) for turn in turns for name, files in classes.items() if turn < len(files)]
    count = count or -(-len(found) // GROUP) * GROUP
    if count % GROUP:
        raise SystemExit(f"the number of images must be a multiple of {GROUP}, got {count}")
    records = [(*found[i % len(found)], i // len(found)) for i in range(count)]
    rng.shuffle(records)
    shutil.rmtree(data, ignore_errors=True)
    labels = {name: i for i, name in enumerate(sorted({name for name, _, _ in records}))}
    lines = []
    pixels = size = 0
    for name, path, again in records:
        target = data / "jpeg" / name / f"{again:02d}_{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)
        with Image.open(target) as image:
            pixels += image.width * image.height
        size += target.stat().st_size
        lines.append(f"{name}/{target.name}\t{labels[name]}\n")
    (data / "pictures.tsv").write_text("".join(lines))
    described = {
        "records": count,
        "distinct_pictures": min(count, len(found)),
        "classes": len(labels),
        "mean_bytes": round(size / count),
        "mean_pixels": round(pixels / count),
        "left_out_not_rgb_or_grey_jpeg": left_out,
    }
    (data / "data.json").write_text(json.dumps(described))


def expected_labels(data: Path) -> str:
    """The digest of the label counts that an epoch must show."""
    counts: dict[int, int] = {}
    for line in (data / "pictures.tsv").read_text().splitlines():
        label = int(line.rsplit("\t", 1)[1])
        counts[label] = counts.get(label, 0) + 1
    return histogram_digest([counts.get(i, 0) for i in range(max(counts) + 1)])


def _python(envs: Path, env: str) -> list[str]:
    return [str(envs / env / "bin/python")]


# ---------------------------------------------------------------------------------------------------------------------
# One run


class MemoryWatch:
    """Samples the memory of a process and all its descendants: proportional set size, so that shared pages count once.

    Pages of mapped files (libraries, LMDB, .beton: the page cache) are counted apart from what the processes own.
    """

    def __init__(self, pid: int, every: float = 0.5) -> None:
        self.peak_own = self.peak_all = 0
        self._pid = pid
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(self._every):
            own = everything = 0
            with suppress(psutil.Error):
                root = psutil.Process(self._pid)
                for process in [root, *root.children(recursive=True)]:
                    with suppress(OSError, psutil.Error):
                        rows = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
                        kib = {row.split(":")[0]: int(row.split()[1]) for row in rows}
                        own += kib["Pss_Anon"] + kib["Pss_Shmem"]
                        everything += kib["Pss"]
            self.peak_own = max(self.peak_own, own)
            self.peak_all = max(self.peak_all, everything)


def run_once(
    case: Case, peer: Peer, settings: Mapping[str, Any], *, envs: Path, work: Path, epochs: int, timeout: float
) -> dict[str, Any]:
    """One process of one peer; what it printed, and its memory. A failure is a row with the reason."""
    command = [
        *_python(envs, peer.env), str(ADAPTERS / f"{peer.adapter}.py"), "--data", str(work / case.data),
        "--image-size", str(case.image_size), "--output", case.output, "--epochs", str(epochs),
    ]  # fmt: skip
    for name, value in settings.items():
        command += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    begin = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    with MemoryWatch(child.pid) as memory:
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            err = f"ran past {timeout:.0f} s\n{err}"
    with suppress(ProcessLookupError):  # workers that outlive their parent would disturb the next run
        os.killpg(child.pid, signal.SIGKILL)
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    run: dict[str, Any] = {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 1),
        "wall_s": round(time.perf_counter() - begin, 2),
        "epochs": [_rounded(row) for row in rows if "epoch" in row],
        "peak_memory_mb": round(memory.peak_own / 1024),
        "peak_memory_with_files_mb": round(memory.peak_all / 1024),
    }
    started = next((row for row in rows if "versions" in row), {})
    run["versions"], run["settings"] = started.get("versions", {}), started.get("settings", dict(settings))
    if child.returncode or len(run["epochs"]) < epochs:
        reasons = err.strip().splitlines() or [f"exit code {child.returncode}"]
        reason = reasons[0] if reasons[0].startswith("ran past") else reasons[-1]
        run["error"] = reason.replace(str(work), "WORK").replace(str(envs), "ENVS")
        print(err[-3000:], file=sys.stderr)
    else:
        run["problems"] = problems(run, work / case.data, peer)
    return run


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def problems(run: Mapping[str, Any], data: Path, peer: Peer) -> list[str]:
    """Why this run did not do the work that was asked for."""
    records = json.loads((data / "data.json").read_text())["records"]
    found = [f"epoch {e['epoch']}: {e['pictures']} of {records}" for e in run["epochs"] if e["pictures"] != records]
    check = run["epochs"][0].get("check")
    if check is not None and check["labels"] != expected_labels(data):
        found.append("the labels of the first epoch are not those of the data set")
    return found


def rate(run: Mapping[str, Any]) -> float:
    """Median over the measured epochs of a run (the first is the warm-up), in images a second of the whole epoch.

    With the first batch apart, a loader whose workers each make a batch of their own would be favoured: with four of
    them, three more of an epoch's twelve batches are all but done by then (MosaicML Streaming: 1,370/s in that measure,
    where its CPU time allows 1,060/s on 2 cores).
    """
    return statistics.median(row["pictures"] / row["seconds"] for row in run["epochs"][1:])


# ---------------------------------------------------------------------------------------------------------------------
# The result file, tuning and rounds


def load(path: Path) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    return {"benchmark": "loaders", "environment": environment(), "cases": {}}


def save(path: Path, result: Mapping[str, Any]) -> None:
    aside = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(aside, path)


def environment() -> dict[str, Any]:
    """The machine, as it describes itself."""
    cpu = platform.processor() or platform.machine()
    flags: list[str] = []
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                flags = sorted(f for f in line.split(":", 1)[1].split() if f.startswith(("avx", "amx")))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "vector_extensions": flags,
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def entry(result: dict[str, Any], case: Case, work: Path) -> dict[str, Any]:
    described = json.loads((work / case.data / "data.json").read_text())
    return result["cases"].setdefault(str(case), {"data": described, "batch_size": 128, "peers": {}})


def candidates(peer: Peer, case: Case) -> dict[str, tuple[Any, ...]]:
    """The settings to try, name by name; the variant's own settings are not tried."""
    module = importlib.import_module(peer.adapter)
    found = dict(module.CANDIDATES)
    if case.output == "float":
        found |= module.FLOAT_CANDIDATES
    return {name: values for name, values in found.items() if name not in peer.fixed}


def descend(
    options: Mapping[str, tuple[Any, ...]], start: Mapping[str, Any], known: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """One setting after another, each at the best value found so far: (best settings, next ones to try or None)."""
    best = {**{name: values[0] for name, values in options.items()}, **start}
    for name, values in options.items():
        trials = [{**best, name: value} for value in dict.fromkeys((best[name], *values))]
        for trial in trials:
            if _key(trial) not in known:
                return best, trial
        best = max(trials, key=lambda trial: known[_key(trial)])
    return best, None


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


class Budget:
    """How long one may still go on; nothing is begun that is not expected to end in time."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        return 600.0 if self.end is None else self.end - time.monotonic()

    def allows(self, expected: float) -> bool:
        return self.end is None or self.left() > expected


def tune(args: argparse.Namespace) -> None:
    """Choose each peer's settings for a case by measuring its candidates, and write down all that was tried."""
    budget = Budget(args.seconds_budget)
    for case in args.case:
        for peer in applicable(args.peer, case):
            result = load(args.out)
            here = entry(result, case, args.work)["peers"].setdefault(peer.name, {})
            trials = here.setdefault("tuning", [])
            start = here.get("settings", {})
            if args.start_from is not None:
                start = result["cases"][str(args.start_from)]["peers"][peer.name]["settings"]
            options = candidates(peer, case)
            if args.only is not None:
                options = {name: values for name, values in options.items() if name in args.only}
            start = {name: value for name, value in start.items() if name in candidates(peer, case)}
            while True:
                known = {_key(t["settings"]): t["images_per_s"] for t in trials}
                best, trial = descend(options, start, known)
                here["settings"] = {**best, **peer.fixed}
                if trial is None:
                    break
                expected = max([t["wall_s"] for t in trials], default=20.0) * 1.2
                if not budget.allows(expected):
                    save(args.out, result)
                    print("the budget is spent; call again to go on")
                    return
                run = run_once(
                    case, peer, {**trial, **peer.fixed},
                    envs=args.envs, work=args.work, epochs=args.epochs, timeout=min(args.timeout, budget.left()),
                )  # fmt: skip
                speed = 0.0 if "error" in run or run["problems"] else rate(run)
                row = {"settings": trial, "images_per_s": round(speed, 1), "wall_s": run["wall_s"]}
                why = run.get("error") or "; ".join(run.get("problems", []))
                trials.append({**row, "failed": why} if why else row)
                print(f"{case} {peer.name} {trial} {speed:.0f}/s {why}", flush=True)
                save(args.out, result)
            save(args.out, result)
            print(f"{case} {peer.name} -> {here['settings']}", flush=True)


def applicable(peers: Sequence[Peer], case: Case) -> list[Peer]:
    """Decoded images are held where they are small and of one size; some peers take torchvision's transforms."""
    takes = [peer for peer in peers if case.output != "augmented" or peer.name in AUGMENTED]
    return [peer for peer in takes if peer.name not in PIXELS or case.data.startswith("tiny")]


def run(args: argparse.Namespace) -> None:
    """Rounds over the peers until each has its number of runs, or the budget is spent."""
    budget = Budget(args.seconds_budget)
    while True:
        result = load(args.out)
        todo = list(_todo(result, args))
        if not todo:
            return
        case, peer, here = min(todo, key=lambda item: len(item[2].get("runs", [])))
        earlier = here.get("runs", [])
        expected = max((r["wall_s"] for r in earlier), default=40.0) * 1.1
        if not budget.allows(expected):
            print("the budget is spent; call again to go on")
            return
        settings = here.get("settings") or {**_defaults(peer, case), **peer.fixed}
        row = run_once(
            case, peer, settings,
            envs=args.envs, work=args.work, epochs=args.epochs, timeout=min(args.timeout, budget.left()),
        )  # fmt: skip
        here["settings"] = settings
        here["versions"] = row.pop("versions") or here.get("versions", {})
        row.pop("settings")
        here.setdefault("runs", []).append(row)
        save(args.out, result)
        what = row.get("error") or f"{rate(row):.0f}/s {row['epochs'][0].get('check')} {'; '.join(row['problems'])}"
        print(f"{case} {peer.name} run {len(here['runs'])}: {what} ({row['wall_s']} s)", flush=True)


def _defaults(peer: Peer, case: Case) -> dict[str, Any]:
    return {name: values[0] for name, values in candidates(peer, case).items()}


def _todo(result: dict[str, Any], args: argparse.Namespace) -> Iterator[tuple[Case, Peer, dict[str, Any]]]:
    for case in args.case:
        here = entry(result, case, args.work)
        for peer in applicable(args.peer, case):
            if case.output == "float" and peer.name == LIMIT:
                continue  # it hands nothing over
            place = here["peers"].setdefault(peer.name, {})
            done = place.get("runs", [])
            if len(done) < args.rounds and sum("error" in r for r in done) < 2:
                yield case, peer, place


def _named(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not value:
        raise argparse.ArgumentTypeError(f"NAME=VALUE is wanted, got {text!r}")
    return name, value


def _epochs(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"2 or more are wanted, of which the first is a warm-up; got {text!r}")
    return int(text)


def _peer(text: str) -> Peer:
    if text not in BY_NAME:
        raise argparse.ArgumentTypeError(f"one of {', '.join(BY_NAME)} is wanted, got {text!r}")
    return BY_NAME[text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("setup", "prepare", "tune", "run"):
        sub = commands.add_parser(name)
        sub.add_argument("--envs", type=lambda p: Path(p).absolute(), required=True, help="folder of the environments")
        sub.add_argument("--peer", type=_peer, nargs="+", default=PEERS, help="only these")
        if name == "setup":
            continue
        sub.add_argument("--work", type=lambda p: Path(p).absolute(), required=True, help="folder of the prepared data")
        if name == "prepare":
            sub.add_argument("--source", type=_named, action="append", required=True, metavar="NAME=FOLDER")
            sub.add_argument("--images", type=_named, action="append", default=[], metavar="NAME=COUNT")
            continue
        sub.add_argument("--out", type=Path, required=True, help="the result file, made or added to")
        sub.add_argument("--case", type=Case.parse, nargs="+", required=True, metavar="DATA-SIZE-OUTPUT")
        sub.add_argument(
            "--epochs", type=_epochs, default=3 if name == "run" else 2, help="a run; the first is a warm-up"
        )
        sub.add_argument("--timeout", type=float, default=250.0, help="seconds a run may take")
        sub.add_argument("--seconds-budget", type=float, help="begin nothing that would end later")
        if name == "run":
            sub.add_argument(
                "--rounds", type=int, default=3, help="runs of each peer in each case, earlier ones included"
            )
        else:
            sub.add_argument("--start-from", type=Case.parse, metavar="CASE", help="begin at the settings chosen there")
            sub.add_argument("--only", nargs="+", metavar="SETTING", help="try these settings alone")
    args = parser.parse_args()
    if args.command in ("tune", "run") and importlib.util.find_spec("psutil") is None:
        parser.error("psutil, which watches the memory, is missing: run this with the Python of `make test`'s .venv")
    if args.command == "setup":
        setup(args.envs, args.peer)
    elif args.command == "prepare":
        counts = dict(args.images)
        for name, folder in args.source:
            count = int(counts[name]) if name in counts else None
            prepare(args.work, name, Path(folder).absolute(), count, args.envs, args.peer)
    elif args.command == "tune":
        tune(args)
    else:
        run(args)


if __name__ == "__main__":
    main()
