"""Data files of shards, open for reading at any place by any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..errors import DamagedDataError
from ..system import open_binary, storage_error
from .manifest import MANIFEST


class DataFile(NamedTuple):
    """A shard's data.mdb, by what sets it apart from another of that name that was packed before or after.

    `fleeting` says that it lies in a cache, which may delete it.
    """

    path: str
    size: int
    sha256: str
    fleeting: bool = False


class OpenFile:
    """A file descriptor that lives as long as somebody reads from it: dropping it from the pool is always safe."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = open_binary(path)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound here: at exit `os` may be gone first
        if self.descriptor >= 0:
            close(self.descriptor)


class OpenFiles:
    """This process's open shards, by path, at most so many at a time; the one opened first is let go first.

    ``pread`` keeps no position, so threads share a descriptor and a forked child may go on with its parent's.
    """

    def __init__(self) -> None:
        self._files: dict[DataFile, OpenFile] = {}
        self._lock = threading.Lock()
        # A child forked while another thread held the lock would wait for it for ever.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def get(self, wanted: DataFile) -> OpenFile:
        """The open file, checked when opened to have its size.

        Raises:
            DamagedDataError: it is missing or of another size.
            StorageError: it cannot be opened.
        """
        file = self._files.get(wanted)
        if file is not None:
            return file
        with self._lock:
            try:
                file = OpenFile(wanted.path)
                size = os.fstat(file.descriptor).st_size
            except FileNotFoundError:
                raise DamagedDataError(f"{wanted.path} is missing: restore it or pack the data set again") from None
            except OSError as error:
                raise storage_error(error, wanted.path) from None
            if size != wanted.size:
                raise DamagedDataError(
                    f"{wanted.path} has {size} bytes where {MANIFEST} says {wanted.size}: restore it"
                )
            # What a cache has deleted would keep its bytes on the disk for as long as it is open.
            for name in [name for name in self._files if name.fleeting]:
                if os.fstat(self._files[name].descriptor).st_nlink == 0:
                    del self._files[name]
            while len(self._files) >= most_open_files():
                del self._files[next(iter(self._files))]
            self._files[wanted] = file
            return file

    def drop(self, files: Iterable[DataFile]) -> None:
        """Forget files; each closes when nobody reads from it any more."""
        with self._lock:
            for file in files:
                self._files.pop(file, None)


def most_open_files() -> int:
    """How many shards may be open at once: half of the file descriptors this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(1, min(soft // 2, 4096))


open_files = OpenFiles()
