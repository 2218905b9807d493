"""What lies under everything: the device and the machine, files, locks, progress, processes."""

from __future__ import annotations

from .child import Child, ChildError, send_message
from .device import (
    available_memory,
    cgroup_cpu_quota,
    choose_device,
    follow_usable_cores,
    memory_format,
    memory_limit,
    synchronize,
    to_device,
    usable_cores,
    use_device,
    worker_count,
)
from .files import (
    check_writable,
    file_sha256,
    open_binary,
    read_at,
    storage_error,
    storage_errors,
    sync_folder,
    write_file_atomically,
)
from .limits import limit_behind, working_folder_is_gone
from .locks import FileLock, LockedError
from .machine import cpu_flags, cpu_name, device_name, hardware, memory_bytes, memory_info, versions
from .object_store import ObjectStore, open_store, read_object
from .pool import WorkerPool, report_progress
from .processes import CoreUse, CoreWatch, MemoryPeak
from .progress import NoProgress, Progress, can_redraw, progress_bar
from .signals import StopSignals

__all__ = [
    "Child",
    "ChildError",
    "CoreUse",
    "CoreWatch",
    "FileLock",
    "LockedError",
    "MemoryPeak",
    "NoProgress",
    "ObjectStore",
    "Progress",
    "StopSignals",
    "WorkerPool",
    "available_memory",
    "can_redraw",
    "cgroup_cpu_quota",
    "check_writable",
    "choose_device",
    "cpu_flags",
    "cpu_name",
    "device_name",
    "file_sha256",
    "follow_usable_cores",
    "hardware",
    "limit_behind",
    "memory_bytes",
    "memory_format",
    "memory_info",
    "memory_limit",
    "open_binary",
    "open_store",
    "progress_bar",
    "read_at",
    "read_object",
    "report_progress",
    "send_message",
    "storage_error",
    "storage_errors",
    "sync_folder",
    "synchronize",
    "to_device",
    "usable_cores",
    "use_device",
    "versions",
    "worker_count",
    "working_folder_is_gone",
    "write_file_atomically",
]
