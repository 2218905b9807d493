"""Threads beside processes at the same work: what threads wait for each other inside Python shows as the difference.

How often a thread waits for Python's lock (the GIL) cannot be asked for. What else slows several threads down, such as
cores that other programs take, memory, or a clock that falls with the load, slows as many processes down too, so the
two are run in turns, a fraction of a second each, and compared with each other.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_ROUNDS = 5
_SLICE_SECONDS = 0.15  # of each round, for each of the three
_SETTLE_SECONDS = 0.03  # before each slice counts
_START_SECONDS = 120.0  # that processes may take to start
_WAITING, _WORKING, _ENDED = 0, 1, 2

Work = Callable[[], None]  # does one item of work
MakeWork = Callable[[int, int], Work]  # for number n of so many


@dataclass(frozen=True)
class Scaling:
    """How many times the rate of one thread so many reach; None where they could not be run.

    Attributes:
        threads: of one process.
        processes: each with one thread.
    """

    threads: float
    processes: float | None


def measure_scaling(make_work: MakeWork, count: int, context: Any) -> Scaling:
    """Rates of `count` threads and of `count` processes over the rate of one thread, medians over short rounds.

    Args:
        make_work: called in each thread and each process; must survive pickling where `context` spawns.
        count: threads, and processes; two at least.
        context: multiprocessing context of the processes.
    """
    with contextlib.ExitStack() as stack:
        # Processes first: they may be forked, and that is safe while no other thread runs.
        processes = stack.enter_context(_team(context.Process, make_work, count, context))
        threads = stack.enter_context(_team(threading.Thread, make_work, count, context))
        alone = stack.enter_context(_team(threading.Thread, make_work, 1, context))
        rounds = [(alone.rate(), threads.rate(), processes.rate()) for _ in range(_ROUNDS)]
        ran = processes.all_alive()
    one, many_threads, many_processes = np.median(rounds, axis=0)
    return Scaling(float(many_threads / one), float(many_processes / one) if ran else None)


class _Team:
    """Threads or processes that work when told and wait meanwhile."""

    def __init__(self, members: list[Any], state: Any, done: Any) -> None:
        self._members, self._state, self._done = members, state, done

    def all_alive(self) -> bool:
        return all(member.is_alive() for member in self._members)

    def rate(self) -> float:
        """Items a second of all members together, over one slice."""
        self._state.value = _WORKING
        time.sleep(_SETTLE_SECONDS)
        before, begin = sum(self._done), time.perf_counter()
        time.sleep(_SLICE_SECONDS)
        done, seconds = sum(self._done) - before, time.perf_counter() - begin
        self._state.value = _WAITING
        return float(done / seconds)


@contextlib.contextmanager
def _team(kind: Callable[..., Any], make_work: MakeWork, count: int, context: Any) -> Iterator[_Team]:
    state, done = context.RawValue("i", _WAITING), context.RawArray("q", [-1] * count)
    members = [
        kind(target=_work, args=(make_work, n, count, state, done, os.getpid()), daemon=True) for n in range(count)
    ]
    for member in members:
        member.start()
    team = _Team(members, state, done)
    deadline = time.monotonic() + _START_SECONDS
    while min(done) < 0 and team.all_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield team
    finally:
        state.value = _ENDED
        for member in members:
            member.join(10)


def _work(make_work: MakeWork, number: int, count: int, state: Any, done: Any, parent: int) -> None:
    work = make_work(number, count)
    work()  # buffers and code paths are there from here on
    done[number] = 0
    while state.value != _ENDED:
        if state.value == _WORKING:
            work()
            done[number] += 1
        else:
            time.sleep(0.001)
            if parent not in (os.getpid(), os.getppid()):
                return  # whoever waits for the figures was killed
