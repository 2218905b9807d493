"""Threads beside processes, at work that takes no core, so that what else runs here changes nothing."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable

import pytest

from alexnet_fast.bench.scaling import Work, measure_scaling

SECONDS = 0.004


def hold_the_gil(number: int, count: int) -> Work:
    sleep = ctypes.PyDLL(None).usleep  # PyDLL: the lock is kept during the call
    return lambda: sleep(int(SECONDS * 1e6))


def let_the_gil_go(number: int, count: int) -> Work:
    return lambda: time.sleep(SECONDS)


def die(number: int, count: int) -> Work:
    parent = os.getpid()

    def work() -> None:
        if multiprocessing.parent_process() is not None:
            os.kill(parent, signal.SIGKILL)
        time.sleep(SECONDS)

    return work


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize(("work", "threads"), [(hold_the_gil, 1), (let_the_gil_go, 3)])
def test_threads_and_processes_are_told_apart(context: str, work: Callable[[int, int], Work], threads: int) -> None:
    scaling = measure_scaling(work, 3, multiprocessing.get_context(context))
    assert scaling.threads == pytest.approx(threads, rel=0.35)
    assert scaling.processes == pytest.approx(3, rel=0.35)
    assert not multiprocessing.active_children()


def test_processes_that_die_leave_no_figure_and_no_hang() -> None:
    scaling = measure_scaling(die, 2, multiprocessing.get_context("fork"))
    assert scaling.processes is None
    assert scaling.threads > 1
