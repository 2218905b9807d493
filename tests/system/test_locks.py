"""Locks on files: held by one process, given up at its end, and said to be missing where the file system has none."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import pytest

from alexnet_fast.system import FileLock, LockedError

HOLD = (
    "import sys; from pathlib import Path; from alexnet_fast.system import FileLock\n"
    "lock = FileLock(Path(sys.argv[1])); print(lock.guards, flush=True); sys.stdin.read()"
)
# The answer of a file system without locks, and of one whose lock server does not answer.
SHIM = "#include <errno.h>\nint flock(int fd, int operation) {{ errno = {}; return -1; }}\n"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path, holder):
    with pytest.raises(LockedError) as refused:
        FileLock(tmp_path / "lock")
    assert refused.value.holder == str(holder.pid)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with FileLock(tmp_path / "lock") as lock:
        assert lock.guards


def test_a_lock_that_was_given_up_can_be_taken_again_though_its_file_is_new(tmp_path):
    first = FileLock(tmp_path / "lock")
    (tmp_path / "lock").unlink()
    second = FileLock(tmp_path / "lock")
    first.close()
    with pytest.raises(LockedError):
        FileLock(tmp_path / "lock")
    second.close()
    FileLock(tmp_path / "lock").close()


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="needs gcc and LD_PRELOAD")
@pytest.mark.parametrize(("number", "words"), [("ENOSYS", "not implemented"), ("ENOLCK", "No locks available")])
def test_a_file_system_without_locks_is_named_and_used(tmp_path, number, words):
    (tmp_path / "shim.c").write_text(SHIM.format(number))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        env={"LD_PRELOAD": str(tmp_path / "shim.so"), "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
    assert f"{tmp_path} lies on a file system without locks" in done.stderr and words in done.stderr
    assert done.stderr.count("\n") == 1
