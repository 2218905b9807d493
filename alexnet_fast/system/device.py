"""What this machine offers: the device to compute on, and the cores that this process may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import DEVICES
from ..errors import UsageError

if TYPE_CHECKING:
    import torch

# What cgroups v1 answer where there is no limit lies a page below this.
_NO_LIMIT = 1 << 62
_HIERARCHIES = ("cpu", "memory", "pids")
# A GPU's decoder takes up to 450 MB of host and device memory for each thread, and a batch is cut into few jobs more.
MOST_AUTO_WORKERS = 16


def choose_device(name: str = "auto") -> torch.device:
    """The torch device for 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'; 'auto' takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: it is not here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)} or cuda:N, got {name!r}")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("device cuda was asked for, but torch finds no CUDA GPU here: use device auto or cpu")
        if number and not (number.isdigit() and int(number) < torch.cuda.device_count()):
            raise UsageError(
                f"device {name} was asked for, but there are {torch.cuda.device_count()} GPUs, numbered from 0"
            )
        return torch.device("cuda", int(number) if number else torch.cuda.current_device())
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps was asked for, but torch finds none here: use device auto or cpu")
    return torch.device(kind)


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has done all that it was given."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def use_device(device: torch.device) -> None:
    """Make a GPU the one that CUDA calls without a device go to: compiled kernels and other libraries make such calls.

    Without it, work on cuda:1 would take memory on cuda:0 as well, or launch there.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout in which networks and batches lie on a device: channels_last, but contiguous on Apple's GPUs.

    There the backward pass of max and average pooling aborts the process with channels_last (pytorch/pytorch, issue
    175190), and that of batch normalisation gives wrong gradients (issue 175189).
    """
    import torch

    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values from the host on a device, for work on its current stream, without the host waiting for that.

    A copy from pageable memory to a GPU waits until the GPU has done all that it was given before. From page-locked
    memory, which torch keeps until the copy is over, it queues.
    """
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def worker_count() -> int:
    """Workers that 'auto' means for this process: its share of the usable cores, at most `MOST_AUTO_WORKERS`.

    torchrun starts a process for each GPU and says how many there are; they share the cores.
    """
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    share = usable_cores() // max(1, int(processes)) if processes.isdecimal() else usable_cores()
    return max(1, min(share, MOST_AUTO_WORKERS))


def usable_cores() -> int:
    """Cores this process may use: its CPU affinity, and no more than its cgroup's CPU quota, rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpu_quota()
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def follow_usable_cores() -> None:
    """Let torch compute on no more threads than there are usable cores. A number that the user set stays.

    torch counts the cores that it may run on and knows no quota. With a quota of 1 core on 2 its two threads wait for
    each other: training took 840 images/s for 1,500 on one thread.
    """
    if os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"):
        return
    import torch

    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def available_memory(root: Path = Path("/sys/fs/cgroup"), self_file: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes of main memory that this process may still take: what the system has free or can free, and no more than
    its cgroup's limit leaves; None where the system does not tell."""
    amounts = []
    try:
        text = Path("/proc/meminfo").read_text()
        amounts.append(int(text.split("MemAvailable:")[1].split()[0]) * 1024)
    except (OSError, ValueError, IndexError):
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            amounts.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS tells only what it has in all
            amounts.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    for folder, limit, used, cache in _memory_limits(root, self_file):
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # Cached files count as used, and give way.
            cached = sum(int(stat.get(name, 0)) for name in cache)
            amounts.append(limit - int((folder / used).read_text()) + cached)
        except (OSError, ValueError):
            pass
    return max(0, min(amounts)) if amounts else None


def memory_limit(root: Path = Path("/sys/fs/cgroup"), self_file: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes of main memory that this process's cgroup grants it in all; None where there is no limit."""
    return min((limit for _, limit, _, _ in _memory_limits(root, self_file)), default=None)


def _memory_limits(root: Path, self_file: Path) -> Iterator[tuple[Path, int, str, tuple[str, str]]]:
    """(folder, limit, file of what is used, names of cached files in memory.stat) of each cgroup that has a limit."""
    for folder in cgroup_folders(root, self_file):
        for most, used, cache in (
            ("memory.max", "memory.current", ("inactive_file", "active_file")),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
        ):
            try:
                limit = int((folder / most).read_text())
            except (OSError, ValueError):
                continue
            if limit < _NO_LIMIT:
                yield folder, limit, used, cache


def cgroup_cpu_quota(root: Path = Path("/sys/fs/cgroup"), self_file: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of CPU time that this process's cgroup grants, None where there is no limit (cgroup v2 and v1)."""
    quotas = []
    for folder in cgroup_folders(root, self_file):
        try:
            words = (folder / "cpu.max").read_text().split()
            if words and words[0] != "max":
                quotas.append(int(words[0]) / int(words[1]))
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            pass
        try:
            allowed = int((folder / "cpu.cfs_quota_us").read_text())
            if allowed > 0:
                quotas.append(allowed / int((folder / "cpu.cfs_period_us").read_text()))
        except (OSError, ValueError, ZeroDivisionError):
            pass
    return min(quotas, default=None)


def cgroup_folders(root: Path, self_file: Path) -> list[Path]:
    """This process's cgroup folder and all above it, for the unified hierarchy and those of cpu, memory and pids."""
    folders = [root, *(root / name for name in _HIERARCHIES)]
    try:
        lines = self_file.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        tops = [root / name for name in _HIERARCHIES if name in controllers.split(",")] if controllers else [root]
        for top in tops:
            folder = top / path.lstrip("/")
            while folder != top and top in folder.parents:
                folders.append(folder)
                folder = folder.parent
    return folders
