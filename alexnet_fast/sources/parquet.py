"""Parquet shards as the Hugging Face hub has data sets: a column of encoded images and a column of class numbers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DamagedDataError, MissingDependencyError, UsageError
from .reading import LARGEST_FILE
from .staging import Staging, check_growth
from .table import RANGE, ImageList, MemberList, Source
from .tree import SPLIT_ORDER, WNID
from .webdataset import split_by_name

_BATCH_ROWS = 64
_BATCH_BYTES = 64 << 20
# A label of two thousand million would otherwise ask for as many class names.
_MOST_CLASSES = 1 << 20


def read_parquet(
    name: str, files: Sequence[Path], staging: Staging, *, wanted: Collection[str] | None = None
) -> Source:
    """The source that a set of parquet shards is; file names tell the split.

    A column of a parquet file can only be read a row group at a time, so the images are laid down once in
    `staging`, in bounded memory, where they can be read in shuffled order. Shards of splits that are not `wanted` are
    passed over where the class names are in the metadata of those that are.

    Raises:
        UsageError: a file has no column of images or labels, or the files' classes differ.
        DamagedDataError: a file is torn.
        MissingDependencyError: pyarrow is not installed.
    """
    asked = [path for path in files if wanted is None or split_by_name(path.name) in wanted]
    shards = [_Shard(path, staging) for path in asked]
    if len(asked) < len(files) and not (shards and all(shard.class_names for shard in shards)):
        shards = [_Shard(path, staging) for path in files]
    names = next((shard.class_names for shard in shards if shard.class_names), [])
    for shard in shards:
        if shard.class_names and shard.class_names != names:
            raise UsageError(f"{shard.path} has other class names than {shards[0].path}: pack one data set at a time")
    most = max((int(shard.rows["label"].max(initial=-1)) for shard in shards), default=-1)
    if names and most >= len(names):
        raise UsageError(f"{name} has label {most} and {len(names)} class names: its metadata is wrong")
    names = names or [str(i) for i in range(most + 1)]
    order = sorted(range(len(names)), key=lambda i: names[i]) if all(WNID.match(n.encode()) for n in names) else None
    place = {old: new for new, old in enumerate(order)} if order else {i: i for i in range(len(names))}
    members = MemberList()
    lists: dict[str, ImageList] = {}
    number = 0
    labelled: dict[str, bool] = {}
    for container, shard in enumerate(shards):
        split = split_by_name(shard.path.name)
        images = lists.setdefault(split, ImageList())
        for offset, size, label, key in zip(*(shard.rows[c].tolist() for c in shard.rows.dtype.names), strict=True):
            members.add(b"", container=container, method=RANGE, offset=offset, stored=size, size=size)
            if labelled.setdefault(split, label >= 0) != (label >= 0):
                raise UsageError(f"{shard.path} has images with and without a label in one split: split them")
            folder = names[label].encode() + b"/" if label >= 0 else b""
            images.add(number, place.get(label, -1), folder + key)
            number += 1
    table = members.table()
    return Source(
        name=name, format="parquet",
        classes=tuple((names[i], names[i]) for i in (order or range(len(names)))),
        splits={s: lists[s].split(table, class_index=None, labelled=labelled[s]) for s in SPLIT_ORDER if s in lists},
        containers=tuple(shard.images for shard in shards),
    )  # fmt: skip


class _Shard:
    """One parquet file: its class names, where its images were laid down, and a row for each."""

    def __init__(self, path: Path, staging: Staging) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingDependencyError(
                "parquet files need pyarrow: install it with `pip install alexnet-fast[parquet]`"
            ) from None
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            self.class_names: list[str] = []
            self._image, self._label = self._columns(self._file.schema_arrow)
            staging.note(f"reading {path.name}")
            rows: list[Any] = []
            # The rows come last: where they are, the images are whole.
            staging.forget(path, ".images", unless=".rows.npy")
            self.images = staging.stamped(path, ".images", lambda file: self._lay_down(file, rows))
            table = staging.stamped(path, ".rows.npy", lambda file: np.save(file, self._table(rows)))
            self.rows = np.load(table, allow_pickle=False)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the system's own; pyarrow has some of what is damaged as an OSError too, without a number
            text = str(error).splitlines()[0]
            raise DamagedDataError(f"{path} cannot be read as parquet ({text}): fetch it again") from None

    def _columns(self, schema: Any) -> tuple[str, str | None]:
        """(column of images, column of labels), by the features that datasets notes, else by type and name."""
        features = _features(schema.metadata or {})
        image = next((n for n, f in features.items() if f.get("_type") == "Image"), None)
        label = next((n for n, f in features.items() if f.get("_type") == "ClassLabel"), None)
        if label is not None:
            self.class_names = [str(n).encode(errors="replace").decode() for n in features[label].get("names") or []]
        for name in ("image", "img", "jpg", "picture", "bytes"):
            if image is None and name in schema.names:
                image = name
        for name in ("label", "labels", "cls", "class", "target", "fine_label"):
            if label is None and name in schema.names:
                label = name
        if image is None:
            raise UsageError(
                f"{self.path} has no column of images (image or img; it has {', '.join(schema.names)}): "
                "name it so, or give another SOURCE"
            )
        return image, label

    def _lay_down(self, file: IO[bytes], rows: list[Any]) -> None:
        offset = 0
        number = 0
        columns = [self._image] + ([self._label] if self._label else [])
        for batch in self._file.iter_batches(batch_size=self._batch_rows(), columns=columns):
            if batch.nbytes > LARGEST_FILE:
                raise DamagedDataError(
                    f"row {number} of {self.path} has {batch.nbytes:,} bytes, more than {LARGEST_FILE:,}: nothing was "
                    "packed from it"
                )
            images = batch.column(0).to_pylist()
            labels = batch.column(1).to_pylist() if self._label else [-1] * len(images)
            for image, label in zip(images, labels, strict=True):
                data, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (image, None)
                if not isinstance(data, bytes):
                    raise UsageError(
                        f"row {number} of {self.path} holds no image's bytes (a path at most): "
                        "embed the images in the file"
                    )
                if label is None:
                    label = -1
                if not isinstance(label, int) or label >= _MOST_CLASSES:
                    raise UsageError(f"row {number} of {self.path} has label {label!r}, not the number of a class")
                base = (path or f"{self.path.stem}-{number:08d}").rpartition("/")[2].encode(errors="replace")
                rows.append((offset, len(data), max(label, -1), base))
                check_growth(self.path, offset + len(data))
                file.write(data)
                offset += len(data)
                number += 1

    def _batch_rows(self) -> int:
        """Rows to ask for at once: each may be as long as its row group, and all of them one value of a dictionary."""
        metadata = self._file.metadata
        largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(largest, 1)))

    @staticmethod
    def _table(rows: list[Any]) -> np.ndarray[Any, np.dtype[np.void]]:
        width = max((len(row[3]) for row in rows), default=1)
        return np.array(rows, dtype=[("offset", "<i8"), ("size", "<i8"), ("label", "<i4"), ("key", f"S{width}")])


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
