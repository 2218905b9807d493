"""Training in real processes: killed, asked to stop, and several at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from alexnet_fast import cli
from alexnet_fast.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = ["--image-size", "32", "--set", "width=0.0625", "--set", "ema=0.5", "--num-workers", "1", "--device", "cpu"]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def command(dataset: Path, run: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "alexnet_fast", "train", str(dataset), "--run-dir", str(run), "--epochs", "3",
        "--batch-size", "8", "--checkpoint-every", "1", *SMALL, *more,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.fixture
def train_here(monkeypatch, capsys):
    """Runs a command in this process, which saves the start of another; returns (exit code, output, errors)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as OMP_NUM_THREADS says to the others: sums must be split alike

    def run(arguments: list[str]) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["alexnet-fast", *arguments[3:]])
        code = cli._run()
        return code, *capsys.readouterr()

    yield run
    torch.set_num_threads(threads)


def finish(process: subprocess.Popen[str], seconds: float = 180) -> tuple[int, str, str]:
    """(exit code, output, errors), with the pipes closed."""
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of that step or later lies there; the process may end meanwhile."""
    while process.poll() is None:
        if (run / "last.pt").exists() and load_checkpoint(run / "last.pt")["step"] >= step:
            return
        time.sleep(0.005)


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, state and metrics bit for bit."""
    ends = [load_checkpoint(run / "last.pt") for run in (one, other)]
    for name in ("model", "ema", "optimizer", "scaler", "order", "sums", "plateau", "step"):
        assert same(ends[0][name], ends[1][name]), name
    rows = [rows_of(run) for run in (one, other)]
    for a, b in zip(*rows, strict=True):
        for name in ("epoch", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "lr"):
            assert a[name] == b[name]


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(packed_small, tmp_path, train_here, number, code):
    run = tmp_path / "run"
    process = start(command(packed_small, run, "--epochs", "500"))
    wait_for_step(run, 3, process)
    process.send_signal(number)
    ended, _, errors = finish(process)
    assert ended == code
    assert "Traceback" not in errors and f"stopped by {number.name} after step" in errors
    assert f"--run-dir {run}" in errors and errors.rstrip().endswith("--resume")
    assert load_checkpoint(run / "last.pt")["step"] >= 3
    go_on = errors.rstrip().split("go on with: alexnet-fast ")[1].split()
    ended, output, errors = train_here(["python", "-m", "alexnet_fast", *go_on, "--max-steps", "1"])
    assert ended == 0, errors
    assert "going on from last.pt" in output


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose cores here")
def test_a_core_that_others_eat_is_named_once(packed_small, tmp_path):
    core = min(os.sched_getaffinity(0))
    eater = start([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    try:
        code, output, errors = finish(
            start(["taskset", "-c", str(core), *command(packed_small, tmp_path / "run", "--epochs", "1")])
        )
    finally:
        eater.kill()
        eater.communicate()
    assert code == 0, errors
    assert output.count("of the cores, and training waits for them.") == 1
    assert "OMP_WAIT_POLICY" not in output  # one thread waits for no other


def torchrun(processes: int, arguments: list[str], *options: str) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    return start([sys.executable, *launcher, *options, *arguments[1:]])


# No dropout: its masks are drawn per process. No batch norm: each process normalises over its own half.
# At a rate of 0.005 a rounding error can decide which of two equal pixels a pool takes, and the losses part.
ALIKE = ["--set", "dropout=0", "--precision", "fp32", "--recipe", "paper", "--lr", "0.002", "--model", "alexnet"]


@pytest.fixture(scope="module")
def run_of_two(packed_small, tmp_path_factory) -> Path:
    """A run of two processes, begun and ended without disturbance."""
    run = tmp_path_factory.mktemp("two") / "run"
    code, output, errors = finish(torchrun(2, command(packed_small, run, *ALIKE)))
    assert code == 0, errors
    assert output.count("next: alexnet-fast evaluate") == 1  # one rank speaks
    return run


@pytest.mark.slow
def test_two_processes_follow_the_losses_of_one(packed_small, run_of_two, tmp_path, train_here):
    alone = tmp_path / "one"
    code, _, errors = train_here(command(packed_small, alone, *ALIKE))
    assert code == 0, errors
    for one, both in zip(rows_of(alone), rows_of(run_of_two), strict=True):
        assert both["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert both["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)
        assert both["val_top1"] == pytest.approx(one["val_top1"], abs=1.01 / 23)
    weights = [load_checkpoint(run / "last.pt")["model"] for run in (alone, run_of_two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_one_process_under_torchrun_is_a_group_of_one(packed_small, tmp_path, train_here):
    """It goes the way of many, so that a computer with one GPU shows what many will do."""
    runs = [tmp_path / "alone", tmp_path / "joined"]
    code, _, errors = train_here(command(packed_small, runs[0], *ALIKE, "--epochs", "1"))
    assert code == 0, errors
    code, _, errors = finish(torchrun(1, command(packed_small, runs[1], *ALIKE, "--epochs", "1")))
    assert code == 0, errors
    weights = [load_checkpoint(run / "last.pt")["model"] for run in runs]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds torchrun's processes in /proc")
def test_a_killed_rank_brings_all_back_to_the_checkpoint_and_one_process_can_end_the_run(
    packed_small, run_of_two, tmp_path, train_here
):
    run = tmp_path / "run"
    both = torchrun(2, command(packed_small, run, *ALIKE, "--resume"), "--max-restarts", "1")
    wait_for_step(run, 4, both)
    os.kill(children_of(both.pid)[-1], signal.SIGKILL)
    code, output, errors = finish(both)
    assert code == 0, errors
    assert "another process of this run has ended" in errors and "Traceback" not in errors
    assert "going on from last.pt" in output
    assert_same_end(run, run_of_two)
    # What two began one goes on with.
    code, output, errors = train_here(command(packed_small, run, *ALIKE, "--resume"))
    assert code == 0 and "going on from last.pt" in output, errors


def children_of(parent: int) -> list[int]:
    """Processes by age."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it has ended
            continue
        if int(text.rpartition(")")[2].split()[1]) == parent:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_a_refusal_under_torchrun_ends_all_processes(packed_small, tmp_path):
    both = torchrun(2, command(packed_small, tmp_path / "run", "--batch-size", "7"))
    code, _, errors = finish(both)
    assert code != 0
    assert "does not divide over 2 processes" in errors
