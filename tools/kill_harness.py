"""Kill pack, train and bench-loader with SIGKILL at random moments, go on, and compare with what was never killed.

    python tools/kill_harness.py --rounds pack=40,train=10,bench=5 --seed 0 --json result.json

A round runs one command over and over. Each run but the last is killed: at a random moment of its time, or at the
moment when a certain file appears (a half-written shard, a checkpoint being written), the process itself or one of its
workers. The last run may finish. Then the outcome must equal that of a run nobody killed, and of all runs no process,
no shared memory and no temporary file may be left. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
_GONE_WITHIN = 15.0
_KILLS_A_ROUND = 4
# The moments that matter most: when these files appear.
_FILES = {
    "pack": [".*.partial", "*.index.npy", "*.lmdb", ".dataset.json.*", ".pack/*.json"],
    "train": [".last.pt.tmp", "last.pt", "previous.pt", "best.pt", ".metrics.jsonl.*", "metrics.jsonl"],
    "bench": ["*"],
}


@dataclass
class Outcome:
    """What came of the rounds of one command."""

    command: str
    rounds: int = 0
    kills: int = 0
    kills_of_workers: int = 0
    kills_at_a_file: dict[str, int] = field(default_factory=dict)
    finished_before_the_kill: int = 0
    lost: list[str] = field(default_factory=list)


class Run:
    """One process of the command line, all its descendants findable by a mark in their environment."""

    def __init__(self, arguments: list[str], scratch: Path) -> None:
        self.mark = f"KILL_HARNESS={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        environment = {**os.environ, name: value, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "alexnet_fast", *arguments],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env=environment, cwd=scratch.parent,
        )  # fmt: skip

    def descendants(self) -> list[int]:
        """Living processes with our mark, the first one not among them."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != self.process.pid:
                try:
                    if self.mark.encode() in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                        found.append(int(entry))
                except OSError:
                    continue
        return found

    def end(self) -> tuple[int, str, list[int]]:
        """(exit code, output, processes that outlived it)."""
        code = self.process.wait(120)
        until = time.monotonic() + _GONE_WITHIN
        while (left := self.descendants()) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        self.log.close()
        return code, text, left


