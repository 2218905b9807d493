"""Calls in a process of its own: results, errors, messages, crashes, hangs, and an end with the parent."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_fast.errors import DamagedDataError, WorkerError
from alexnet_fast.system import Child, ChildError, WorkerPool, report_progress, send_message

HERE = str(Path(__file__).parent)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


# What is called within children.


def count_up(last):
    for i in range(last):
        send_message(i)
    return "done"


def print_and_read():
    print("this must not get between the frames", flush=True)
    return sys.stdin.read()


def fail(kind):
    raise kind("what is wrong, where, what to do")


class Unsendable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def fail_unsendably():
    raise Unsendable(1, 2)


def die(signal_number):
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal_number)


def exit_code(code):
    os._exit(code)


def start_a_sleeper(then):
    """A grandchild that holds all pipes open, told by its process id."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    send_message(pid)
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def stop_after_a_message():
    send_message("ready")
    os.kill(os.getpid(), signal.SIGSTOP)


def work(count):
    report_progress(count)
    return os.getpid()


# The tests.


def test_a_call_gives_its_result_and_its_messages():
    heard = []
    with Child() as child:
        assert child.call(math.gcd, 12, 18) == 6
        assert child.call(count_up, 3, on_message=heard.append) == "done"
        assert child.call(os.getpid) == child.pid != os.getpid()
        assert child.call(len, b"x" * 3_000_000) == 3_000_000
        assert len(child.call(bytes, 3_000_000)) == 3_000_000
    assert heard == [0, 1, 2]
    assert not alive(child.pid)


def test_what_a_call_prints_and_reads_is_not_the_pipes(capfd):
    with Child() as child:
        assert child.call(print_and_read) == ""
        assert child.call(math.gcd, 2, 4) == 2
    assert "between the frames" in capfd.readouterr().err


def test_errors_come_back_as_they_are_with_the_traceback_of_foreign_ones():
    with Child() as child:
        with pytest.raises(DamagedDataError, match="what is wrong, where"):
            child.call(fail, DamagedDataError)
        with pytest.raises(ZeroDivisionError) as raised:
            child.call(fail, ZeroDivisionError)
        assert "in fail" in str(raised.value.__cause__)
        with pytest.raises(WorkerError, match="Unsendable: 1"):
            child.call(fail_unsendably)
        assert child.call(math.gcd, 2, 4) == 2


def test_a_crash_is_an_error_that_says_how():
    with Child(keep_stderr=True) as child, pytest.raises(ChildError, match=r"\(killed by SIGSEGV: the last words\)"):
        child.call(die, signal.SIGSEGV)
    with Child() as child:
        with pytest.raises(ChildError, match="exit code 3") as raised:
            child.call(exit_code, 3)
        assert raised.value.how == "exit code 3"
        with pytest.raises(ChildError, match="exit code 3"):
            child.call(math.gcd, 2, 4)


def test_a_crash_is_seen_though_what_it_started_holds_the_pipe_and_that_is_ended_too():
    heard = []
    with Child() as child, pytest.raises(ChildError, match="killed by SIGKILL, perhaps for want of memory"):
        child.call(start_a_sleeper, "die", on_message=heard.append)
    assert wait_until(lambda: not alive(heard[0]))


def test_a_hung_child_is_ended():
    begin = time.monotonic()
    with Child() as child, pytest.raises(ChildError, match=r"hung: nothing happened for [12] s \(after 'ready'\)"):
        child.call(stop_after_a_message, timeout=1)
    assert time.monotonic() - begin < 30
    assert not alive(child.pid)


@pytest.mark.parametrize("how", ["killed", "at its end"])
def test_children_and_all_they_started_end_with_their_parent(how):
    script = (
        f"import sys, threading; sys.path.insert(0, {HERE!r})\n"
        "import test_child\nfrom alexnet_fast.system import Child\n"
        "child = Child()\n"
        "def note(pid): print(child.pid, pid, flush=True)\n"
        "threading.Thread(target=child.call, args=(test_child.start_a_sleeper, 'stay'),"
        " kwargs={'on_message': note}, daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    try:
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        if how == "killed":
            parent.kill()
        parent.communicate("", timeout=30)
        assert wait_until(lambda: not any(alive(pid) for pid in pids))
    finally:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def test_children_start_where_stderr_is_closed():
    code = "from alexnet_fast.system import Child\nimport math\nwith Child() as c: print(c.call(math.gcd, 4, 6))"
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "2\n")


@pytest.mark.parametrize(("count", "threads"), [(2, False), (2, True), (0, False)])
def test_a_pool_carries_out_tasks_in_order_and_counts_progress(count, threads):
    done = []
    with WorkerPool(count, on_progress=done.append) as pool:
        if threads:
            pool.stay_here(count)
        pids = set(pool.map(work, [(i,) for i in range(20)]))
    assert sorted(done) == list(range(20))
    assert (os.getpid() in pids) == (threads or not count)
    assert len(pids) <= max(1, count)


def test_a_pool_gives_the_error_of_a_task_and_goes_on():
    with WorkerPool(1) as pool:
        failed, fine = pool.submit(fail, DamagedDataError), pool.submit(math.gcd, 4, 6)
        with pytest.raises(DamagedDataError):
            failed.result()
        assert fine.result() == 2


def test_a_worker_that_dies_ends_the_pools_work():
    with WorkerPool(1) as pool:
        died, after = pool.submit(die, signal.SIGKILL), pool.submit(math.gcd, 4, 6)
        for future in (died, after):
            with pytest.raises(WorkerError, match=r"ended before its work did \(killed by SIGKILL"):
                future.result()
