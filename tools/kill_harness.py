"""Kill pack, train and bench-loader with SIGKILL at random moments, go on, and compare with what was never killed.

    python tools/kill_harness.py --rounds pack=45,train=35,bench=9 --seed 0 --json benchmarks/results/kills-seed-0.json

A round runs one command over and over. Each run but the last is killed: at a random moment of its time, when a certain
file appears (a half-written shard, a checkpoint being written), or in the middle of a validation; the process itself or
one of its workers. The last run may finish. Then the outcome must equal that of a run nobody killed, and of all runs no
process, no shared memory and no temporary file may be left. The report is written after every round. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_GONE_WITHIN = 30.0
_KILLS_A_ROUND = 5
_ATTEMPTS = 8
# The moments that matter most: when these files appear.
_FILES = {
    "pack": [".*.partial", "*.index.npy", "*.lmdb", ".dataset.json.*", ".pack/*.json"],
    "train": [".last.pt.tmp", "last.pt", ".previous.pt.tmp", "previous.pt", ".metrics.jsonl.*", ".*.json.*"],
    "bench": ["*", ".*"],
}
_RANDOM, _VALIDATION = "a random moment", "during validation"
_CLOCKS = ("images_per_s", "data_wait", "seconds")  # of a row of metrics.jsonl: what no two runs have alike


@dataclass
class Outcome:
    """What came of the rounds of one command."""

    command: str
    rounds: int = 0
    kills: int = 0
    kills_of_workers: int = 0
    kills_at: dict[str, int] = field(default_factory=dict)
    finished_before_the_kill: int = 0
    lost: list[str] = field(default_factory=list)


class Awake:
    """Seconds that this process was awake: while all is stopped by SIGSTOP, nothing hangs."""

    def __init__(self) -> None:
        self.seconds, self._seen = 0.0, time.monotonic()

    def nap(self, seconds: float = 0.002) -> float:
        """Sleep a little; returns the seconds until now."""
        time.sleep(seconds)
        now = time.monotonic()
        self.seconds += min(now - self._seen, 1.0)
        self._seen = now
        return self.seconds


class Run:
    """One process of the command line; what it leaves behind when it ends becomes a child of this process.

    Args:
        arguments: of the command line.
        scratch: its folder for temporary files.
        forked: run in a copy of this process, which has imported torch: to import it again takes seconds, far more
            than what there is to kill.
    """

    def __init__(self, arguments: list[str], scratch: Path, *, forked: bool) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(arguments, scratch, self.log.fileno(), forked)

    def ended(self) -> bool:
        """Whether it has ended; its exit code is in `code` then."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def kill(self) -> None:
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)

    def descendants(self) -> list[int]:
        """Living processes that it started, and that those started."""
        found, waiting = [], [self.pid]
        while waiting:
            children = _children(waiting.pop())
            found += children
            waiting += children
        return found

    def end(self, patience: float = 300.0) -> tuple[int | None, str, int]:
        """(exit code, output, processes that outlived it). It is killed when it takes longer than `patience`."""
        awake = Awake()
        while not self.ended() and awake.seconds < patience:
            awake.nap()
        code = self.code
        self.kill()
        while not self.ended():
            awake.nap()
        awake = Awake()
        while (left := _orphans()) and awake.seconds < _GONE_WITHIN:
            awake.nap()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        self.log.close()
        return code, text, len(left)


