"""Limits that a shell, a container or a cluster sets, named from the errors that they cause."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from .device import cgroup_folders, memory_limit

_NO_MEMORY = (
    "failed to map segment", "can't allocate memory", "cannot allocate memory", "not enough memory", "std::bad_alloc",
    "unable to allocate", "out of memory", "can't get shared memory", "cannot be had (cannot allocate",
)  # fmt: skip
_NO_PROCESSES = ("can't start new thread", "resource temporarily unavailable", "pthread_create", "cannot fork")


def working_folder_is_gone() -> bool:
    """Whether the folder that this process was started in has been removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def limit_behind(error: BaseException) -> str | None:
    """The limit that an error, or one that it came from, ran into, in a sentence with what to raise; else None."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        text = f"{type(cause).__name__}: {cause}".lower()
        if isinstance(cause, FileNotFoundError) and working_folder_is_gone():
            return "the working folder has been removed: go to another one (cd)"
        if number == errno.EAGAIN or any(words in text for words in _NO_PROCESSES):
            return _say_processes()
        if number == errno.EMFILE:
            return "no more files can be opened: raise the limit (ulimit -n), or use fewer workers"
        shared = str(getattr(cause, "filename", None) or "").startswith("/dev/shm")
        if shared or (number is not None and _made_a_semaphore(cause)):
            return (
                f"/dev/shm cannot be used by worker processes ({_words(cause)}): make it writable and larger (in "
                "Docker --shm-size 8g), or use no workers"
            )
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or any(words in text for words in _NO_MEMORY):
            if type(cause).__name__ == "OutOfMemoryError":  # a GPU's, which no limit of this process explains
                return None
            return _say_memory()
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _made_a_semaphore(error: BaseException) -> bool:
    """Whether an error comes from making one of multiprocessing's semaphores, which are files in /dev/shm."""
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == "synchronize.py":
            return True
        trace = trace.tb_next
    return False


def _say_memory() -> str:
    space = _resource_limit("RLIMIT_AS")
    if space is not None:
        return (
            f"the address space of this process is limited to {_gib(space)}, and that is too little: raise the limit "
            "(ulimit -v)"
        )
    granted = memory_limit()
    if granted is not None:
        return (
            f"memory is limited to {_gib(granted)} here (the limit of the container or job), and that is too little: "
            "raise it, or use a smaller batch or fewer workers"
        )
    return "there is not enough memory: end other programs, or use a smaller batch or fewer workers"


def _say_processes() -> str:
    limits = []
    if (user := _resource_limit("RLIMIT_NPROC")) is not None:
        limits.append(f"{user} for this user (ulimit -u)")
    if (group := _pids_limit()) is not None:
        limits.append(f"{group} in this container or job (its pids limit)")
    if _resource_limit("RLIMIT_AS") is not None:
        return _say_memory()  # each thread wants a stack
    which = f" ({', and '.join(limits)})" if limits else ""
    return f"no more processes or threads can be started{which}: raise the limit, or use fewer workers"


def _resource_limit(name: str) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(getattr(resource, name))
    return None if soft == resource.RLIM_INFINITY else soft


def _pids_limit() -> int | None:
    found = []
    for folder in cgroup_folders(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        try:
            found.append(int((folder / "pids.max").read_text()))
        except (OSError, ValueError):  # 'max' is no limit
            continue
    return min(found, default=None)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