class Bench:
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
                "--image-size", "32", "--checkpoint-every", "3", "--set", "width=0.0625", "--recipe", "notebook",
                "--device", "cpu", "--precision", "fp32", "--num-workers", str(max(1, workers)), "--backend",
                "torchvision",
            ]  # fmt: skip
        return [
            "bench-loader", str(self.data), "--backend", "torchvision", "--num-workers", f"0,{max(1, workers)}",
            "--image-size", "32", "--batch-size", "16", "--seconds", "0.3", "--device", "cpu", "--out", str(target),
        ]  # fmt: skip

    def prepare(self, command: str) -> None:
        """The run that nobody kills: how long it takes and what it leaves."""
        if not self.data.exists():
            self._complete("pack", self.data)
        target = self.folder / f"{command}-untouched"
        begin = time.monotonic()
        self._complete(command, target)
        self._times[command] = time.monotonic() - begin
        self._expected[command] = _fingerprint(command, target)

    def _complete(self, command: str, target: Path) -> None:
        code, text, left = Run(self.arguments(command, target, 2), self.scratch).end()
        if code != 0 or left:
            raise SystemExit(f"{command} failed untouched: exit code {code}, left {left}\n{text}")

    def round(self, command: str) -> None:
        """Kill, go on, kill ..., finish, compare."""
        outcome = self.outcomes.setdefault(command, Outcome(command))
        outcome.rounds += 1
        target = self.folder / f"{command}-{outcome.rounds}"
        memory = set(os.listdir("/dev/shm"))
        workers = self.random.choice([1, 2, 3])
        what = f"{command} round {outcome.rounds}"
        for _ in range(self.random.randint(1, _KILLS_A_ROUND)):
            self._killed_run(command, target, workers, outcome, what)
        code, text, left = Run(self.arguments(command, target, workers), self.scratch).end()
        lost = outcome.lost
        if code != 0 or "Traceback" in text:
            lost.append(f"{what}: exit code {code} where it should have finished: {text[-2000:]}")
        elif (found := _fingerprint(command, target)) != self._expected[command]:
            lost.append(f"{what}: its outcome differs: {found} for {self._expected[command]}")
        if left:
            lost.append(f"{what}: {len(left)} processes outlived it")
        if more := set(os.listdir("/dev/shm")) - memory:
            lost.append(f"{what}: left in /dev/shm: {sorted(more)}")
        if more := [p.name for p in self.scratch.iterdir() if not p.name.startswith("torchinductor")]:
            lost.append(f"{what}: left among temporary files: {sorted(more)}")
        if command == "pack" and (more := [p.name for p in target.iterdir() if p.name.startswith(".")]):
            lost.append(f"{what}: left in DATASET: {sorted(more)}")
        shutil.rmtree(target, ignore_errors=True)
        for path in self.scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _killed_run(self, command: str, target: Path, workers: int, outcome: Outcome, what: str) -> None:
        moment = self.random.uniform(0.0, 1.1 * self._times[command])
        pattern = self.random.choice(_FILES[command]) if self.random.random() < 0.5 else None
        of_worker = self.random.random() < 0.3
        seen = set(target.glob(pattern)) if pattern and target.exists() else set()
        run = Run(self.arguments(command, target, workers), self.scratch)
        begin = time.monotonic()
        while run.process.poll() is None:
            elapsed = time.monotonic() - begin
            if elapsed >= (moment if pattern is None else 1.5 * self._times[command]):
                break
            if pattern is not None and target.exists() and set(target.glob(pattern)) - seen:
                outcome.kills_at_a_file[pattern] = outcome.kills_at_a_file.get(pattern, 0) + 1
                break
            if elapsed > 3 * self._times[command] + 60:
                outcome.lost.append(f"{what}: it hung")
                break
            time.sleep(0.001)
        alive = run.process.poll() is None
        victims = run.descendants() if of_worker and alive else []
        if victims:
            try:
                os.kill(self.random.choice(victims), signal.SIGKILL)
                outcome.kills_of_workers += 1
            except ProcessLookupError:
                victims = []
        if not victims:
            run.process.kill()
        outcome.kills += alive
        outcome.finished_before_the_kill += not alive
        try:
            code, text, left = run.end()
        except subprocess.TimeoutExpired:
            run.process.kill()
            outcome.lost.append(f"{what}: it did not end within two minutes of a worker's death")
            return
        if left:
            outcome.lost.append(f"{what}: {len(left)} processes outlived the killed one")
        if "Traceback" in text:
            outcome.lost.append(f"{what}: a traceback: {text[-2000:]}")
        if victims and code not in (0, 1):
            outcome.lost.append(f"{what}: exit code {code} after a worker's death: {text[-2000:]}")


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
        from alexnet_fast.shards import ShardReader, read_dataset_info

        info = read_dataset_info(target)
        digest.update(json.dumps([asdict(c) for c in info.classes], sort_keys=True).encode())
        digest.update(json.dumps(dict(info.packing), sort_keys=True).encode())
        for split in info.splits:
            reader = ShardReader(target, split)
            for record, picture in enumerate(reader.read_many(range(len(reader)))):
                digest.update(f"{split} {record} {reader.key(record)} {reader.labels[record]} {len(picture)} ".encode())
                digest.update(picture)
            reader.close()
    elif command == "train":
        from alexnet_fast.checkpoint import load_checkpoint

        state = load_checkpoint(target / "last.pt")
        for name, tensor in sorted(state["model"].items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        for line in (target / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            clocks = ("images_per_s", "data_wait", "seconds")
            digest.update(json.dumps([(k, v) for k, v in row.items() if k not in clocks]).encode())
    else:
        rows = json.loads((target / "bench-loader.json").read_text())["rows"]
        digest.update(
            json.dumps(sorted((row["backend"], row["batch_size"], row["status"]) for row in rows)[:2]).encode()
        )
    return digest.hexdigest()


def main() -> int:
    """Run the rounds asked for; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default="pack=5,train=1,bench=1", help="command=rounds, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no round after so long")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "harness", options.seed)
        for part in options.rounds.split(","):
            command, _, count = part.partition("=")
            bench.prepare(command)
            for _ in range(int(count)):
                if time.monotonic() - begin > options.seconds:
                    break
                bench.round(command)
    result = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - begin, 1),
        "commands": [asdict(outcome) for outcome in bench.outcomes.values()],
    }
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    return int(any(outcome.lost for outcome in bench.outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