def _become(arguments: list[str], scratch: Path, log: int, forked: bool) -> NoReturn:
    """The rest of a child's life."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(scratch.parent)
        os.environ |= {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
        if not forked:
            os.execv(sys.executable, [sys.executable, "-m", "alexnet_fast", *arguments])
        tempfile.tempdir = str(scratch)
        sys.argv[1:] = arguments
        from alexnet_fast.cli import main as command_line

        try:
            command_line()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _orphans() -> list[int]:
    """Living processes that were left to us."""
    living = []
    for pid in _children(os.getpid()):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                living.append(pid)
    return living


class Harness:
    """A scratch folder with what the commands need, and the rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.scratch = folder / "tmp"
        self.scratch.mkdir(parents=True)
        self.source = _make_source(folder / "source")
        self.data = folder / "reference"
        self.outcomes: dict[str, Outcome] = {}
        self._times: dict[str, float] = {}
        self._expected: dict[str, str] = {}

    def arguments(self, command: str, target: Path, workers: int) -> list[str]:
        if command == "pack":
            return ["pack", str(self.source), str(target), "--shard-bytes", "150kB", "--workers", str(workers)]
        if command == "train":
            return [
                "train", str(self.data), "--run-dir", str(target), "--resume", "--epochs", "2", "--batch-size", "16",
                "--image-size", "32", "--checkpoint-every", "3", "--recipe", "notebook", "--set", "width=0.0625",
                "--set", "ema=0.5", "--device", "cpu", "--precision", "fp32", "--num-workers", str(max(1, workers)),
                "--backend", "torchvision",
            ]  # fmt: skip
        return [
            "bench-loader", str(self.data), "--backend", "torchvision", "--num-workers", f"0,{max(1, workers)}",
            "--image-size", "32", "--batch-size", "16", "--seconds", "0.3", "--device", "cpu", "--out", str(target),
        ]  # fmt: skip

    def start(self, command: str, target: Path, workers: int) -> Run:
        return Run(self.arguments(command, target, workers), self.scratch, forked=command == "train")

    def prepare(self, command: str) -> None:
        """The run that nobody kills: how long it takes and what it leaves."""
        if command == "train":
            _import_the_trainer()
        if not self.data.exists():
            self._complete("pack", self.data)
        target = self.folder / f"{command}-untouched"
        begin = time.monotonic()
        self._complete(command, target)
        self._times[command] = time.monotonic() - begin
        self._expected[command] = _fingerprint(command, target)
        self._clear_scratch()

    def _complete(self, command: str, target: Path) -> None:
        code, text, left = self.start(command, target, 2).end()
        if code != 0 or left:
            raise SystemExit(f"{command} failed untouched: exit code {code}, left {left}\n{text}")

    def _clear_scratch(self) -> None:
        for path in self.scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def round(self, command: str) -> None:
        """Kill, go on, kill ..., finish, compare."""
        outcome = self.outcomes.setdefault(command, Outcome(command))
        outcome.rounds += 1
        target = self.folder / f"{command}-{outcome.rounds}"
        memory = set(os.listdir("/dev/shm"))
        workers = self.random.choice([1, 2, 3])
        what = f"{command} round {outcome.rounds}"
        # A round in which every kill came too late proves nothing: begun anew, so that one lands.
        before = outcome.kills
        for _ in range(_ATTEMPTS):
            for _ in range(self.random.randint(1, _KILLS_A_ROUND)):
                self._killed_run(command, target, workers, outcome, what)
            if outcome.kills > before:
                break
            shutil.rmtree(target, ignore_errors=True)
            self._clear_scratch()
        code, text, left = self.start(command, target, workers).end()
        lost = outcome.lost
        if code != 0 or _is_a_fault(text):
            lost.append(f"{what}: exit code {code} where it should have finished: {text[-2000:]}")
        elif (found := _fingerprint(command, target)) != self._expected[command]:
            lost.append(f"{what}: its outcome differs: {found} for {self._expected[command]}")
        if left:
            lost.append(f"{what}: {left} processes outlived it")
        if more := set(os.listdir("/dev/shm")) - memory:
            lost.append(f"{what}: left in /dev/shm: {sorted(more)}")
        if more := {p.name for p in self.scratch.iterdir() if not p.name.startswith("torchinductor")}:
            lost.append(f"{what}: left among temporary files: {sorted(more)}")
        if target.exists() and (more := {p.name for p in target.iterdir() if p.name.startswith(".")} - {".lock"}):
            lost.append(f"{what}: left in {target.name}: {sorted(more)}")
        shutil.rmtree(target, ignore_errors=True)
        self._clear_scratch()

    def _killed_run(self, command: str, target: Path, workers: int, outcome: Outcome, what: str) -> None:
        moment = self._choose_moment(command)
        delay = self.random.uniform(0.0, self._times[command] if moment == _RANDOM else 0.03)
        of_worker = self.random.random() < 0.35
        seen = _found(target, moment)
        run = self.start(command, target, workers)
        if not self._wait_for(run, moment, target, seen, 3 * self._times[command]):
            moment = _RANDOM  # it did not come: the command was past it
        awake = Awake()
        while not run.ended() and awake.seconds < delay:
            awake.nap()
        victims = run.descendants() if of_worker and not run.ended() else []
        if victims:
            try:
                os.kill(self.random.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                victims = []
        if run.ended():
            outcome.finished_before_the_kill += 1
        else:
            outcome.kills += 1
            outcome.kills_of_workers += bool(victims)
            outcome.kills_at[moment] = outcome.kills_at.get(moment, 0) + 1
            if not victims:
                run.kill()
        code, text, left = run.end()
        if code is None:
            outcome.lost.append(f"{what}: it did not end after a worker's death: {text[-2000:]}")
        elif victims and code not in (0, 1):
            outcome.lost.append(f"{what}: exit code {code} after a worker's death: {text[-2000:]}")
        if left:
            outcome.lost.append(f"{what}: {left} processes outlived the killed one")
        if _is_a_fault(text):
            outcome.lost.append(f"{what}: a fault: {text[-2000:]}")

    def _choose_moment(self, command: str) -> str:
        kind = self.random.random()
        if kind < 0.45:
            return _RANDOM
        if command == "train" and kind < 0.7:
            return _VALIDATION
        return self.random.choice(_FILES[command])

    def _wait_for(self, run: Run, moment: str, target: Path, seen: set[tuple[str, int]], patience: float) -> bool:
        """Wait until the moment is there; False where the run ended or grew too old before."""
        awake = Awake()
        while not run.ended() and awake.seconds < patience:
            if moment == _RANDOM:
                return True
            if moment == _VALIDATION:
                if _has_open(run.pid, str(self.data / "val-")):
                    return True
            elif _found(target, moment) - seen:
                return True
            awake.nap()
        return False


def _found(target: Path, pattern: str) -> set[tuple[str, int]]:
    """Names and inodes: a file that took another's place is a new one."""
    found = set()
    with contextlib.suppress(OSError):
        for path in target.glob(pattern):
            found.add((path.name, path.stat().st_ino))
    return found


def _is_a_fault(text: str) -> bool:
    return "Traceback" in text or "a fault in alexnet-fast" in text


def _has_open(pid: int, prefix: str) -> bool:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()).startswith(prefix):
                    return True
    return False


