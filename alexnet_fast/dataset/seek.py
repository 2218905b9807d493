"""The seek index beside a shard: where the rows of MCUs of each JPEG begin, so that a crop is decoded without what lies
above it. docs/format.md has its bytes. A data set does without it: decoding then takes longer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError
from ..system import read_at, storage_error, storage_errors
from .manifest import ShardInfo

_MAGIC = b"AFSEEK\0\1"
_HEAD = struct.Struct("<8s32sI")  # magic, SHA-256 of the shard's index, records
# Indices of a split that are no larger together are read into memory: an entry costs 0.2 us so, and 2 to 3 by `pread`,
# a sixth of what a 64-pixel image takes. ImageNet's, of 0.4 GB, stay in the page cache alone.
_IN_MEMORY = 64 << 20


def seek_path(shard: ShardInfo) -> str:
    """File name of the seek index of a shard, within DATASET."""
    return shard.path.removesuffix(".lmdb") + ".seek"


def seek_bytes(index_sha256: str, entries: Sequence[bytes]) -> bytes:
    """A seek index file: `entries` are those of `images.find_row_starts`, b'' for a record that has none."""
    lengths = np.array([len(entry) for entry in entries], "<u4").tobytes()
    head = _HEAD.pack(_MAGIC, bytes.fromhex(index_sha256), len(entries)) + lengths
    return b"".join([head, struct.pack("<I", zlib.crc32(head)), *entries])


class SeekIndex:
    """The seek indices of a split's shards, those that are there.

    Args:
        dataset: folder of the data set.
        shards: of the split, in order.

    Raises:
        DamagedDataError: one of them is damaged, or belongs to another shard.
    """

    def __init__(self, dataset: Path, shards: Sequence[ShardInfo]) -> None:
        self._paths = [dataset / seek_path(shard) for shard in shards]
        self._first = [0, *accumulate(shard.records for shard in shards)]
        records = self._first[-1]
        self._lengths: npt.NDArray[np.uint32] = np.zeros(records, np.uint32)
        self._offsets: npt.NDArray[np.int64] = np.zeros(records, np.int64)
        for path, first, shard in zip(self._paths, self._first, shards, strict=False):
            lengths, begin = read_seek_lengths(path, shard)
            rows = slice(first, first + shard.records)
            self._lengths[rows] = lengths
            self._offsets[rows] = begin + np.cumsum(lengths, dtype=np.int64) - lengths
        self.exists = bool(self._lengths.any())
        if not self.exists:  # nothing is kept, nor goes to worker processes
            self._lengths, self._offsets = np.zeros(0, np.uint32), np.zeros(0, np.int64)
            return
        small = int(self._lengths.sum(dtype=np.int64)) <= _IN_MEMORY
        self._held: list[bytes | None] = [_read(path) if small and path.exists() else None for path in self._paths]

    def entries(self, records: npt.NDArray[np.int64]) -> list[bytes | None]:
        """The entry of each record; None where it has none.

        Raises:
            DamagedDataError, StorageError: a file cannot be read any more.
        """
        found: list[bytes | None] = []
        shards = np.searchsorted(self._first, records, side="right") - 1
        places = zip(shards.tolist(), self._offsets[records].tolist(), self._lengths[records].tolist(), strict=True)
        for shard, offset, length in places:
            held = self._held[shard]
            if length == 0:
                found.append(None)
            elif held is not None:
                found.append(held[offset : offset + length])
            else:
                found.append(self._read_one(self._paths[shard], offset, length))
        return found

    def _read_one(self, path: Path, offset: int, length: int) -> bytes:
        # Opened anew each time: an open costs 3 us of the 150 that an entry saves, and holds no descriptor.
        try:
            with open(path, "rb", buffering=0) as file:
                return bytes(read_at(file.fileno(), length, offset))
        except OSError as error:
            raise storage_error(error, path) from None


def read_seek_lengths(path: Path, shard: ShardInfo) -> tuple[npt.NDArray[np.uint32], int]:
    """(bytes of each record's entry, where the first begins); zeros where there is no seek index.

    Raises:
        DamagedDataError: it is damaged, or belongs to another shard.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(_HEAD.size + 4 * shard.records + 4)
    except FileNotFoundError:
        return np.zeros(shard.records, np.uint32), 0
    except OSError as error:
        raise storage_error(error, path) from None
    remedy = f"restore {path.name}, or delete it to go without"
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        raise DamagedDataError(f"{path} is damaged (not a seek index): {remedy}")
    _, sha256, records = _HEAD.unpack_from(head)
    if sha256.hex() != shard.sha256 or records != shard.records:
        raise DamagedDataError(f"{path} is the seek index of another shard: {remedy}")
    lengths = np.frombuffer(head[_HEAD.size : -4], "<u4")
    if len(lengths) != records or head[-4:] != struct.pack("<I", zlib.crc32(head[:-4])):
        raise DamagedDataError(f"{path} is damaged (its checksum differs): {remedy}")
    if len(head) + int(lengths.sum(dtype=np.int64)) != size:
        raise DamagedDataError(f"{path} is damaged (it has {size} bytes): {remedy}")
    return lengths.astype(np.uint32), len(head)


def is_sound(entry: bytes) -> bool:
    """Whether an entry has the checksum that it begins with."""
    return len(entry) > 4 and entry[:4] == struct.pack("<I", zlib.crc32(entry[4:]))


def _read(path: Path) -> bytes:
    with storage_errors(path):
        return path.read_bytes()
