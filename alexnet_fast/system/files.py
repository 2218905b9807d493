"""Files that are there whole or not at all, and refusals of the file system in one sentence."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from ..errors import StorageError, UsageError


def storage_error(error: OSError, path: Path | str) -> StorageError:
    """The sentence for what the file system refused at `path`: full, not writable, gone, failing."""
    advice = {
        errno.ENOSPC: "free some space, or choose another disk",
        errno.EDQUOT: "free some space, or choose another disk",
        errno.EFBIG: "raise the limit on file sizes, or choose another disk",
        errno.EROFS: "choose a folder that may be written",
        errno.EACCES: "change its permissions, or choose another place",
        errno.EPERM: "change its permissions, or choose another place",
        errno.EMFILE: "raise the limit on open files (ulimit -n)",
        errno.EIO: "the disk may be failing; copy what is on it elsewhere",
    }.get(error.errno or 0, "check the path and the disk")
    return StorageError(f"{path}: {error.strerror or error}: {advice}")


@contextlib.contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turns what the file system refuses within the block into `storage_error`'s sentence."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from None


def check_writable(path: Path | None, option: str, endings: tuple[str, ...] = ()) -> None:
    """Refuse the file that an option names before the work whose result it is for; None is no file.

    Raises:
        UsageError: it is a folder, its folder is missing or may not be written, or its name ends in none of `endings`.
    """
    if path is None:
        return
    folder = path.parent
    if endings and path.suffix.lower() not in endings:
        raise UsageError(f"{option} {path}: the file's name must end in {' or '.join(endings)}")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: give the name of a file")
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {folder}: make it first, or give another file")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path}: the folder {folder} may not be written: give another file")


def write_file_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that after a crash there is the old file or the new one, never a part.

    Raises:
        StorageError: the file system refuses; what was at `path` is as it was.
    """
    aside = path.parent / f".{path.name}.{os.getpid()}.tmp"
    with storage_errors(path):
        try:
            with open(aside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut, where the system has such a thing for folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_binary(path: Path | str | bytes) -> int:
    """A descriptor for reading a file's bytes as they are; Windows would else change line ends.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


if hasattr(os, "pread"):
    read_at = os.pread
else:  # Windows has no read at a place that leaves the file's own position alone
    _seek_lock = threading.Lock()

    def read_at(descriptor: int, size: int, offset: int) -> bytes:
        with _seek_lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
