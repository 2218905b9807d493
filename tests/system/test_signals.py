"""Ctrl-C and SIGTERM in real processes: the line at once, and an end whatever the main thread is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import os, signal, sys, threading, time
from alexnet_fast.system import StopSignals
"""


def run(script: str, *numbers: int) -> tuple[int, str, list[str]]:
    """(exit code, output, errors) of a script that gets each signal when it has said "ready"."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", HEAD + script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        for number in numbers:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors.splitlines()


def test_the_main_thread_gets_ctrl_c_for_either():
    script = """
with StopSignals(answer="stopping now") as stops:
    try:
        print("ready")
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)  # the line comes from another thread
        print("received", stops.received)
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        code, output, errors = run(script, number)
        assert (code, output) == (0, f"received {int(number)}\n")
        assert errors == [f"{number.name}: stopping now"]


def test_a_gentle_one_leaves_it_to_the_main_thread_until_the_second_ctrl_c():
    script = """
with StopSignals(answer="after this step") as stops:
    stops.gentle = True
    print("ready")
    while not stops.received:
        time.sleep(0.01)
    try:
        print("ready")
        time.sleep(60)
    except KeyboardInterrupt:
        print("at once")
"""
    code, output, errors = run(script, signal.SIGTERM, signal.SIGINT)
    assert (code, output, errors) == (0, "at once\n", ["SIGTERM: after this step"])


@pytest.mark.slow
def test_a_main_thread_that_does_not_listen_is_ended_with_what_was_kept():
    script = """
def keep(number):
    print("kept")
    return f"stopped by {number}, kept"

with StopSignals(ends_process=True), StopSignals() as stops:  # the inner one follows the outer
    stops.gentle, stops.last_words = True, keep
    print("ready")
    threading.Event().wait()
"""
    code, output, errors = run(script, signal.SIGTERM)
    assert (code, output) == (143, "kept\n")
    assert errors == ["SIGTERM: stopping", "error: stopped by 15, kept"]


def test_a_process_that_is_not_ours_is_not_ended():
    script = """
with StopSignals() as stops:
    stops.gentle = True
    print("ready")
    while not stops.received:
        time.sleep(0.01)
    time.sleep(2.5)
print("goes on", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""
    assert run(script, signal.SIGTERM)[:2] == (0, "goes on True\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_speaks_for_itself_alone():
    script = """
with StopSignals() as stops:
    stops.gentle = True
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(7)
    os.kill(child, signal.SIGTERM)  # a run's worker waits for its parent's word
    time.sleep(0.2)
    assert not stops.received
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    stops.gentle = False
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(7)
    os.kill(child, signal.SIGTERM)
    print(os.waitpid(child, 0)[1] == signal.SIGTERM, stops.received)
"""
    assert run(script) == (0, "True 0\n", [])
