"""Lays down, in DATASET's own work folder, what cannot be read at random where it is: compressed tars, downloads."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import DamagedDataError, UsageError
from .tars import is_tar_header

_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


# Real images shrink by a percent, bitmaps by some times; deflate makes a thousandth of zeros.
_MOST_TIMES = 200
_SLACK = 64 << 20


class Staging:
    """A folder for such files. Each appears under its name only when whole, so a resumed run finds and reuses it.

    Args:
        folder: made on first use; None where the caller has none to offer.
        note: called with a sentence on what is being laid down.
    """

    def __init__(self, folder: Path | None, note: Callable[[str], None] | None = None) -> None:
        self._folder = folder
        self.note = note or (lambda text: None)

    def file(self, name: str, write: Callable[[IO[bytes]], None]) -> Path:
        """The staged file of that name; `write` is called to fill it where it is not there yet."""
        if self._folder is None:
            raise UsageError(f"{name} has to be laid down on disk first, and there is no folder for it")
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return path
        partial = path.with_name(f"{path.name}.part")
        try:
            with open(partial, "wb", buffering=1 << 20) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:  # also of a full disk, which it may have filled
            partial.unlink(missing_ok=True)
            raise
        return path

    def remove(self, path: Path) -> None:
        """Remove a staged file that proved to be of no use, so that a later run makes it anew."""
        if self._folder is not None and path.is_relative_to(self._folder):
            path.unlink(missing_ok=True)

    def folder(self, name: str) -> Path:
        """The staged folder of that name, made if missing."""
        if self._folder is None:
            raise UsageError(f"{name} has to be laid down on disk first, and there is no folder for it")
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        return self._folder / name

    def plain(self, path: Path) -> Path:
        """`path` itself or, where it is a tar compressed with gzip, bzip2 or xz, that tar laid down.

        Raises:
            UsageError: what is compressed is no tar.
            DamagedDataError: it breaks off, or unpacks to more than images would.
        """
        with open(path, "rb") as file:
            head = file.read(6)
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        if opener is None:
            return path

        def write(target: IO[bytes]) -> None:
            self.note(f"unpacking {path.name}")
            with opener(path) as packed:
                while block := _unpacked(packed, path):
                    if target.tell() == 0 and not is_tar_header(block):
                        raise UsageError(f"what is compressed in {path} is not a tar of images")
                    check_growth(path, target.tell() + len(block))
                    target.write(block)

        return self.file(f"{_stamp(path)}.plain", write)

    def stamped(self, path: Path, ending: str, write: Callable[[IO[bytes]], None]) -> Path:
        """As `file`, under a name that tells `path` and its present state, so that a changed source is read anew."""
        return self.file(f"{_stamp(path)}{ending}", write)

    def forget(self, path: Path, ending: str, *, unless: str) -> None:
        """Remove a staged file of `path` unless its companion is there."""
        if self._folder is not None and not (self._folder / f"{_stamp(path)}{unless}").exists():
            (self._folder / f"{_stamp(path)}{ending}").unlink(missing_ok=True)


def check_growth(path: Path, unpacked: int) -> None:
    """Refuse a file that `unpacked` bytes have come out of, where that is more than images would be.

    Raises:
        DamagedDataError: it is.
    """
    if unpacked > _SLACK and unpacked > _MOST_TIMES * path.stat().st_size:
        raise DamagedDataError(
            f"{path} unpacks to more than {_MOST_TIMES} times its size, which no archive of images does: "
            "nothing was packed from it"
        )


def _unpacked(packed: IO[bytes], path: Path) -> bytes:
    """The next block of what is compressed; empty at its end."""
    try:
        return packed.read(1 << 20)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DamagedDataError(f"{path} is damaged or cut short ({error}): fetch it again") from None
    except OSError as error:
        if error.errno is None:  # bz2 says so of damaged data
            raise DamagedDataError(f"{path} is damaged ({error}): fetch it again") from None
        raise


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{path.name[-80:]}-{found.st_size}-{found.st_mtime_ns}"
