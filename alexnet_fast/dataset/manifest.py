"""dataset.json: what a packed data set holds, as dataclasses, read and checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DamagedDataError, UsageError
from ..options import is_url
from ..system import open_store, read_object, write_file_atomically

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
KEY_DIGITS = 8
MAX_RECORDS_PER_SHARD = 10**KEY_DIGITS
_SHARD_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-\d{5}-of-\d{5}\.lmdb")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard as dataset.json lists it.

    Attributes:
        path: folder name of the LMDB environment, within DATASET.
        records: entries in it.
        bytes: of all its images together, without LMDB's pages.
        sha256: of the index file.
        data_bytes, data_sha256: size and SHA-256 of data.mdb, so that any damage to it is found before another
            program's LMDB is let at its pages.
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
        packing: how it was packed: source, options, seed, images re-encoded or left out.
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
        try:
            text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
            text.encode()
        except UnicodeEncodeError:  # a class folder's name that is not UTF-8; JSON's escapes can carry it
            text = json.dumps(content, indent=2, sort_keys=True)
        return text + "\n"


def _checksum(content: Mapping[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_dataset_info(dataset: Path, info: DatasetInfo) -> None:
    """Put dataset.json in place in one step: written aside, synced, renamed."""
    write_file_atomically(dataset / MANIFEST, info.to_json().encode())


def read_dataset_info(dataset: Path | str) -> DatasetInfo:
    """Read and check dataset.json of a folder, or of a URL.

    Raises:
        UsageError: there is none, or its format is one that this version does not know.
        DamagedDataError: it is not what pack wrote: unreadable, altered, or with values out of bounds.
    """
    if is_url(dataset):
        return _read_manifest(f"{dataset}/{MANIFEST}", dataset, lambda: read_object(open_store(str(dataset)), MANIFEST))
    path = Path(dataset) / MANIFEST
    return _read_manifest(path, dataset, path.read_bytes)


def _read_manifest(path: Path | str, dataset: Path | str, read: Callable[[], bytes]) -> DatasetInfo:
    try:
        text = read().decode()
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
    try:
        if content.get("checksum") != _checksum(content):
            raise ValueError("it was altered after packing: its checksum differs")
        return _parse_info(content)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
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
        if len({shard.path for shard in shards}) != len(shards):
            raise ValueError(f"split {name!r} lists a shard twice")
        split = SplitInfo(
            records=_count(entry, "records"),
            bytes=_count(entry, "bytes"),
            labelled=entry["labelled"] is True,
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
