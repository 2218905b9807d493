"""The work on one shard, as functions that any process runs the same: read and check images, write records."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..dataset import PreparedRecord, ShardInfo, ShardWriter, prepare_record
from ..errors import DamagedDataError
from ..images import prepare
from ..sources import FileReader
from ..system import report_progress, write_file_atomically
from .plan import ShardPlan

# Images that pass between processes at once: up to so many, and little over so many bytes.
CHUNK_RECORDS = 512
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard to write and all that a process needs to write it; small, and the same for every chunk of the shard.

    Attributes:
        dataset: folder of the data set.
        work: folder of the plan's tables and of what is noted of finished shards.
        containers: the source's files and folders.
        source_name: for error texts.
        skip_bad: leave out what cannot be decoded, instead of ending.
        seek_index: write one.
    """

    dataset: str
    work: str
    containers: tuple[str, ...]
    source_name: str
    plan: ShardPlan
    resize_shorter: int | None
    quality: int
    skip_bad: bool
    seek_index: bool = True

    @property
    def records(self) -> int:
        """Images that the shard is planned to hold."""
        return self.plan.stop - self.plan.start

    @property
    def notes_path(self) -> Path:
        return Path(self.work) / f"{self.plan.name}.json"


@dataclass
class Notes:
    """What became of images that were not packed as they were: (key, reason) each."""

    re_encoded: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    resized: int = 0

    def add(self, other: Notes) -> None:
        self.re_encoded += other.re_encoded
        self.left_out += other.left_out
        self.resized += other.resized


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """A shard that lies under its final name, and what is noted of it."""

    info: ShardInfo
    notes: Notes

    def to_json(self) -> str:
        return json.dumps({"info": asdict(self.info), "notes": asdict(self.notes)})

    @staticmethod
    def from_json(text: str) -> FinishedShard:
        content = json.loads(text)
        notes = content["notes"]
        return FinishedShard(
            info=ShardInfo(**content["info"]),
            notes=Notes(
                [(key, reason) for key, reason in notes["re_encoded"]],
                [(key, reason) for key, reason in notes["left_out"]],
                notes["resized"],
            ),
        )


# What is kept between chunks: the mapped tables by the process, the open archives by each thread.
@lru_cache(maxsize=2)
def _table(path: str, identity: tuple[int, int]) -> npt.NDArray[np.void]:
    table: npt.NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    return table


_thread = threading.local()


def _reader(containers: tuple[str, ...]) -> FileReader:
    """This thread's reader of these containers."""
    if getattr(_thread, "containers", None) != containers:
        _thread.containers, _thread.reader = containers, FileReader(containers)
    reader: FileReader = _thread.reader
    return reader


def _open_table(job: ShardJob) -> npt.NDArray[np.void]:
    path = Path(job.work) / f"{job.plan.split}.plan.npy"
    found = path.stat()
    return _table(str(path), (found.st_ino, found.st_mtime_ns))


def chunks(job: ShardJob) -> Iterator[tuple[int, int]]:
    """The shard's records in parts of up to CHUNK_RECORDS and about CHUNK_BYTES."""
    sizes = _open_table(job)["size"][job.plan.start : job.plan.stop]
    start = 0
    while start < len(sizes):
        stop = start + int(np.searchsorted(np.cumsum(sizes[start : start + CHUNK_RECORDS]), CHUNK_BYTES)) + 1
        stop = min(stop, start + CHUNK_RECORDS, len(sizes))
        yield job.plan.start + start, job.plan.start + stop
        start = stop


def prepare_chunk(job: ShardJob, start: int, stop: int) -> tuple[list[PreparedRecord], Notes]:
    """Read records `start` to `stop` of the split, check or mend each image, and make it a record.

    Raises:
        DamagedDataError: an image cannot be used (where the job does not skip such); the text names it.
    """
    rows = _open_table(job)[start:stop]
    read = _reader(job.containers).read_place
    records: list[PreparedRecord] = []
    notes = Notes()
    for container, method, offset, stored, size, crc, name, label, key in rows.tolist():
        try:
            image = prepare(
                read(container, method, offset, stored, size, crc, name),
                resize_shorter=job.resize_shorter,
                quality=job.quality,
            )
        except DamagedDataError as error:
            shown = key.decode(errors="replace")
            if not job.skip_bad:
                raise DamagedDataError(
                    f"{shown} (split {job.plan.split} of {job.source_name}) cannot be packed: {error}; "
                    "mend it, or leave such images out with --on-bad-image skip"
                ) from None
            notes.left_out.append((shown, str(error)))
            continue
        if image.reason == "resized":
            notes.resized += 1
        elif image.reason:
            notes.re_encoded.append((key.decode(errors="replace"), image.reason))
        seek = image.seek if job.seek_index else b""
        records.append(
            prepare_record(image.data, label=label, width=image.width, height=image.height, key=key, seek=seek)
        )
    return records, notes


def write_shard(job: ShardJob) -> FinishedShard:
    """Write one shard from start to end in this process."""

    def prepared() -> Iterator[tuple[list[PreparedRecord], Notes]]:
        for start, stop in chunks(job):
            yield prepare_chunk(job, start, stop)
            report_progress(stop - start)

    with ShardWriter(Path(job.dataset), job.plan.name, expected_bytes=job.plan.source_bytes) as writer:
        return finish_shard(job, writer, fill_shard(writer, prepared()))


def fill_shard(writer: ShardWriter, prepared: Iterable[tuple[list[PreparedRecord], Notes]]) -> Notes:
    """Append chunks that `prepare_chunk` made, in order."""
    notes = Notes()
    for records, chunk_notes in prepared:
        writer.add_many(records)
        notes.add(chunk_notes)
    return notes


def finish_shard(job: ShardJob, writer: ShardWriter, notes: Notes) -> FinishedShard:
    """Give the shard its final name, then note what became of it; only a shard with its note counts as finished."""
    finished = FinishedShard(info=writer.finish(), notes=notes)
    write_file_atomically(job.notes_path, finished.to_json().encode())
    return finished


def load_finished(job: ShardJob) -> FinishedShard | None:
    """A shard that an earlier run finished; None where it has to be written (again).

    Files were synced before their rename, so their presence with the noted sizes is enough; reading them all again is
    what `verify` is for.
    """
    try:
        finished = FinishedShard.from_json(job.notes_path.read_text())
        data = Path(job.dataset) / finished.info.path / "data.mdb"
        if data.stat().st_size != finished.info.data_bytes or finished.info.path != f"{job.plan.name}.lmdb":
            return None
        if not (Path(job.dataset) / finished.info.index_path).is_file():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return finished
