"""What a source holds, as compact tables: one row a file of an archive, one row an image of a split.

A table is a numpy structured array of about 100 bytes a row, so that enumerating millions of images stays within
some hundred megabytes, and workers can map the same rows from a file instead of being sent them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .account import Account

# How a row's bytes are had: a file of its own, a range of an archive, or a deflated range of a zip. The ranges of zips
# begin at the member's local header, whose length only reading tells.
FILE, RANGE, ZIP_STORED, ZIP_DEFLATED = 0, 1, 2, 3

_PLACE: list[tuple[str, str]] = [
    ("container", "<i4"),  # index into the source's containers
    ("method", "u1"),
    ("offset", "<i8"),
    ("stored", "<i8"),  # bytes in the archive
    ("size", "<i8"),  # bytes of the file itself
    ("crc", "<u4"),  # from a zip's directory
]
BLOCK = 1 << 16

Table = npt.NDArray[np.void]


def member_dtype(name_bytes: int) -> np.dtype[np.void]:
    """A row for one file: its place, and its name within the container."""
    return np.dtype([*_PLACE, ("name", f"S{max(1, name_bytes)}")])


def image_dtype(name_bytes: int, key_bytes: int) -> np.dtype[np.void]:
    """A row for one image: its place, its name (files only), its label (-1: none) and its key."""
    return np.dtype([*_PLACE, ("name", f"S{max(1, name_bytes)}"), ("label", "<i4"), ("key", f"S{max(1, key_bytes)}")])


def concatenate(blocks: Sequence[Table]) -> Table:
    """Tables of rows for files as one, with names as wide as the longest."""
    table = np.empty(
        sum(map(len, blocks)),
        dtype=member_dtype(max((block.dtype["name"].itemsize for block in blocks), default=1)),
    )
    at = 0
    for block in blocks:
        table[at : at + len(block)] = block
        at += len(block)
    return table


def names_of(members: Table) -> Iterable[bytes]:
    """The names of a table as bytes objects, made block by block."""
    for start in range(0, len(members), BLOCK):
        yield from members["name"][start : start + BLOCK].tolist()


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a source: its images in canonical order (by key), and whether they have labels."""

    images: Table
    labelled: bool


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source, enumerated: everything that packing needs to know but the images' bytes.

    Attributes:
        name: base name of what was given, for people.
        format: which layout it was read as.
        classes: (wnid, readable name), in label order.
        splits: by name, in the order train, val, test, others.
        containers: the files or folders that rows refer to by number.
        account: all files of the source, and why those that are in no split are not.
    """

    name: str
    format: str
    classes: tuple[tuple[str, str], ...]
    splits: Mapping[str, Split]
    containers: tuple[Path, ...]
    account: Account = field(default_factory=Account)

    def fingerprint(self, splits: Iterable[str]) -> str:
        """SHA-256 over classes and the split, key, size and label of every image of `splits`.

        It is the same for a folder and its zip.
        """
        digest = hashlib.sha256(repr([wnid for wnid, _ in self.classes]).encode())
        for name in splits:
            split = self.splits[name]
            digest.update(repr((name, split.labelled, len(split.images))).encode())
            for column in ("key", "size", "label"):
                digest.update(np.ascontiguousarray(split.images[column]).tobytes())
        return digest.hexdigest()


class ImageList:
    """Collects the images of one split as numbers of member rows with labels and keys."""

    def __init__(self) -> None:
        self._members: list[int] = []
        self._labels: list[Any] = []
        self._keys: list[bytes] = []
        self._blocks: list[tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.bytes_]]] = []

    def add(self, member: int, label: bytes | int, key: bytes) -> None:
        """One image: its row among the members, its label (a class's name, or a number), its key."""
        self._members.append(member)
        self._labels.append(label)
        self._keys.append(key)
        if len(self._members) >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._members:
            self._blocks.append((np.array(self._members, np.int64), np.array(self._labels), np.array(self._keys, "S")))
            self._members, self._labels, self._keys = [], [], []

    def __len__(self) -> int:
        return sum(len(block[0]) for block in self._blocks) + len(self._members)

    def class_names(self) -> set[bytes]:
        """The distinct labels, where they are names."""
        self._flush()
        return {bytes(name) for block in self._blocks for name in np.unique(block[1])}

    def split(self, members: Table, *, class_index: Mapping[bytes, int] | None, labelled: bool) -> Split:
        """The split's table in canonical order: sorted by key, equal keys in source order.

        Args:
            members: the rows that `add` was given numbers of.
            class_index: label of each class name; None where labels are numbers already.
            labelled: False gives every image the label -1.
        """
        self._flush()
        total = len(self)
        keep_names = bool(len(members)) and bool((members["method"] == FILE).any())
        table = np.zeros(
            total,
            dtype=image_dtype(
                members.dtype["name"].itemsize if keep_names else 1,
                max((block[2].dtype.itemsize for block in self._blocks), default=1),
            ),
        )
        at = 0
        for numbers, labels, keys in self._blocks:
            part = table[at : at + len(numbers)]
            for column, _ in _PLACE:
                part[column] = members[column][numbers]
            if keep_names:
                part["name"] = members["name"][numbers]
            part["key"] = keys
            if not labelled:
                part["label"] = -1
            elif class_index is None:
                part["label"] = labels
            else:
                names, inverse = np.unique(labels, return_inverse=True)
                part["label"] = np.array([class_index[bytes(name)] for name in names], np.int32)[inverse]
            at += len(numbers)
        return Split(images=table[np.argsort(table["key"], kind="stable")], labelled=labelled)
