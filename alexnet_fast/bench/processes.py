"""CPU time and memory of a process and all its descendants, and an end to them all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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
        processes: alive now.
    """

    cpu_seconds: float
    wait_seconds: float | None
    rss_bytes: int
    processes: int


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


def _usage_from_proc(root: int) -> TreeUsage:
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu, wait, rss, waiting, seen = 0, 0, 0, [root], 0
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
        seen += 1
        cpu += sum(int(field) for field in fields[11:15])  # utime, stime, and those of children waited for
        rss += int(fields[21])
    return TreeUsage(cpu / ticks, wait / 1e9, rss * page, seen)


def _usage_from_psutil(root: int) -> TreeUsage | None:
    try:
        import psutil
    except ImportError:
        return None
    cpu, rss, seen = 0.0, 0, 0
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(root)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system + getattr(times, "children_user", 0.0)
                cpu += getattr(times, "children_system", 0.0)
                rss += process.memory_info().rss
                seen += 1
    return TreeUsage(cpu, None, rss, seen)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads its own group, and all that it started, and wait for it."""
    if os.name == "posix":
        # The group outlives its leader: workers of a cell that crashed are ended too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
