"""The work on one shard, as functions that any process runs the same: read and check images, write records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import ShardInfo, ShardWriter
from ..errors import DamagedDataError
from ..images import prepare
from ..sources import FileReader
from ..system import report_progress, write_file_atomically
from .plan import ShardPlan

# Images from one report of progress to the next.
_BLOCK = 100


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard to write and all that a process needs to write it; small.

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


def write_shard(job: ShardJob) -> FinishedShard:
    """Write one shard from start to end in this process; only a shard with its note counts as finished.

    Raises:
        DamagedDataError: an image cannot be used (where the job does not skip such); the text names it.
    """
    table = np.load(Path(job.work) / f"{job.plan.split}.plan.npy", mmap_mode="r", allow_pickle=False)
    notes = Notes()
    with (
        FileReader(job.containers) as reader,
        ShardWriter(Path(job.dataset), job.plan.name, expected_bytes=job.plan.source_bytes) as writer,
    ):
        for start in range(job.plan.start, job.plan.stop, _BLOCK):
            rows = table[start : min(start + _BLOCK, job.plan.stop)].tolist()
            for row in rows:
                _write_image(job, reader, row, writer, notes)
            report_progress(len(rows))
        finished = FinishedShard(info=writer.finish(), notes=notes)
    write_file_atomically(job.notes_path, finished.to_json().encode())
    return finished


def _write_image(job: ShardJob, reader: FileReader, row: Any, writer: ShardWriter, notes: Notes) -> None:
    """Read one image, check or mend it, and append it as a record."""
    *place, label, key = row
    try:
        image = prepare(reader.read_place(*place), resize_shorter=job.resize_shorter, quality=job.quality)
    except DamagedDataError as error:
        shown = key.decode(errors="replace")
        if not job.skip_bad:
            raise DamagedDataError(
                f"{shown} (split {job.plan.split} of {job.source_name}) cannot be packed: {error}; "
                "mend it, or leave such images out with --on-bad-image skip"
            ) from None
        notes.left_out.append((shown, str(error)))
        return
    if image.reason == "resized":
        notes.resized += 1
    elif image.reason:
        notes.re_encoded.append((key.decode(errors="replace"), image.reason))
    seek = image.seek if job.seek_index else b""
    writer.add(image.data, label=label, width=image.width, height=image.height, key=key, seek=seek)


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
