"""Verifying a packed data set: every byte of every file against its checksum, every record against its index."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DamagedDataError, StorageError, UsageError
from ..images import check, find_row_starts
from ..options import is_url
from ..system import NoProgress, Progress, WorkerPool, file_sha256, report_progress, usable_cores
from ..words import counted
from .index import IndexArray, read_index
from .manifest import DatasetInfo, ShardInfo, SplitInfo, read_dataset_info
from .reader import UNLABELLED, check_pages, iterate_shard
from .seek import SeekIndex, is_sound, seek_path

_RANGE = 4096
_SHOWN = 50
# Below so many records, starting workers costs more than they save.
_WORTH_WORKERS = 20_000


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        dataset: its folder.
        records: records that were read.
        shards: shards that were read.
        decoded: whether every image was decoded as well.
        problems: one sentence each, naming the shard and, where there is one, the record and its key.
    """

    dataset: Path
    records: int
    shards: int
    decoded: bool
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """The closing lines: what was checked, or what is wrong."""
        what = f"{counted(self.records, 'record')} in {counted(self.shards, 'shard')} of {self.dataset}"
        if self.ok:
            return f"sound: {what}{', every image decoded' if self.decoded else ''}"
        lines = [f"{counted(len(self.problems), 'problem')} among {what}:"]
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  and {len(self.problems) - _SHOWN:,} more")
        lines.append("restore what is named from a copy, or pack the data set again with --overwrite")
        return "\n".join(lines)


