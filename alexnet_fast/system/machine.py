"""What machine this is: processor, memory, and the versions of what takes part; the one record of all results."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .device import available_memory, memory_limit, usable_cores

if TYPE_CHECKING:
    import torch


def cpu_name() -> str:
    """The processor, as the system calls it."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instruction sets that the processor says it has; empty where the system does not tell."""
    for line in _lines(cpuinfo):
        if line.startswith(("flags", "Features")):
            return line.partition(":")[2].split()
    return []


def device_name(device: torch.device) -> str:
    """The device that computes, in words."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def memory_info() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    values = {}
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        with contextlib.suppress(ValueError, IndexError):
            values[name] = int(rest.split()[0]) * 1024
    return values


def memory_bytes() -> tuple[int | None, int | None]:
    """(all that this process may have, what it may still take) of main memory; None where the system does not tell.

    No more than the machine has, and than its cgroups grant.
    """
    totals = [size for size in (memory_info().get("MemTotal"), memory_limit()) if size is not None]
    return min(totals, default=None), available_memory()


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package, of Python, and of those packages that are installed."""
    found = {"alexnet_fast": __version__, "python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            # A loaded module also tells its build, such as torch's +cu130, which the metadata may leave out.
            found[name] = str(getattr(sys.modules.get(name), "__version__", None) or metadata.version(name))
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine: processor, cores that may be used, system; of a GPU, its name and memory in GiB."""
    import torch

    system = f"{platform.system()} {platform.machine()}"
    found: dict[str, Any] = {"cpu": cpu_name(), "cores": usable_cores(), "system": system}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    return found


def _lines(path: Path | str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
