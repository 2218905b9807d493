"""Reads single files from where a source's tables say they lie: one open or one pread each."""

from __future__ import annotations

import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedDataError, StorageError
from ..system import open_binary, read_at
from .table import FILE, RANGE, ZIP_DEFLATED

_MOST_OPEN = 64
# A local header is 30 bytes, the name, and extras whose length the directory does not tell: read with the data at once.
_HEADER_SLACK = 30 + 256
# An image of as many pixels as are taken (2^27) is a smaller JPEG or PNG than that; it is what a worker holds at most.
LARGEST_FILE = 1 << 27
_LARGEST_TEXT = 64 << 20


class FileReader:
    """Reads rows of a source's tables. Not for several threads at once; cheap to make, one per thread.

    Args:
        containers: the source's files and folders, in the order that rows refer to.
    """

    def __init__(self, containers: Sequence[Path | str]) -> None:
        self._containers = [os.fsencode(path) for path in containers]
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, row: Any) -> bytes:
        """The bytes of one file, given its row (or any record with those fields).

        Raises:
            StorageError: the file system refuses to read them.
            DamagedDataError: they are not as many as the table says, or a checksum differs.
        """
        return self.read_place(
            int(row["container"]), int(row["method"]), int(row["offset"]), int(row["stored"]), int(row["size"]),
            int(row["crc"]), bytes(row["name"]),
        )  # fmt: skip

    def read_place(
        self, container: int, method: int, offset: int, stored: int, size: int, crc: int, name: bytes
    ) -> bytes:
        """As `read`, with the row's fields as plain values."""
        if size > LARGEST_FILE or stored > LARGEST_FILE:
            raise DamagedDataError(f"it has {max(size, stored):,} bytes, more than {LARGEST_FILE:,}")
        try:
            if method == FILE:
                return self._read_file(self._containers[container] + b"/" + name, size)
            descriptor = self._descriptor(container)
            if method == RANGE:
                data = read_at(descriptor, size, offset)
                if len(data) != size:
                    raise DamagedDataError("the archive ends within it")
                return data
            return self._read_zipped(descriptor, method, offset, stored, size, crc)
        except OSError as error:
            # Not the image's fault: a disk that fails for a moment must not get images skipped as bad.
            path = os.fsdecode(self._containers[container] + (b"/" + name if name else b""))
            raise StorageError(f"{path} cannot be read ({error.strerror}): check it and run the same again") from None

    def head(self, row: Any, count: int) -> bytes:
        """The first `count` bytes of one file, or all where it has fewer; a zip's members are read whole."""
        method, size = int(row["method"]), int(row["size"])
        if method not in (FILE, RANGE):
            return self.read(row)[:count]
        path = self._containers[int(row["container"])] + (b"/" + bytes(row["name"]) if method == FILE else b"")
        try:
            with open(path, "rb", buffering=0) as file:
                return read_at(file.fileno(), min(count, size), int(row["offset"]))
        except OSError as error:
            raise StorageError(f"{os.fsdecode(path)} cannot be read ({error.strerror}): check it") from None

    def read_text(self, place: tuple[int, int, int, int, int, int, bytes]) -> bytes:
        """A file of labels or of names of classes, as `read_place` reads it.

        Raises:
            DamagedDataError: it is too large to be one, or damaged; the text names it.
        """
        name = place[6].decode(errors="replace")
        if place[4] > _LARGEST_TEXT:
            raise DamagedDataError(f"{name} is too large to be a file of labels")
        try:
            return self.read_place(*place)
        except DamagedDataError as error:
            raise DamagedDataError(f"{name} cannot be used: {error}") from None

    @staticmethod
    def _read_file(path: bytes, size: int) -> bytes:
        descriptor = open_binary(path)
        try:
            # One byte more than expected tells a file that grew since it was listed.
            data = os.read(descriptor, size + 1)
            while len(data) < size:
                more = os.read(descriptor, size + 1 - len(data))
                if not more:
                    break
                data += more
        finally:
            os.close(descriptor)
        if len(data) != size:
            raise DamagedDataError("its size changed while packing")
        return data

    @staticmethod
    def _read_zipped(descriptor: int, method: int, offset: int, stored: int, size: int, crc: int) -> bytes:
        raw = read_at(descriptor, _HEADER_SLACK + stored, offset)
        if raw[:4] != b"PK\x03\x04" or len(raw) < 30:
            raise DamagedDataError("the zip is damaged where it should begin")
        name_len, extra_len = struct.unpack_from("<HH", raw, 26)
        begin = 30 + name_len + extra_len
        data = raw[begin : begin + stored]
        if len(data) < stored:
            data = read_at(descriptor, stored, offset + begin)
        if method == ZIP_DEFLATED:
            inflate = zlib.decompressobj(-15)
            try:
                # Bounded by the size that the directory tells, so that a bomb cannot fill the memory.
                data = inflate.decompress(data, size + 1)
            except zlib.error:
                raise DamagedDataError("the zip is damaged within it") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise DamagedDataError("its checksum in the zip differs")
        return data

    def _descriptor(self, container: int) -> int:
        found = self._open.get(container)
        if found is None:
            found = self._open[container] = open_binary(self._containers[container])
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(found, 0, 0, os.POSIX_FADV_RANDOM)
            if len(self._open) > _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(container)
        return found

    def read_all(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> list[bytes]:
        """`read` of several rows."""
        return [self.read(row) for row in rows]

    def close(self) -> None:
        """Close what is open; a later read opens it again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