def verify(
    dataset: str | Path,
    *,
    decode: bool = False,
    workers: int | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> VerifyReport:
    """Read everything in DATASET and compare it with dataset.json and the indices.

    Checked are dataset.json (its own checksum), each shard's size and SHA-256, each index's SHA-256, and of each record
    its place, length, label and CRC-32, and of each seek index its checksums; with `decode` also that the image decodes
    to the size that the index says, and that the seek index is of it.

    Args:
        dataset: folder made by pack.
        decode: decode every image.
        workers: processes; 0 for none besides this one; 'auto' follows the usable cores.
        progress: told of records done.

    Raises:
        UsageError: there is no data set, or its format is not known.
        DamagedDataError: dataset.json itself is damaged.
    """
    if is_url(dataset):
        raise UsageError(f"verify reads a folder: copy {dataset} to a disk first")
    folder = Path(dataset).resolve()
    info = read_dataset_info(folder)
    total = sum(split.records for split in info.splits.values())
    report = progress or NoProgress()
    report.start(total, unit="records")
    if workers == "auto":
        workers = usable_cores() if total >= _WORTH_WORKERS or (decode and total >= _WORTH_WORKERS // 10) else 0
    problems: list[str] = []
    _seeks.cache_clear()
    _index.cache_clear()  # files may have been restored since this process last looked
    with WorkerPool(workers, on_progress=report.advance) as pool:
        for found in _problems(pool, folder, info, decode):
            problems += found
    shards = sum(len(split.shards) for split in info.splits.values())
    return VerifyReport(dataset=Path(dataset), records=total, shards=shards, decoded=decode, problems=problems)


def _problems(pool: WorkerPool, folder: Path, info: DatasetInfo, decode: bool) -> Iterator[list[str]]:
    """What is wrong, shard by shard; a shard's records are read right after its checksum, while they are in memory."""
    shards = [(split, shard) for split in info.splits.values() for shard in split.shards]
    waiting: deque[tuple[SplitInfo, ShardInfo, Future[tuple[list[str], list[str]]]]] = deque()
    for split, shard in shards:
        waiting.append((split, shard, pool.submit(check_files, folder, shard)))
        if len(waiting) > 2:
            yield from _shard_problems(pool, folder, info, decode, *waiting.popleft())
    while waiting:
        yield from _shard_problems(pool, folder, info, decode, *waiting.popleft())


def _shard_problems(
    pool: WorkerPool, folder: Path, info: DatasetInfo, decode: bool, split: SplitInfo, shard: ShardInfo,
    checked: Future[tuple[list[str], list[str]]],
) -> Iterator[list[str]]:  # fmt: skip
    wrong, wrong_index = checked.result()
    yield wrong + wrong_index
    labels = (0, info.num_classes - 1) if split.labelled else (UNLABELLED, UNLABELLED)
    ranges = [(start, min(start + _RANGE, shard.records)) for start in range(0, shard.records, _RANGE)]
    yield from pool.map(check_records, ((folder, shard, *part, labels, decode) for part in ranges))


def check_files(folder: Path, shard: ShardInfo) -> tuple[list[str], list[str]]:
    """What is wrong with a shard's two files as files: with data.mdb, with the index."""
    path = f"{shard.path}/data.mdb"
    problems, index_problems = [], []
    try:
        size = (folder / path).stat().st_size
        if size != shard.data_bytes:
            problems.append(f"{path} has {size} bytes, not {shard.data_bytes}")
        elif file_sha256(folder / path) != shard.data_sha256:
            problems.append(f"{path} was altered after packing (its checksum differs)")
        check_pages(folder, shard)
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
    except DamagedDataError as error:
        problems.append(str(error))
    try:
        problems += _seek_problems(folder, shard)
    except (DamagedDataError, StorageError) as error:
        problems.append(str(error))
    try:
        read_index(folder, shard)
    except DamagedDataError as error:
        index_problems.append(str(error).partition(": ")[0])
    return problems, index_problems


def _seek_problems(folder: Path, shard: ShardInfo) -> list[str]:
    """What is wrong with the entries of a shard's seek index."""
    index = SeekIndex(folder, [shard])
    if not index.exists:
        return []
    path = seek_path(shard)
    found = enumerate(index.entries(np.arange(shard.records)))
    return [
        f"{path}: the entry of record {position} is damaged: restore the file, or delete it to go without"
        for position, entry in found
        if entry is not None and not is_sound(entry)
    ]


@lru_cache(maxsize=2)
def _seeks(folder: Path, shard: ShardInfo) -> SeekIndex | None:
    try:
        index = SeekIndex(folder, [shard])
    except (DamagedDataError, StorageError):
        return None  # `check_files` has said so
    return index if index.exists else None


@lru_cache(maxsize=2)
def _index(folder: Path, shard: ShardInfo) -> IndexArray | None:
    try:
        return read_index(folder, shard)
    except DamagedDataError:
        return None


def check_records(
    folder: Path, shard: ShardInfo, start: int, stop: int, labels: tuple[int, int], decode: bool
) -> list[str]:
    """What is wrong with records `start` to `stop` of a shard, one text for each bad record."""
    index, seeks = _index(folder, shard), _seeks(folder, shard)
    problems = []
    try:
        for position, found in enumerate(iterate_shard(folder, shard, start, stop, index), start):
            row = None if index is None else index[position]
            wrong = found if isinstance(found, str) else _record_problem(*found, row, labels, decode)
            if decode and not wrong and not isinstance(found, str) and seeks is not None:
                (entry,) = seeks.entries(np.array([position]))
                wrong = _seek_problem(found[0], entry)
            if wrong:
                key = "" if row is None else f" (key {bytes(row['key']).decode(errors='replace')!r})"
                problems.append(f"record {position} of {shard.path}{key}: {wrong}")
    except (DamagedDataError, OSError):
        pass  # the file as a whole: `check_files` has said so
    report_progress(stop - start)
    return problems


def _seek_problem(data: bytes, entry: bytes | None) -> str:
    """What is wrong with a sound record's entry of the seek index; '' also where no compiled code can tell."""
    if entry is None or not is_sound(entry):
        return ""  # an entry that is damaged is told by `check_files`
    found = find_row_starts(data)
    return "its entry in the seek index is of another image" if found is not None and found[2] != entry else ""


def _record_problem(data: bytes, label: int, row: Any, labels: tuple[int, int], decode: bool) -> str:
    """What is wrong with one record, '' if nothing is."""
    if not labels[0] <= label <= labels[1]:
        return f"its label {label} is not one of the split's"
    if row is not None:
        if len(data) != row["length"]:
            return f"it has {len(data)} bytes, the index says {row['length']}"
        if label != row["label"]:
            return f"its label is {label}, the index says {row['label']}"
        if zlib.crc32(data) != row["crc32"]:
            return "its bytes differ from what was packed (CRC-32)"
    if decode:
        try:
            width, height, wrong = check(data)
        except DamagedDataError as error:
            return str(error)
        if wrong:
            return wrong
        if row is not None and (width, height) != (row["width"], row["height"]):
            return f"it has {width} x {height} pixels, the index says {row['width']} x {row['height']}"
    return ""
