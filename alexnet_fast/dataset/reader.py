"""The packed data set on disk: LMDB shards of Caffe ``Datum`` records, an index beside each, and dataset.json.

liblmdb writes the shards (`writer`); nothing here reads through it. The layout::

    DATASET/
      dataset.json                          classes, splits, shards with their checksums, how it was packed
      train-00000-of-00008.lmdb/data.mdb    records in shuffled order; key = position in the shard, 8 decimal digits
      train-00000-of-00008.index.npy        one row per record: crc32, length, width, height, label, offset, key
      train-00000-of-00008.seek             where the rows of MCUs of each JPEG begin; may be missing

A record's value is the protobuf message ``Datum`` of Caffe with three fields: data (4) the encoded JPEG, label (5),
encoded (7) true. Every entry of the database is a record, so any Caffe LMDB reader takes a shard as it is.

The index says at which byte of data.mdb each image begins, so reading is one ``pread``: no liblmdb, no lock, any
thread, across forks, one file descriptor a shard. That was decided by what damage does. With liblmdb in the reader, 400
single bits flipped at random in the tree pages of a shard ended the process 7 times (SIGBUS), and reading from mapped
memory ends it wherever a file is cut short or a disk fails under it; ``pread`` reports both. It is also 2 to 3 times as
fast as a look-up through py-lmdb for images of 2 kB.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import CACHE_BYTES
from ..errors import DamagedDataError
from ..options import is_url
from ..system import read_at, storage_error
from .cache import ShardCache, default_cache
from .datum import datum_frame, decode_datum
from .index import IndexArray, index_dtype, read_index
from .lmdb_pages import Int64Array, value_places
from .manifest import (
    ShardInfo,
    read_dataset_info,
)
from .open_files import DataFile, open_files
from .seek import SeekIndex

UNLABELLED = -1


# The kernel caches pages in folios of up to so much, and drops a folio as a whole or not at all.
_LARGEST_FOLIO = 2 << 20


@lru_cache(maxsize=1 << 16)
def _datum_tail(label: int) -> bytes:
    return datum_frame(0, label)[1]


def check_pages(dataset: Path, shard: ShardInfo) -> None:
    """Follow LMDB's own pages to every record of a shard, so that other programs' LMDB will find what ours reads.

    Raises:
        DamagedDataError: they are damaged, or lead to another number of records.
        OSError: data.mdb cannot be read.
    """
    path = dataset / shard.path / "data.mdb"
    offsets, _ = _places(path)
    if len(offsets) != shard.records:
        raise DamagedDataError(f"{path} has {len(offsets)} entries, not {shard.records}")


def iterate_shard(
    dataset: Path, shard: ShardInfo, start: int, stop: int, index: IndexArray | None
) -> Iterator[tuple[bytes, int] | str]:
    """Records `start` to `stop` of a shard that may be damaged: (image, label), or what is wrong with the record.

    A record is looked up as LMDB would and must lie where `index` says; where LMDB's pages are damaged, `index` alone
    is followed.

    Raises:
        DamagedDataError: neither pages nor an index say where records are.
        OSError: data.mdb cannot be read.
    """
    path = dataset / shard.path / "data.mdb"
    places: tuple[Int64Array, Int64Array] | None
    try:
        places = _places(path)
    except DamagedDataError:
        if index is None:
            raise
        places = None
    with open(path, "rb", buffering=0) as file:
        for position in range(start, stop):
            row = None if index is None else index[position]
            try:
                if places is None:
                    yield _read_by_index(file.fileno(), row)
                elif position < len(places[0]):
                    yield _read_by_pages(file.fileno(), int(places[0][position]), int(places[1][position]), row)
                else:
                    yield "it is missing"
            except DamagedDataError as error:
                yield str(error)


def _places(path: Path) -> tuple[Int64Array, Int64Array]:
    found = path.stat()
    return _places_of(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=2)
def _places_of(path: Path, identity: tuple[int, int, int]) -> tuple[Int64Array, Int64Array]:
    return value_places(path)


def _read_by_pages(descriptor: int, offset: int, size: int, row: Any) -> tuple[bytes, int]:
    data, label = decode_datum(read_at(descriptor, size, offset))
    at = offset + len(datum_frame(len(data), label)[0])
    if row is not None and at != row["offset"]:
        raise DamagedDataError(f"it lies at byte {at}, the index says {row['offset']}")
    return bytes(data), label


def _read_by_index(descriptor: int, row: Any) -> tuple[bytes, int]:
    length, label = int(row["length"]), int(row["label"])
    tail = _datum_tail(label)
    value = read_at(descriptor, length + len(tail), int(row["offset"]))
    if len(value) != length + len(tail) or not value.endswith(tail):
        raise DamagedDataError(f"it does not end with its label {label}, or is cut short")
    return value[:length], label


class ShardReader:
    """Random access to one split by record number, 0 to len - 1, over all its shards.

    Each index is read and checked once, here; of it the reader keeps columns, 28 bytes a record. Pickling carries them
    and the shards' paths, never an open file, so a reader may go to worker processes under fork and spawn. Reads are
    safe from several threads.

    Attributes:
        dataset: the folder, absolute.
        cache: of the shards, where they lie in object storage; None where the folder holds them all.
        info, split, split_info: contents of dataset.json, the split's name, and its part of them.
        labels: (records,) int64; -1 for none.
        heights, widths: (records,) int32, of the decoded images, pixels.
        lengths: (records,) uint32, of the encoded images, bytes.

    Raises:
        UsageError, DamagedDataError: as `read_dataset_info`; also where an index is not what dataset.json says.
    """

    def __init__(
        self, dataset: Path | str, split: str, cache: Path | str | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """
        Args:
            dataset: folder of the data set, or its URL. Then shards are waited for before they are read, but not in
                processes that the reader is sent to.
            cache, cache_bytes: where shards of a URL are kept, and how many bytes of them; None: the default cache.
        """
        self.cache: ShardCache | None = None
        if is_url(dataset):
            self.cache = ShardCache(str(dataset), split, Path(cache or default_cache()), cache_bytes)
            dataset = self.cache.dataset
        self.dataset = Path(dataset).resolve()
        self.info = read_dataset_info(dataset)
        self.split = split
        self.split_info = self.info.split(split)
        shards = self.split_info.shards
        self._files = [
            DataFile(
                str(self.dataset / shard.path / "data.mdb"), shard.data_bytes, shard.data_sha256, self.cache is not None
            )
            for shard in shards
        ]
        self._ends = list(accumulate(shard.records for shard in shards))
        self._offsets = np.empty(len(self), np.int64)
        self.lengths: npt.NDArray[np.uint32] = np.empty(len(self), np.uint32)
        self.heights: npt.NDArray[np.int32] = np.empty(len(self), np.int32)
        self.widths: npt.NDArray[np.int32] = np.empty(len(self), np.int32)
        self.labels: npt.NDArray[np.int64] = np.empty(len(self), np.int64)
        self._keys: npt.NDArray[np.bytes_] | None = None
        self._seek = SeekIndex(self.dataset, shards)
        for end, shard in zip(self._ends, shards, strict=True):
            rows = slice(end - shard.records, end)
            part = self._read_index(shard)
            self._offsets[rows] = part["offset"]
            self.lengths[rows] = part["length"]
            self.heights[rows] = part["height"]
            self.widths[rows] = part["width"]
            self.labels[rows] = part["label"]

    def _read_index(self, shard: ShardInfo) -> IndexArray:
        part = read_index(self.dataset, shard)
        # Only what did not come from pack but carries its checksums can fail here.
        if len(part) and (part["offset"].max() >= shard.data_bytes or part["length"].max() > shard.data_bytes):
            raise DamagedDataError(f"{self.dataset / shard.index_path} points outside its shard: pack again")
        if len(part) and not UNLABELLED <= part["label"].min() <= part["label"].max() < self.info.num_classes:
            raise DamagedDataError(
                f"{self.dataset / shard.index_path} holds labels outside -1..{self.info.num_classes - 1}: pack again"
            )
        return part

    @property
    def index(self) -> IndexArray:
        """The split's whole index, (records,) rows of `index_dtype` in record order, keys padded to the longest.

        Read from the files at each call: `labels`, `heights`, `widths`, `lengths` and `keys` cost nothing more.
        """
        parts = [self._read_index(shard) for shard in self.split_info.shards]
        joined = np.empty(len(self), dtype=index_dtype(max((p.dtype["key"].itemsize for p in parts), default=1)))
        for end, part in zip(self._ends, parts, strict=True):
            joined[end - len(part) : end] = part
        return joined

    def __len__(self) -> int:
        return self.split_info.records

    def locate(self, record: int) -> tuple[str, int]:
        """(shard path, position in it) of a record number.

        Raises:
            IndexError: there is no such record.
        """
        shard = self._shard_of(record)
        info = self.split_info.shards[shard]
        return info.path, record - self._ends[shard] + info.records

    def _shard_of(self, record: int) -> int:
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        return bisect_right(self._ends, record)

    def describe(self, record: int) -> str:
        """Words that let a person find a record: shard, position and the source's key."""
        path, position = self.locate(record)
        return f"record {position} of {path} (key {self.key(record)!r})"

    def key(self, record: int) -> str:
        """The image's name at its source; one shard's index is read for it.

        Raises:
            IndexError: there is no such record.
        """
        shard = self._shard_of(record)
        info = self.split_info.shards[shard]
        return _text(read_index(self.dataset, info)["key"][record - self._ends[shard] + info.records])

    def keys(self, records: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """The images' names at their source. The first call reads every index once more and keeps the names.

        Raises:
            IndexError: there is no such record.
        """
        numbers = self._check(records)
        if self._keys is None:
            self._keys = self.index["key"].copy()
        return [_text(key) for key in self._keys[numbers]]

    def read(self, record: int) -> bytes:
        """The encoded JPEG of one record.

        Raises:
            IndexError: there is no such record.
            DamagedDataError: the record is not where the index says, or is not of that length and label.
        """
        return self.read_many((record,))[0]

    def read_many(self, records: Sequence[int] | npt.NDArray[np.int64]) -> list[bytes]:
        """The encoded JPEGs of several records, in the order asked for.

        Raises:
            IndexError, DamagedDataError: as `read`.
        """
        return [bytes(view) for view in self.view_many(records)]

    def view_many(self, records: Sequence[int] | npt.NDArray[np.int64]) -> list[memoryview]:
        """As `read_many` with a copy less: read-only views, which keep what they show alive.

        Raises:
            IndexError, DamagedDataError: as `read`.
        """
        numbers = self._check(records)
        if self.cache is None or not self.cache.is_ours():  # a worker's shards were waited for before it was asked
            return self._views(numbers)
        with self.cache.held(np.unique(np.searchsorted(self._ends, numbers, side="right")).tolist()):
            return self._views(numbers)

    def _views(self, numbers: npt.NDArray[np.int64]) -> list[memoryview]:
        shards = np.searchsorted(self._ends, numbers, side="right").tolist()
        offsets, lengths = self._offsets[numbers].tolist(), self.lengths[numbers].tolist()
        views: list[memoryview] = []
        for shard, offset, length, label in zip(shards, offsets, lengths, self.labels[numbers].tolist(), strict=True):
            tail = _datum_tail(label)
            # Held for this one read only: a batch may touch more shards than may be open at once.
            file = open_files.get(self._files[shard])
            try:
                value = read_at(file.descriptor, length + len(tail), offset)
            except OSError as error:
                raise storage_error(error, self._files[shard].path) from None
            # Behind the image stands its label, so a file that is not the index's own is noticed here.
            if len(value) != length + len(tail) or not value.endswith(tail):
                record = int(numbers[len(views)])
                raise DamagedDataError(
                    f"{self.describe(record)} does not match its index: run `alexnet-fast verify {self.dataset}`"
                )
            views.append(memoryview(value)[:length])
        return views

    def seek_entries(self, records: Sequence[int] | npt.NDArray[np.int64]) -> list[bytes | None] | None:
        """What `images.Cropper` takes as `seeks` for these records; None where the split has no seek index.

        Raises:
            IndexError, StorageError: as `read`.
        """
        return self._seek.entries(self._check(records)) if self._seek.exists else None

    def _check(self, records: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        numbers = np.asarray(records, dtype=np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"records {numbers.min()} to {numbers.max()} of {len(self)}")
        return numbers

    def evict(self, records: Sequence[int] | npt.NDArray[np.int64]) -> bool:
        """Drop these records, and what lies up to 2 MiB around them, from the system's page cache.

        Returns:
            False where the system cannot be asked to.
        """
        if not hasattr(os, "posix_fadvise"):
            return False
        numbers = self._check(records)
        for number, shard in zip(numbers, np.searchsorted(self._ends, numbers, side="right").tolist(), strict=True):
            begin = int(self._offsets[number]) // _LARGEST_FOLIO * _LARGEST_FOLIO
            end = -(-(int(self._offsets[number]) + int(self.lengths[number])) // _LARGEST_FOLIO) * _LARGEST_FOLIO
            file = open_files.get(self._files[shard])
            try:
                os.posix_fadvise(file.descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Close this process's files of the split; a later read opens them again."""
        open_files.drop(self._files)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_keys": None, "cache": None}


def _text(key: Any) -> str:
    return bytes(key).decode(errors="replace")