def _import_the_trainer() -> None:
    import torch._dynamo

    import alexnet_fast.plots
    import alexnet_fast.training.run  # noqa: F401

    with contextlib.suppress(ImportError):
        import torch.utils.tensorboard  # noqa: F401


def _make_source(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 12)):
        for label in range(4):
            place = folder / split / f"n{label:08d}"
            place.mkdir(parents=True)
            for number in range(count):
                buffer = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (48, 40 + number, 3), np.uint8)).save(buffer, "JPEG")
                (place / f"{number}.JPEG").write_bytes(buffer.getvalue())
    return folder


def _fingerprint(command: str, target: Path) -> str:
    """SHA-256 of what a command leaves, without clocks."""
    digest = hashlib.sha256()
    if command == "pack":
        from alexnet_fast.dataset import ShardReader, read_dataset_info

        info = read_dataset_info(target)
        digest.update(json.dumps([asdict(c) for c in info.classes], sort_keys=True).encode())
        digest.update(json.dumps(dict(info.packing), sort_keys=True).encode())
        for split in info.splits:
            reader = ShardReader(target, split)
            for record, image in enumerate(reader.read_many(range(len(reader)))):
                digest.update(f"{split} {record} {reader.key(record)} {reader.labels[record]} {len(image)} ".encode())
                digest.update(image)
            reader.close()
    elif command == "train":
        from alexnet_fast.training.checkpoint import load_checkpoint

        for path in (target / "last.pt", target / "best.pt"):
            state = load_checkpoint(path)
            for name in ("model", "ema", "optimizer", "scaler", "order", "sums", "plateau", "step", "epoch"):
                _digest(state[name], digest)
        for line in (target / "metrics.jsonl").read_text().splitlines():
            digest.update(json.dumps([(k, v) for k, v in json.loads(line).items() if k not in _CLOCKS]).encode())
        digest.update(" ".join(sorted(p.name for p in target.iterdir() if not p.name.startswith("."))).encode())
    else:
        rows = json.loads((target / "bench-loader.json").read_text())["rows"]
        # Settings that were measured, however many workers the round had.
        digest.update(json.dumps([(r["backend"], r["batch_size"], r["status"]) for r in rows], sort_keys=True).encode())
        digest.update(" ".join(sorted(p.name for p in target.iterdir() if not p.name.startswith("."))).encode())
    return digest.hexdigest()


def _digest(value: Any, digest: Any) -> None:
    """Take in nested dicts and lists of tensors and plain values, every bit of them."""
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            digest.update(f"{name}:".encode())
            _digest(value[name], digest)
    elif isinstance(value, (list, tuple)):
        for element in value:
            _digest(element, digest)
    elif hasattr(value, "numpy"):
        digest.update(value.contiguous().numpy().tobytes())
    else:
        digest.update(repr(value).encode())


def _environment() -> dict[str, object]:
    from alexnet_fast.system import cpu_name

    return {
        "cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "lmdb", "pillow")},
    }  # fmt: skip


def _with_memory_of_our_own() -> None:
    """Where that may be done: start over with a /dev/shm that no other program uses, so that ours is seen in it."""
    if os.environ.pop("KILL_HARNESS_UNSHARED", None):
        subprocess.run(["mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)
        return
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() == 0 and shutil.which("unshare"):
        probe = [*unshare, "mount", "-t", "tmpfs", "none", "/dev/shm"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            os.environ["KILL_HARNESS_UNSHARED"] = "1"
            os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


def _adopt_orphans() -> None:
    import ctypes

    PR_SET_CHILD_SUBREAPER = 36
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit("this kernel cannot hand orphans to a process: no orphan would be seen")


def _in_turns(rounds: str) -> list[str]:
    """The command of each round, so mixed that a run which is ended early has tried all of them."""
    places = []
    for part in rounds.split(","):
        command, _, count = part.partition("=")
        places += [((number + 0.5) / int(count), command) for number in range(int(count))]
    return [command for _, command in sorted(places)]


def main() -> int:
    """Run the rounds asked for; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default="pack=5,train=1,bench=1", help="command=rounds, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="written anew after every round")
    options = parser.parse_args()
    _with_memory_of_our_own()
    _adopt_orphans()
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder) / "harness", options.seed)
        for command in _in_turns(options.rounds):
            if command not in harness.outcomes:
                harness.prepare(command)
            harness.round(command)
            result = {
                "rounds": options.rounds,
                "seed": options.seed,
                "environment": _environment(),
                "commands": [asdict(outcome) for outcome in harness.outcomes.values()],
            }
            text = json.dumps(result, indent=2)
            if options.json:
                options.json.write_text(text + "\n")
    print(text)
    return int(any(outcome.lost for outcome in harness.outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
