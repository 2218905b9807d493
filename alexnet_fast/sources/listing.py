"""All that a source holds, collected file by file: images as rows of a table, the rest in an account.

Every lister (folders, tars, zips) gives each file to `Listing.add`, which alone decides what it is: so one rule of what
is hidden, of what an image is called and of what else is kept holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from .account import Account
from .labels import may_hold_labels
from .names import HEAD, IMAGE, UNKNOWN, ending_of, is_archive, is_hidden, kind_of, looks_like_image, shown
from .reading import FileReader
from .table import BLOCK, Table, concatenate, member_dtype

Row = tuple[int, int, int, int, int, int, bytes]


class Listing:
    """The files of a source. Names are relative, with '/'; those of an archive in a folder have it as a folder.

    Attributes:
        account: all files, and why those that are not packed are not.
        containers: the files and folders that rows refer to by number.
        folders: how many images lie directly in each folder ('a/b/'; '' is the top).
        texts: rows of files that may hold labels or names of classes, by name.
        archives: tars and zips within, which the caller may read as folders.
        parquets: names of parquet files.
        joined: the archives that were read as folders: the folder's name ('train/'), and the file's.
    """

    def __init__(self) -> None:
        self.account = Account()
        self.containers: list[Path] = []
        self.folders: dict[bytes, int] = {}
        self.texts: dict[bytes, Row] = {}
        self.archives: list[bytes] = []
        self.parquets: list[bytes] = []
        self.joined: dict[bytes, bytes] = {}
        self._blocks: list[Table] = []
        self._rows: list[Row] = []
        self._flushed = 0
        self._unknown: list[int] = []
        # Endings of images as they are written here; the folder of the last file, and how many images there were at its
        # first.
        self._endings: set[bytes] = set()
        self._folder = b""
        self._is_hidden = False
        self._folder_began = 0

    def container(self, path: Path) -> int:
        """The number of a file or folder that rows may refer to."""
        self.containers.append(path.resolve())
        return len(self.containers) - 1

    def add(
        self, name: bytes, *, container: int = 0, method: int, offset: int = 0, stored: int, size: int, crc: int = 0
    ) -> None:
        """One more file; names end in no NUL byte, since numpy's fixed-width strings drop it."""
        at = name.rfind(b"/") + 1
        base = name[at:]
        if name[:at] != self._folder:
            self._enter(name[:at])
        row = (container, method, offset, stored, size, crc, name)
        # Nearly all files are images in folders that are not hidden: the rest is decided aside.
        if base[base.rfind(b".") + 1 :] not in self._endings or self._is_hidden or base[:1] == b".":
            self.account.files += 1
            if self._is_hidden or is_hidden(base):
                self.account.leave_out("hidden", name)
                return
            kind = kind_of(base)
            if kind not in (IMAGE, UNKNOWN):
                self._add_other(name, base, row)
                return
            self.account.files -= 1
            if kind == IMAGE:
                self._endings.add(base[base.rfind(b".") + 1 :])
            else:
                self._unknown.append(self._flushed + len(self._rows))
        self._rows.append(row)
        if len(self._rows) >= BLOCK:
            self._flush()

    def _enter(self, folder: bytes) -> None:
        """Begin another folder: what came since the last one is its images."""
        now = self._flushed + len(self._rows)
        if now > self._folder_began:
            self.folders[self._folder] = self.folders.get(self._folder, 0) + now - self._folder_began
        self._folder, self._is_hidden, self._folder_began = folder, is_hidden(folder), now

    def add_image(self, name: bytes, *, container: int, method: int, offset: int, stored: int, size: int) -> None:
        """One more image, which the caller has told."""
        self._rows.append((container, method, offset, stored, size, 0, name))
        if len(self._rows) >= BLOCK:
            self._flush()

    def _add_other(self, name: bytes, base: bytes, row: Row) -> None:
        if base.lower().endswith(b".parquet"):
            self.parquets.append(name)
        elif is_archive(base):
            self.archives.append(name)
        elif may_hold_labels(base):
            self.texts[name] = row
        else:
            self.account.leave_out(f"not images by name ({ending_of(name)})", name)

    def skip(self, name: bytes, reason: str, count: int = 1) -> None:
        """Files that are there and of no use, whatever they are called."""
        self.account.files += count
        self.account.leave_out(reason, name, count)

    def _flush(self) -> None:
        if self._rows:
            self.account.files += len(self._rows)
            self._blocks.append(np.array(self._rows, dtype=member_dtype(max(len(row[6]) for row in self._rows))))
            self._flushed += len(self._rows)
            self._rows = []

    def table(self) -> Table:
        """The rows of all images, in the order of adding; those that only their contents tell were looked into.

        Raises:
            StorageError: the file system refuses to read one of these.
        """
        self._flush()
        self._enter(self._folder)
        table = concatenate(self._blocks)
        if self._unknown:
            table = self._without_others(table)
        self._blocks, self._flushed, self._folder_began = [table], len(table), len(table)
        return table

    def _without_others(self, table: Table) -> Table:
        keep = np.ones(len(table), bool)
        taken = b""
        with FileReader(self.containers) as reader:
            for number in self._unknown:
                if looks_like_image(reader.head(table[number], HEAD)):
                    taken = taken or bytes(table["name"][number])
                else:
                    keep[number] = False
                    name = bytes(table["name"][number])
                    folder = name[: name.rfind(b"/") + 1]
                    self.folders[folder] -= 1
                    self.account.leave_out(f"not images by content ({ending_of(name)})", name)
        if taken:
            count = int(keep[self._unknown].sum())
            self.account.note(f"images by their contents, whatever their names end in: {count:,} ({shown(taken)})")
        self.folders = {folder: count for folder, count in self.folders.items() if count}
        self._unknown = []
        return table[keep]

    def clear_images(self) -> None:
        """Forget the images, which the caller has accounted for."""
        self._blocks, self._rows, self.folders = [], [], {}
        self._flushed = self._folder_began = 0

    def read_texts(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The contents of some of `texts`, which then count as read.

        Raises:
            DamagedDataError, StorageError: one cannot be read.
        """
        found = {}
        with FileReader(self.containers) as reader:
            for name in names:
                found[name] = reader.read_text(self.texts[name])
        return found

    def close(self, used: Sequence[bytes] = ()) -> Account:
        """The account, with what nothing was made of: texts that were not `used`, archives that were not read."""
        account = self.account
        for name in self.texts:
            reason = "read for labels or class names" if name in used else (
                f"not images by name ({ending_of(name)})"
            )  # fmt: skip
            account.leave_out(reason, name)
        account.leave_out_all("archives inside, to be unpacked first", self.archives)
        account.leave_out_all("parquet files beside images, not read with them", self.parquets)
        self.texts, self.archives, self.parquets = {}, [], []
        return account
