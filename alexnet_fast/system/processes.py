"""CPU time, memory and disk reads of a process and all its descendants, and what other programs take of the cores."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class TreeUsage:
    """What a process tree has used so far.

    Attributes:
        cpu_seconds: user and system time of all its processes, of those that ended and were waited for as well.
        wait_seconds: that their threads alive now have spent ready to run with no core free; None where not known.
        rss_bytes: resident memory now, summed over the processes; pages that several share count for each of them.
        disk_bytes: that they, and their children waited for, have read from disks; None where not known.
        processes: ids of those alive now.
    """

    cpu_seconds: float
    wait_seconds: float | None
    rss_bytes: int
    disk_bytes: int | None
    processes: tuple[int, ...]


def tree_usage(root: int) -> TreeUsage | None:
    """Usage of process `root` and its descendants; None where the system offers no way to know.

    Linux is asked through /proc, other systems through psutil where it is installed.
    """
    if (_PROC / "self/stat").exists():
        return _usage_from_proc(root)
    return _usage_from_psutil(root)


def possible_cpu_seconds(before: TreeUsage, after: TreeUsage, seconds: float) -> float | None:
    """CPU time between two looks that lie `seconds` apart; None where the machine's cores could not have given it.

    A virtual machine that is suspended for a while may book that while as CPU time of what was running: 22 CPU seconds
    in an epoch of 6 s were seen on 2 cores.
    """
    used = after.cpu_seconds - before.cpu_seconds
    # A twentieth and two ticks of the kernel's clock for what rounding adds.
    return used if 0 <= used <= 1.05 * seconds * (os.cpu_count() or 1) + 0.02 else None


def busy_seconds(cores: set[int]) -> float | None:
    """CPU time that all programs have taken on these cores since the system started; None where it does not tell.

    What a hypervisor gave to other machines counts as well.
    """
    if not cores:
        return None
    try:
        lines = (_PROC / "stat").read_text().splitlines()
        rows = [line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()]
        # user, nice, system, idle, iowait, irq, softirq, steal
        times = {int(row[0][3:]): [int(ticks) for ticks in row[1:9]] for row in rows}
        ticks = sum(sum(times[core][:3]) + sum(times[core][5:8]) for core in cores)
    except (OSError, ValueError, KeyError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def shared_once_bytes(processes: tuple[int, ...]) -> int | None:
    """Memory of some processes, pages that they share counted once (PSS); None where the system does not tell.

    Linux alone tells it, after a walk over all pages: about 1 ms for each 100 MB.
    """
    total = 0
    for pid in processes:
        try:
            text = (_PROC / f"{pid}/smaps_rollup").read_text()
            total += int(text.partition("\nPss:")[2].split()[0]) * 1024
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        except (OSError, ValueError, IndexError):
            return None
    return total or None


class MemoryPeak:
    """The highest memory of a process tree while the context is open, looked at four times a second.

    Attributes:
        rss_bytes: shared pages counted for each process; None where nothing is known.
        pss_bytes: shared pages counted once; None where the system does not tell.
    """

    _EVERY_SECONDS = 0.25
    _RISE = 1.02  # the walk over all pages is made anew where the cheap sum has risen by so much

    def __init__(self, root: int) -> None:
        self.rss_bytes: int | None = None
        self.pss_bytes: int | None = None
        self._root, self._walked = root, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(self._EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        usage = tree_usage(self._root)
        if usage is None or not usage.processes:
            return
        self.rss_bytes = max(self.rss_bytes or 0, usage.rss_bytes)
        if usage.rss_bytes > self._walked * self._RISE:
            self._walked = usage.rss_bytes
            if (shared_once := shared_once_bytes(usage.processes)) is not None:
                self.pss_bytes = max(self.pss_bytes or 0, shared_once)

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()


@dataclass(frozen=True)
class CoreUse:
    """What became of the cores over a while.

    Attributes:
        seconds: of the wall clock.
        cpu_seconds: CPU time of this process and its descendants; None where not known.
        wait_seconds: that their threads stood ready to run with no core free; None where not known.
        other_cores: how many of the cores that this process may run on other programs took; None where not known.
        disk_bytes: read from disks; None where not known.
    """

    seconds: float
    cpu_seconds: float | None = None
    wait_seconds: float | None = None
    other_cores: float | None = None
    disk_bytes: int | None = None


class CoreWatch:
    """Looks at the cores when it is made, and again at `use`."""

    def __init__(self) -> None:
        self._cores = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()
        self._busy = busy_seconds(self._cores)
        self._before = tree_usage(os.getpid())
        self._begin = time.perf_counter()

    def use(self) -> CoreUse:
        """Since it was made."""
        after = tree_usage(os.getpid())
        seconds, busy, before = time.perf_counter() - self._begin, busy_seconds(self._cores), self._before
        if before is None or after is None:
            return CoreUse(seconds)
        cpu = possible_cpu_seconds(before, after, seconds)
        others = wait = disk = None
        if self._busy is not None and busy is not None and cpu is not None:
            others = max(0.0, (busy - self._busy - cpu) / seconds)
        if before.wait_seconds is not None and after.wait_seconds is not None:
            wait = max(0.0, after.wait_seconds - before.wait_seconds)
        if before.disk_bytes is not None and after.disk_bytes is not None:
            disk = max(0, after.disk_bytes - before.disk_bytes)
        return CoreUse(seconds, cpu, wait, others, disk)


def _usage_from_proc(root: int) -> TreeUsage:
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu, wait, rss, waiting, seen = 0, 0, 0, [root], []
    disk: int | None = 0
    while waiting:
        pid = waiting.pop()
        try:
            # The name, in brackets, may hold blanks and brackets itself: the fields are counted from the last one.
            fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
            for task in (_PROC / f"{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
                with contextlib.suppress(FileNotFoundError):  # kernels without scheduler statistics
                    wait += int((task / "schedstat").read_text().split()[1])
        except (OSError, ValueError):
            continue  # it ended between two looks; what it used is now in its parent's figure
        seen.append(pid)
        cpu += sum(int(field) for field in fields[11:15])  # utime, stime, and those of children waited for
        rss += int(fields[21])
        disk = _add_disk_bytes(disk, pid)
    return TreeUsage(cpu / ticks, wait / 1e9, rss * page, disk, tuple(seen))


def _add_disk_bytes(so_far: int | None, pid: int) -> int | None:
    if so_far is None:
        return None
    try:
        text = (_PROC / f"{pid}/io").read_text()
        return so_far + int(text.partition("\nread_bytes:")[2].split()[0])
    except (OSError, ValueError, IndexError):  # a kernel without this account, or not ours to read
        return None


def _usage_from_psutil(root: int) -> TreeUsage | None:
    try:
        import psutil
    except ImportError:
        return None
    cpu, rss, seen = 0.0, 0, []
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(root)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system + getattr(times, "children_user", 0.0)
                cpu += getattr(times, "children_system", 0.0)
                rss += process.memory_info().rss
                seen.append(process.pid)
    return TreeUsage(cpu, None, rss, None, tuple(seen))
