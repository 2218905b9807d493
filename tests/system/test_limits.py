"""Limits and surroundings that stop a command: each is named in a sentence, with what to raise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_fast.system import limit_behind

RUN = (sys.executable, "-m", "alexnet_fast")


def shell(script: str, *arguments: object, **settings) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script, "bash", *map(str, arguments)], capture_output=True, text=True,
        timeout=120, **settings,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is heeded on Linux alone")
def test_a_small_address_space_is_named(packed_small: Path, tmp_path: Path):
    script = 'ulimit -v 1000000; exec "$@"'
    done = shell(script, *RUN, "train", packed_small, "--run-dir", tmp_path / "run", "--max-steps", 1)
    assert done.returncode == 1
    assert "the address space of this process is limited to 1.0 GiB" in done.stderr and "ulimit -v" in done.stderr
    assert "fault" not in done.stderr and "Traceback" not in done.stderr


def test_a_working_folder_that_was_removed_is_named(packed_small: Path, tmp_path: Path):
    (tmp_path / "gone").mkdir()
    done = shell('cd "$1" && rmdir "$1" && shift && exec "$@"', tmp_path / "gone", *RUN, "verify", packed_small,
                 env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the working folder has been removed: go to another one (cd)\n"


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2>&- <&-"])
def test_closed_streams_stop_nothing(packed_small: Path, closed: str):
    done = shell(f'exec "$@" {closed}', *RUN, "verify", packed_small)
    assert done.returncode == 0
    assert done.stdout.startswith("sound:")


def test_rank_without_an_address_is_named(packed_small: Path, tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
    done = shell('exec "$@"', *RUN, "train", packed_small, "--run-dir", tmp_path / "run",
                 env={**env, "RANK": "0", "WORLD_SIZE": "2"})  # fmt: skip
    assert done.returncode == 2
    assert "RANK and WORLD_SIZE are set in the environment, but not MASTER_ADDR and MASTER_PORT" in done.stderr
    assert "torchrun" in done.stderr and "unset RANK" in done.stderr


def test_errors_that_are_no_limits_are_left_alone():
    assert limit_behind(ValueError("a number")) is None
    assert limit_behind(FileNotFoundError(2, "No such file", "here")) is None
    wrapped = RuntimeError("a library's own")
    wrapped.__cause__ = RuntimeError("can't start new thread")
    assert "no more processes or threads" in (limit_behind(wrapped) or "")
    assert "ulimit -n" in (limit_behind(OSError(24, "Too many open files")) or "")
