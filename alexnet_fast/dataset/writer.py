"""Writing a shard: records into LMDB, then the index with the place of each."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DamagedDataError, StorageError, UsageError
from ..system import file_sha256, read_at, storage_error, storage_errors, sync_folder
from .datum import datum_frame, datum_frame_sizes, encode_datum
from .index import IndexArray, index_dtype, load_index
from .lmdb_pages import value_places
from .manifest import MAX_RECORDS_PER_SHARD, ShardInfo
from .seek import seek_bytes, seek_path

if TYPE_CHECKING:
    import lmdb

# One write transaction holds its dirty pages in memory, so this bounds what a writer holds.
_COMMIT_BYTES = 32 << 20
# A disk with less room than this is called full.
_FULL = 1 << 20
# What is known of a row of the index when a record is added; kept packed, since a shard may hold millions.
_ROW = struct.Struct("<IIIIi")
_NUMBERS = np.dtype([(name, index_dtype(1)[name]) for name in ("crc32", "length", "width", "height", "label")])


class ShardWriter:
    """Writes one shard; it appears under its final name only when `finish` has written, synced and checked it.

    Use as a context manager: leaving it without `finish` (an error, Ctrl-C) removes what was begun. What a killed
    process leaves is one folder ``.NAME.partial``, which the next writer of that name replaces.

    Args:
        dataset: folder of the data set; must exist.
        name: from `shard_name`.
        expected_bytes: of all images to come; LMDB's map begins at that size and grows where it was too small.

    Raises:
        StorageError: here and in every method, where the file system refuses (no space, no permission).
    """

    def __init__(self, dataset: Path, name: str, *, expected_bytes: int = 0) -> None:
        import lmdb  # reading a data set goes without it

        self._dataset = Path(dataset)
        self._name = name
        self._aside = self._dataset / f".{name}.partial"
        self._numbers = bytearray()
        self._keys: list[bytes] = []
        self._seeks: list[bytes] = []
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        self._env: lmdb.Environment | None = None
        # A value of over half a page takes whole pages of its own: 1.25 x and 16 MiB cover all but small images.
        map_size = _round_to_pages(max(1 << 20, expected_bytes + expected_bytes // 4 + (16 << 20)))
        try:
            with _refusals(self._aside):
                _remove(self._aside)
                (self._aside / "lmdb").mkdir(parents=True)
                # No sync on each commit: the file is synced once, before its rename; a torn one is never looked at.
                # As bytes: of a path that the locale cannot spell, py-lmdb would not take the str.
                folder = os.fsencode(self._aside / "lmdb")
                self._env = lmdb.open(folder, map_size=map_size, lock=False, sync=False, metasync=False, max_dbs=0)
        except StorageError:
            self.abort()  # the folder may be made and the file not: nobody holds this writer yet who would end it
            raise

    def add(self, data: bytes, *, label: int, width: int, height: int, key: str | bytes, seek: bytes = b"") -> None:
        """Append a record.

        Args:
            data: the encoded JPEG.
            label: -1 for none.
            width, height: pixels.
            key: the image's name at its source.
            seek: its entry of the seek index; empty for none.
        """
        position = len(self._keys)
        if position == MAX_RECORDS_PER_SHARD:
            raise UsageError(f"a shard holds at most {MAX_RECORDS_PER_SHARD} records: choose a smaller --shard-bytes")
        datum = encode_datum(data, label)
        self._pending.append((b"%08d" % position, datum))
        self._pending_bytes += len(datum)
        self._numbers += _ROW.pack(zlib.crc32(data), len(data), width, height, label)
        self._keys.append(key.encode(errors="surrogateescape") if isinstance(key, str) else key)
        self._seeks.append(seek)
        if self._pending_bytes >= _COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        import lmdb

        assert self._env is not None
        while self._pending:
            with _refusals(self._aside):
                try:
                    with self._env.begin(write=True) as transaction:
                        _, added = transaction.cursor().putmulti(self._pending, append=True)
                    if added != len(self._pending):
                        raise DamagedDataError(f"LMDB took {added} of {len(self._pending)} records of {self._name}")
                    self._pending.clear()
                except lmdb.MapFullError:
                    # The transaction is undone as a whole, so after growing the map the same records are put again.
                    size = self._env.info()["map_size"] * 3 // 2 + 2 * self._pending_bytes
                    self._env.set_mapsize(_round_to_pages(size))
        self._pending_bytes = 0

    def finish(self) -> ShardInfo:
        """Commit, sync, check and rename; returns what dataset.json says of the shard.

        Raises:
            DamagedDataError: what lies on the disk is not what was added.
        """
        assert self._env is not None
        self._commit()
        data, index_file = self._aside / "lmdb" / "data.mdb", self._aside / "index.npy"
        with _refusals(self._aside), ThreadPoolExecutor(2) as beside:
            self._env.close()
            self._env = None
            (self._aside / "lmdb" / "lock.mdb").unlink(missing_ok=True)
            # The disk writes, one core hashes, and another finds the records' places: each takes about as long.
            synced, hashed = beside.submit(_sync_file, data), beside.submit(file_sha256, data)
            index = self._make_index(data)
            with open(index_file, "wb") as file:
                np.save(file, index, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            info = _describe(self._name, data, index_file, index, data_sha256=hashed.result())
            seek_file = self._write_seeks(info.sha256)
            synced.result()
            sync_folder(data.parent)
            # A shard of that name from before goes first, then comes the index: where the LMDB folder has its final
            # name, the shard is complete and the index is its own.
            _remove(self._dataset / info.path)
            os.replace(index_file, self._dataset / info.index_path)
            (self._dataset / seek_path(info)).unlink(missing_ok=True)
            if seek_file is not None:
                os.replace(seek_file, self._dataset / seek_path(info))
            os.replace(data.parent, self._dataset / info.path)
            self._aside.rmdir()
            sync_folder(self._dataset)
        return info

    def _write_seeks(self, index_sha256: str) -> Path | None:
        """The seek index, written and synced; None where no record has an entry."""
        if not any(self._seeks):
            return None
        path = self._aside / "seek"
        with open(path, "wb") as file:
            file.write(seek_bytes(index_sha256, self._seeks))
            file.flush()
            os.fsync(file.fileno())
        return path

    def _make_index(self, data: Path) -> IndexArray:
        """The index of the written file, each value in it checked to be there and of the right size."""
        index = np.zeros(len(self._keys), dtype=index_dtype(max(map(len, self._keys), default=1)))
        numbers = np.frombuffer(self._numbers, dtype=_NUMBERS)
        for column in _NUMBERS.names or ():
            index[column] = numbers[column]
        index["key"] = self._keys
        offsets, sizes = value_places(data)
        if len(offsets) != len(index):
            raise DamagedDataError(f"{data} holds {len(offsets)} records, not the {len(index)} written to it")
        heads, tails = datum_frame_sizes(numbers["length"], numbers["label"])
        wrong = sizes != heads + numbers["length"] + tails
        if wrong.any():
            raise DamagedDataError(f"{data} does not hold record {wrong.argmax()} as it was written: pack again")
        # One in some thousand is looked at in the file itself, the first and the last among them.
        with open(data, "rb", buffering=0) as file:
            for row in {*range(0, len(index), 4096), len(index) - 1} - {-1}:
                head, _ = datum_frame(int(numbers["length"][row]), int(numbers["label"][row]))
                if read_at(file.fileno(), len(head), int(offsets[row])) != head:
                    raise DamagedDataError(f"{data} does not hold record {row} as it was written: pack again")
        index["offset"] = offsets + heads
        return index

    def abort(self) -> None:
        """Remove what was begun."""
        if self._env is not None:
            self._env.close()
            self._env = None
        shutil.rmtree(self._aside, ignore_errors=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """`storage_errors`, and the same for what the file system refuses to LMDB."""
    import lmdb

    try:
        with storage_errors(path):
            yield
    except lmdb.Error as error:
        # py-lmdb has no class of its own for most of the system's refusals; their text ends with the system's words.
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
            if str(error).endswith(os.strerror(number)):
                # LMDB calls it EIO when the disk took a part of what it wrote and then was full.
                if number == errno.EIO and shutil.disk_usage(path.parent).free < _FULL:
                    number = errno.ENOSPC
                raise storage_error(OSError(number, os.strerror(number)), path) from None
        raise StorageError(f"{path}: LMDB cannot write there ({error}): check the disk") from None


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def _round_to_pages(size: int) -> int:
    # 64 KiB is a multiple of every page size in use.
    return -(-size // 65536) * 65536


def _sync_file(path: Path) -> None:
    with open(path, "rb+", buffering=0) as file:
        os.fsync(file.fileno())


def _describe(name: str, data: Path, index_file: Path, index: IndexArray, *, data_sha256: str) -> ShardInfo:
    return ShardInfo(
        path=f"{name}.lmdb",
        records=len(index),
        bytes=int(index["length"].sum(dtype=np.int64)),
        sha256=file_sha256(index_file),
        data_bytes=data.stat().st_size,
        data_sha256=data_sha256,
    )


def describe_shard(dataset: Path, name: str) -> ShardInfo | None:
    """What dataset.json would say of a finished shard that lies in `dataset`, from its files; None if there is none.

    Raises:
        DamagedDataError: its index cannot be read.
    """
    folder, index_file = dataset / f"{name}.lmdb", dataset / f"{name}.index.npy"
    if not folder.is_dir():
        return None
    try:
        data = folder / "data.mdb"
        return _describe(name, data, index_file, load_index(index_file), data_sha256=file_sha256(data))
    except OSError as error:
        raise DamagedDataError(f"{folder} cannot be read ({error.strerror}): delete it and pack again") from None
