"""Locks on files: one process at a time holds one, and it ends with its process, however that ends.

filelock takes any refusal for a lock that another process holds; on Lustre, some NFS and some FUSE file systems, which
have no locks at all, that would be for ever.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import IO

# What the system answers where another process holds the lock; EACCES is Windows'.
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN} | ({errno.EACCES, errno.EDEADLK} if os.name == "nt" else set())
_PLACE = 1 << 30  # of the byte that Windows locks: behind all that is written in the file


class LockedError(Exception):
    """Another process holds the lock.

    Attributes:
        holder: its process id, as it wrote it down; 'unknown' where it did not.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


class FileLock:
    """The lock on a file, made if missing, until `close` or the end of this process.

    Where the file system has no locks it goes on without one, and says so on stderr.

    Attributes:
        guards: whether it keeps others out.

    Raises:
        LockedError: another process holds it.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        while True:
            self._file: IO[str] = open(path, "a+")  # noqa: SIM115 - held until close
            try:
                self.guards = self._take(path)
            except BaseException:
                self._file.close()
                raise
            if not self.guards or self._is_at(path):
                break
            self._file.close()  # whoever held it has removed it since, and another may lock the next of that name
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _take(self, path: Path) -> bool:
        try:
            _lock(self._file.fileno())
        except OSError as error:
            if error.errno in _HELD:
                self._file.seek(0)
                raise LockedError(self._file.read().strip() or "unknown") from None
            if sys.stderr is not None:
                print(
                    f"{path.parent} lies on a file system without locks ({error.strerror}): nothing keeps a second "
                    "process from writing there, so start no other",
                    file=sys.stderr,
                    flush=True,
                )
            return False
        return True

    def _is_at(self, path: Path) -> bool:
        """Whether the open file is the one that lies at `path` now."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Give it up; safe to call twice. The file stays: removing it would let two others lock two of that name."""
        self._file.close()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(descriptor: int) -> None:
    """Take the lock of an open file at once, or raise OSError."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        try:
            import fcntl
        except ImportError:  # a system that has neither Windows' locks nor these
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
