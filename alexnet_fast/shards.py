"""The packed data set on disk: LMDB shards of Caffe ``Datum`` records, an index beside each, and dataset.json.

This module alone imports lmdb. The layout::

    DATASET/
      dataset.json                          classes, splits, shards with their checksums, how it was packed
      train-00000-of-00008.lmdb/data.mdb    records in shuffled order; key = position in the shard, 8 decimal digits
      train-00000-of-00008.index.npy        one row per record: crc32, length, width, height, label, key at the source

A record's value is the protobuf message ``Datum`` of Caffe with three fields: data (4) the encoded JPEG, label (5),
encoded (7) true. Every entry of the database is a record, so any Caffe LMDB reader takes a shard as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt

from .errors import DamagedDataError, UsageError

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
UNLABELLED = -1
KEY_DIGITS = 8
MAX_RECORDS_PER_SHARD = 10**KEY_DIGITS
_SHARD_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-\d{5}-of-\d{5}\.lmdb")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# One write transaction holds its dirty pages in memory, so this bounds what a writer holds.
_COMMIT_BYTES = 32 << 20
_U32 = 0xFFFFFFFF

IndexArray = npt.NDArray[np.void]


def index_dtype(key_bytes: int) -> np.dtype[np.void]:
    """The row of an index whose longest key has `key_bytes` bytes: 20 bytes and the key, little-endian, packed."""
    return np.dtype(
        [
            ("crc32", "<u4"), ("length", "<u4"), ("width", "<u4"), ("height", "<u4"), ("label", "<i4"),
            ("key", f"S{max(1, key_bytes)}"),
        ]
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Caffe's Datum. Three fields of one message are all there is: a codec of a screen spares a dependency and a code
# generator, and its decoder hands out the picture without copying it.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(buffer: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise DamagedDataError("the record is not a Datum message: it ends within a number")
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def encode_datum(data: bytes, label: int) -> bytes:
    """A serialised ``Datum`` with data, label (int32) and encoded=true."""
    # protobuf writes a negative int32 as the ten bytes of its 64-bit two's complement.
    return b"".join((b"\x22", _varint(len(data)), data, b"\x28", _varint(label & 0xFFFFFFFFFFFFFFFF), b"\x38\x01"))


def decode_datum(record: bytes | memoryview) -> tuple[memoryview, int]:
    """(encoded picture, label) of a serialised ``Datum``; fields that this format does not use are passed over.

    The picture is a view into `record`, not a copy.

    Raises:
        DamagedDataError: `record` is not such a message.
    """
    buffer = memoryview(record).cast("B")
    data: memoryview | None = None
    label = 0
    at = 0
    while at < len(buffer):
        tag, at = _read_varint(buffer, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(buffer, at)
            if tag == 0x28:
                value &= _U32
                label = value - (1 << 32) if value >> 31 else value
            continue
        if kind == 2:
            size, at = _read_varint(buffer, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise DamagedDataError(f"the record is not a Datum message: it has a field of wire type {kind}")
        if size > len(buffer) - at:
            raise DamagedDataError("the record is not a Datum message: it ends within a field")
        if tag == 0x22:
            data = buffer[at : at + size]
        at += size
    if data is None:
        raise DamagedDataError("the record is not a Datum message with a picture in it")
    return data, label


# ---------------------------------------------------------------------------------------------------------------------
# dataset.json


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard as dataset.json lists it.

    Attributes:
        path: folder name of the LMDB environment, within DATASET.
        records: entries in it.
        bytes: of all its pictures together, without LMDB's pages.
        sha256: of the index file.
        data_bytes, data_sha256: size and SHA-256 of data.mdb, so that damage to LMDB's own pages is found without
            handing them to LMDB.
    """

    path: str
    records: int
    bytes: int
    sha256: str
    data_bytes: int
    data_sha256: str

    @property
    def index_path(self) -> str:
        """File name of the index, within DATASET."""
        return self.path.removesuffix(".lmdb") + ".index.npy"


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split as dataset.json lists it: totals, and its shards in order."""

    records: int
    bytes: int
    labelled: bool
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """One class: its label, its WordNet id (or folder name) and a readable name."""

    index: int
    wnid: str
    name: str


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The contents of dataset.json.

    Attributes:
        classes: in label order.
        splits: by name.
        packing: how it was packed: source, options, seed, pictures re-encoded or left out.
    """

    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, SplitInfo]
    packing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> SplitInfo:
        """The split of that name.

        Raises:
            UsageError: there is none; the text names those there are.
        """
        if name not in self.splits:
            raise UsageError(f"the data set has no split {name!r}; it has: {', '.join(self.splits) or 'none'}")
        return self.splits[name]

    def to_json(self) -> str:
        """The text of dataset.json: sorted keys, two spaces, and a SHA-256 of itself under ``checksum``."""
        content: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "classes": [asdict(c) for c in self.classes],
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "packing": dict(self.packing),
        }
        content["checksum"] = _checksum(content)
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _checksum(content: Mapping[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_dataset_info(dataset: Path, info: DatasetInfo) -> None:
    """Put dataset.json in place in one step: written aside, synced, renamed."""
    write_file_atomically(dataset / MANIFEST, info.to_json().encode())


def write_file_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that after a crash there is the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


def read_dataset_info(dataset: Path | str) -> DatasetInfo:
    """Read and check DATASET/dataset.json.

    Raises:
        UsageError: there is none, or its format is one that this version does not know.
        DamagedDataError: it is not what pack wrote: unreadable, altered, or with values out of bounds.
    """
    path = Path(dataset) / MANIFEST
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{dataset} is not a packed data set (it has no {MANIFEST}): "
            "make one with `alexnet-fast pack SOURCE DATASET`"
        ) from None
    except UnicodeDecodeError:
        raise DamagedDataError(f"{path} is damaged (not UTF-8 text): pack the data set again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedDataError(f"{path} is damaged (not JSON: {error}): pack the data set again") from None
    if not isinstance(content, dict) or not _is_whole(content.get("format")):
        raise DamagedDataError(f"{path} is damaged (it names no format): pack the data set again")
    if content["format"] != FORMAT_VERSION:
        raise UsageError(
            f"{path} has format {content['format']} and this version of alexnet-fast reads format {FORMAT_VERSION}: "
            "use the version that wrote it, or pack again"
        )
    if content.get("checksum") != _checksum(content):
        raise DamagedDataError(f"{path} was altered after packing (its checksum differs): pack the data set again")
    try:
        return _parse_info(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedDataError(f"{path} is damaged ({error}): pack the data set again") from None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(entry: Mapping[str, Any], name: str, most: int = 2**62) -> int:
    value = entry[name]
    if not _is_whole(value) or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r}")
    return int(value)


def _parse_info(content: Mapping[str, Any]) -> DatasetInfo:
    classes = tuple(
        ClassInfo(index=_count(c, "index"), wnid=str(c["wnid"]), name=str(c["name"])) for c in content["classes"]
    )
    if [c.index for c in classes] != list(range(len(classes))):
        raise ValueError("class indices are not 0, 1, 2, ...")
    splits = {}
    for name, entry in content["splits"].items():
        if not _SPLIT_NAME.fullmatch(name):
            raise ValueError(f"split name {name!r}")
        shards = tuple(_parse_shard(shard) for shard in entry["shards"])
        split = SplitInfo(
            records=_count(entry, "records"),
            bytes=_count(entry, "bytes"),
            labelled=bool(entry["labelled"]),
            shards=shards,
        )
        if split.records != sum(s.records for s in shards) or split.bytes != sum(s.bytes for s in shards):
            raise ValueError(f"the totals of split {name!r} are not the sums over its shards")
        splits[name] = split
    return DatasetInfo(classes=classes, splits=splits, packing=dict(content["packing"]))


def _parse_shard(entry: Mapping[str, Any]) -> ShardInfo:
    # The path is joined to DATASET and opened, so it must not be able to leave it.
    if not isinstance(entry["path"], str) or not _SHARD_PATH.fullmatch(entry["path"]):
        raise ValueError(f"shard path {entry['path']!r}")
    return ShardInfo(
        path=entry["path"],
        records=_count(entry, "records", MAX_RECORDS_PER_SHARD),
        bytes=_count(entry, "bytes"),
        sha256=str(entry["sha256"]),
        data_bytes=_count(entry, "data_bytes"),
        data_sha256=str(entry["data_sha256"]),
    )


def shard_name(split: str, number: int, of: int) -> str:
    """Name of a shard without its ending: 'train-00000-of-00008'.

    Raises:
        UsageError: the split's name would not be safe as a file name.
    """
    if not _SPLIT_NAME.fullmatch(split):
        raise UsageError(
            f"a split's name may hold letters, digits, '_', '.' and '-' and not begin with '.': got {split!r}"
        )
    return f"{split}-{number:05d}-of-{of:05d}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Writing


# A serialised Datum, and its row of the index: crc32, length, width, height, label, key.
PreparedRecord = tuple[bytes, tuple[int, int, int, int, int, bytes]]


def prepare_record(data: bytes, *, label: int, width: int, height: int, key: str | bytes) -> PreparedRecord:
    """What `ShardWriter.add_many` takes: the work on a record that any process can do."""
    name = key.encode() if isinstance(key, str) else key
    return encode_datum(data, label), (zlib.crc32(data), len(data), width, height, label, name)


class ShardWriter:
    """Writes one shard; it appears under its final name only when `finish` has written, synced and checked it.

    Use as a context manager: leaving it without `finish` (an error, Ctrl-C) removes what was begun. What a killed
    process leaves is one folder ``.NAME.partial``, which the next writer of that name replaces.

    Args:
        dataset: folder of the data set; must exist.
        name: from `shard_name`.
        expected_bytes: of all pictures to come; LMDB's map begins at that size and grows where it was too small.
    """

    def __init__(self, dataset: Path, name: str, *, expected_bytes: int = 0) -> None:
        self._dataset = Path(dataset)
        self._name = name
        self._aside = self._dataset / f".{name}.partial"
        self._rows: list[tuple[int, int, int, int, int, bytes]] = []
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_bytes = 0
        shutil.rmtree(self._aside, ignore_errors=True)
        (self._aside / "lmdb").mkdir(parents=True)
        # A value of over half a page takes whole pages of its own: 1.25 x and 16 MiB cover all but small pictures.
        map_size = _round_to_pages(max(1 << 20, expected_bytes + expected_bytes // 4 + (16 << 20)))
        # No sync on each commit: the file is synced once, before its rename; a torn one is never looked at.
        self._env: lmdb.Environment | None = lmdb.open(
            str(self._aside / "lmdb"), map_size=map_size, subdir=True, lock=False, sync=False, metasync=False, max_dbs=0
        )

    def add(self, data: bytes, *, label: int, width: int, height: int, key: str | bytes) -> None:
        """Append a record. `data` is the encoded JPEG, `label` -1 for none, `key` the picture's name at its source."""
        self.add_many([prepare_record(data, label=label, width=width, height=height, key=key)])

    def add_many(self, records: Sequence[PreparedRecord]) -> None:
        """Append records that `prepare_record` made, perhaps in other processes."""
        position = len(self._rows)
        if position + len(records) > MAX_RECORDS_PER_SHARD:
            raise UsageError(f"a shard holds at most {MAX_RECORDS_PER_SHARD} records: choose a smaller --shard-bytes")
        for number, (datum, row) in enumerate(records, position):
            self._pending.append((b"%08d" % number, datum))
            self._rows.append(row)
            self._pending_bytes += row[1]
        if self._pending_bytes >= _COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        assert self._env is not None
        while self._pending:
            try:
                with self._env.begin(write=True) as txn:
                    _, added = txn.cursor().putmulti(self._pending, append=True)
                    if added != len(self._pending):
                        raise DamagedDataError(f"LMDB refused a record of shard {self._name}")
                self._pending.clear()
            except lmdb.MapFullError:
                # The transaction is undone as a whole, so after growing the map the same records are put again.
                self._env.set_mapsize(_round_to_pages(self._env.info()["map_size"] * 3 // 2 + 2 * self._pending_bytes))
        self._pending_bytes = 0

    def finish(self) -> ShardInfo:
        """Commit, sync, check and rename; returns what dataset.json says of the shard.

        Raises:
            DamagedDataError: what lies on the disk is not what was added.
        """
        assert self._env is not None
        self._commit()
        self._env.sync(True)
        entries = self._env.stat()["entries"]
        self._env.close()
        self._env = None
        if entries != len(self._rows):
            raise DamagedDataError(
                f"shard {self._name} holds {entries} records, not the {len(self._rows)} written to it"
            )
        (self._aside / "lmdb" / "lock.mdb").unlink(missing_ok=True)
        index = np.array(self._rows, dtype=index_dtype(max((len(row[5]) for row in self._rows), default=1)))
        with open(self._aside / "index.npy", "wb") as file:
            np.save(file, index, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._aside / "lmdb")
        info = _describe(self._name, self._aside / "lmdb" / "data.mdb", self._aside / "index.npy", index)
        # This process may still hold an environment of that path open, of a shard since removed.
        _environments.close([self._dataset / info.path])
        # The index goes first: where the LMDB folder has its final name, the shard is complete.
        os.replace(self._aside / "index.npy", self._dataset / info.index_path)
        os.replace(self._aside / "lmdb", self._dataset / info.path)
        self._aside.rmdir()
        sync_folder(self._dataset)
        return info

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


def _round_to_pages(size: int) -> int:
    # 64 KiB is a multiple of every page size in use.
    return -(-size // 65536) * 65536


def _describe(name: str, data: Path, index_file: Path, index: IndexArray) -> ShardInfo:
    return ShardInfo(
        path=f"{name}.lmdb",
        records=len(index),
        bytes=int(index["length"].sum(dtype=np.int64)),
        sha256=file_sha256(index_file),
        data_bytes=data.stat().st_size,
        data_sha256=file_sha256(data),
    )


def describe_shard(dataset: Path, name: str) -> ShardInfo | None:
    """What dataset.json would say of a finished shard that lies in `dataset`, from its files; None if there is none.

    Raises:
        DamagedDataError: its index cannot be read.
    """
    folder, index_file = dataset / f"{name}.lmdb", dataset / f"{name}.index.npy"
    if not folder.is_dir():
        return None
    return _describe(name, folder / "data.mdb", index_file, _load_index(index_file))


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _load_index(path: Path) -> IndexArray:
    try:
        index = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DamagedDataError(f"{path} is missing: restore it or pack the data set again") from None
    except OSError as error:
        raise DamagedDataError(f"{path} cannot be read ({error.strerror or error}): restore it or pack again") from None
    except Exception as error:  # numpy raises what its parsers meet: ValueError, EOFError, SyntaxError, TypeError ...
        raise DamagedDataError(f"{path} is damaged ({type(error).__name__}): restore it or pack again") from None
    names = index_dtype(1).names
    if index.ndim != 1 or index.dtype.names != names or index.dtype != index_dtype(index.dtype["key"].itemsize):
        raise DamagedDataError(f"{path} is damaged (not an index): restore it or pack again")
    return index


class _Environments:
    """This process's open LMDB environments, by path: LMDB forbids a second open, and none may cross a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._open: OrderedDict[str, tuple[lmdb.Environment, lmdb.Transaction]] = OrderedDict()
        self._held: Counter[str] = Counter()  # how many readers have views into an environment
        self._most = _most_open_files()

    def read(self, folder: Path, key: bytes, take: Callable[[memoryview], Any]) -> Any:
        """``take(value)`` of an entry, called while the value is sure to stay mapped; None if there is no such key."""
        # A get is a few look-ups in mapped memory: one lock for all threads costs less than a transaction a thread.
        with self._lock:
            value = self._opened(folder)[1].get(key)
            return None if value is None else take(value)

    def entries(self, folder: Path) -> int:
        """Entries that an environment says it has."""
        with self._lock:
            return int(self._opened(folder)[0].stat()["entries"])

    def view(self, folders: Sequence[Path], keys: Sequence[bytes]) -> list[memoryview | None]:
        """The values of entries (folder, key), still mapped; only of held environments do they stay so."""
        with self._lock:
            transactions = {folder: self._opened(folder)[1] for folder in set(folders)}
            values = [transactions[folder].get(key) for folder, key in zip(folders, keys, strict=True)]
            return [value if value is None else memoryview(value) for value in values]

    def hold(self, folders: Sequence[Path]) -> bool:
        """Keep environments open until `release`; False (and nothing done) where that might exhaust the files."""
        with self._lock:
            self._leave_parent()
            names = [str(folder) for folder in folders]
            if len(self._held.keys() | set(names)) > self._most // 2:
                return False
            self._held.update(names)
            return True

    def release(self, folders: Sequence[Path]) -> None:
        with self._lock:
            self._leave_parent()
            self._held -= Counter(str(folder) for folder in folders)

    def _leave_parent(self) -> None:
        if self._pid != os.getpid():
            # Forgotten, not closed: closing in the child would unmap what the parent still uses through its fds.
            self._open, self._held, self._pid = OrderedDict(), Counter(), os.getpid()

    def _opened(self, folder: Path) -> tuple[lmdb.Environment, lmdb.Transaction]:
        self._leave_parent()
        path = str(folder)
        entry = self._open.get(path)
        if entry is not None:
            self._open.move_to_end(path)
            return entry
        entry = self._open[path] = self._enter(folder)
        surplus = max(0, len(self._open) - self._most)
        for old in [p for p in self._open if p not in self._held and p != path][:surplus]:
            self._discard(old)
        return entry

    def _discard(self, path: str) -> None:
        entry = self._open.pop(path, None)
        if entry is not None:
            entry[1].abort()
            entry[0].close()

    @staticmethod
    def _enter(folder: Path) -> tuple[lmdb.Environment, lmdb.Transaction]:
        try:
            env = lmdb.open(str(folder), readonly=True, lock=False, create=False, readahead=False, subdir=True)
        except lmdb.Error as error:
            raise DamagedDataError(f"{folder} cannot be opened ({error}): run `alexnet-fast verify`") from None
        info = env.info()
        needed = (info["last_pgno"] + 1) * env.stat()["psize"]
        size = (folder / "data.mdb").stat().st_size
        if size < needed:
            env.close()  # reading past the end of a mapped file would kill the process (SIGBUS)
            raise DamagedDataError(
                f"{folder}/data.mdb is cut short: {size} bytes of {needed}; restore it or pack again"
            )
        return env, env.begin(buffers=True)

    def close(self, folders: Sequence[Path]) -> None:
        with self._lock:
            if self._pid != os.getpid():
                return
            for folder in folders:
                if str(folder) not in self._held:
                    self._discard(str(folder))


def _most_open_files() -> int:
    """How many environments may be open at once: two thirds of the file descriptors this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):
            pass
    return max(16, soft * 2 // 3)


_environments = _Environments()


class ShardReader:
    """Random access to one split by record number, 0 to len - 1, over all its shards.

    Pickling keeps paths and indices, never an environment, so a reader may go to worker processes under fork and
    spawn. Reads are safe from several threads.

    Attributes:
        index: the split's index, rows in record order (keys padded to the longest of all shards).
        labels: (records,) int64.

    Raises:
        UsageError, DamagedDataError: as `read_dataset_info`; also where an index is not what dataset.json says.
    """

    def __init__(self, dataset: Path | str, split: str) -> None:
        self.dataset = Path(dataset).resolve()
        self.info = read_dataset_info(dataset)
        self.split = split
        self.split_info = self.info.split(split)
        shards = self.split_info.shards
        self._folders = [self.dataset / shard.path for shard in shards]
        self._starts = np.cumsum([0] + [shard.records for shard in shards])
        self._holder: int | None = None  # the process in which this reader keeps its environments open
        self.index: IndexArray = self._read_index()
        self.labels: npt.NDArray[np.int64] = self.index["label"].astype(np.int64)

    def _read_index(self) -> IndexArray:
        parts = [read_index(self.dataset, shard) for shard in self.split_info.shards]
        if not parts:
            return np.empty(0, dtype=index_dtype(1))
        joined = np.empty(len(self), dtype=index_dtype(max(part.dtype["key"].itemsize for part in parts)))
        for start, part in zip(self._starts, parts, strict=False):
            joined[start : start + len(part)] = part
        most = self.info.num_classes
        labels = joined["label"]
        if len(labels) and (labels.min() < UNLABELLED or labels.max() >= most):
            raise DamagedDataError(f"an index of split {self.split!r} holds labels outside -1..{most - 1}: pack again")
        return joined

    def __len__(self) -> int:
        return self.split_info.records

    def locate(self, record: int) -> tuple[str, int]:
        """(shard path, position in it) of a record number."""
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        shard = int(np.searchsorted(self._starts, record, side="right")) - 1
        return self.split_info.shards[shard].path, record - int(self._starts[shard])

    def describe(self, record: int) -> str:
        """Words that let a person find a record: shard, position and the source's key."""
        path, position = self.locate(record)
        return f"record {position} of {path} (key {self.key(record)!r})"

    def key(self, record: int) -> str:
        """The picture's name at its source."""
        return bytes(self.index["key"][record]).decode(errors="replace")

    def read(self, record: int) -> bytes:
        """The encoded JPEG of one record.

        Raises:
            DamagedDataError: the record is missing, or its length or label is not what the index says.
        """
        path, position = self.locate(record)
        found = _environments.read(self.dataset / path, b"%08d" % position, _copy_datum)
        if found is None:
            raise DamagedDataError(f"{self.describe(record)} is missing: run `alexnet-fast verify {self.dataset}`")
        data, label = found
        if len(data) != self.index["length"][record] or label != self.index["label"][record]:
            raise DamagedDataError(
                f"{self.describe(record)} does not match its index: run `alexnet-fast verify {self.dataset}`"
            )
        return data

    def read_many(self, records: Sequence[int] | npt.NDArray[np.int64]) -> list[bytes]:
        """The encoded JPEGs of several records, in the order asked for."""
        return [self.read(int(record)) for record in records]

    def view_many(self, records: npt.NDArray[np.int64]) -> list[memoryview]:
        """As `read_many` without copying: read-only views into the mapped shards, valid until `close`.

        The environments stay open for as long, whatever other readers of the split do.
        """
        if self._holder != os.getpid():
            if not _environments.hold(self._folders):  # too many shards to keep all of them mapped
                return [memoryview(jpeg) for jpeg in self.read_many(records)]
            self._holder = os.getpid()
        shards = np.searchsorted(self._starts, records, side="right") - 1
        positions = records - self._starts[shards]
        folders, keys = [self._folders[i] for i in shards.tolist()], [b"%08d" % i for i in positions.tolist()]
        lengths, labels = self.index["length"][records].astype(np.int64), self.labels[records]
        # Where fields are in this package's order, lengths tell where the picture lies; parsing costs 16 times more.
        begins = 1 + _varint_bytes(lengths)
        sizes = begins + lengths + 1 + np.where(labels < 0, 10, _varint_bytes(labels)) + 2
        views = []
        for record, value, begin, length, size in zip(
            records, _environments.view(folders, keys), begins.tolist(), lengths.tolist(), sizes.tolist(), strict=True
        ):
            if value is None or len(value) != size or value[0] != 0x22 or value[begin + length] != 0x28:
                views.append(memoryview(self.read(int(record))))  # another writer's field order, or damage: it says
            else:
                views.append(value[begin : begin + length])
        return views

    def close(self) -> None:
        """Close this process's environments of the split; a later read opens them again."""
        if self._holder == os.getpid():
            _environments.release(self._folders)
        self._holder = None
        _environments.close(self._folders)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_holder": None}


def _varint_bytes(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many bytes each number, 0 to 2**35 - 1, takes as a varint."""
    return np.searchsorted([1 << 7, 1 << 14, 1 << 21, 1 << 28], values, side="right") + 1


def _copy_datum(value: memoryview) -> tuple[bytes, int]:
    data, label = decode_datum(value)
    return bytes(data), label


def read_index(dataset: Path, shard: ShardInfo) -> IndexArray:
    """One shard's index: (records,) rows of `index_dtype`, checked against dataset.json.

    Raises:
        DamagedDataError: it is missing, altered, or of another length.
    """
    path = dataset / shard.index_path
    index = _load_index(path)
    if len(index) != shard.records:
        raise DamagedDataError(f"{path} has {len(index)} rows where {MANIFEST} says {shard.records}: restore it")
    if file_sha256(path) != shard.sha256:
        raise DamagedDataError(f"{path} was altered after packing (its checksum differs): restore it or pack again")
    return index


def iterate_shard(dataset: Path, shard: ShardInfo, start: int, stop: int) -> Iterator[tuple[bytes, int] | str]:
    """Entries `start` to `stop` of one shard as they lie in LMDB: (picture, label), or what is wrong with the record.

    For checking a shard that may be damaged; run it in a process that may be lost, since LMDB trusts its pages.

    Raises:
        DamagedDataError: the shard cannot be opened.
    """
    folder = dataset / shard.path
    if not (folder / "data.mdb").is_file():
        raise DamagedDataError(f"{folder}/data.mdb is missing: restore it or pack the data set again")
    _environments.entries(folder)
    for position in range(start, stop):
        try:
            found = _environments.read(folder, b"%08d" % position, _copy_datum)
        except DamagedDataError as error:
            yield str(error)
        except lmdb.Error as error:
            yield f"LMDB cannot read it ({error})"
        else:
            yield "it is missing" if found is None else found


def close_shards(dataset: Path, shards: Iterable[ShardInfo]) -> None:
    """Close this process's environments of those shards."""
    _environments.close([dataset / shard.path for shard in shards])


def count_entries(dataset: Path, shard: ShardInfo) -> int:
    """Entries that LMDB says one shard has."""
    return _environments.entries(dataset / shard.path)
