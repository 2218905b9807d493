"""Lists the files of a folder, following links as ImageFolder does."""

from __future__ import annotations

import operator
import os
import stat
from pathlib import Path

from ..errors import UsageError
from .listing import Listing
from .names import is_hidden, is_image
from .table import FILE

_WORK_FOLDER = b".pack"  # in a data set while it is packed: it may lie within the source


def list_folder(root: Path, listing: Listing) -> None:
    """Add every file below `root`; names are relative, with '/'. Of hidden folders, files are counted only.

    Raises:
        UsageError: a folder cannot be read, or an image's name belongs to what is no file (a pipe, a device).
    """
    container = listing.container(root)
    waiting: list[tuple[bytes, bytes, tuple[tuple[int, int], ...]]] = [(os.fsencode(root), b"", ())]
    while waiting:
        folder, relative, above = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=operator.attrgetter("name"))
            if relative and any(entry.name == _WORK_FOLDER for entry in listed):
                continue
            for entry in listed:
                name = relative + entry.name
                if entry.is_dir():
                    found = entry.stat()
                    here = (found.st_dev, found.st_ino)
                    if is_hidden(entry.name):
                        _count_hidden(entry.path, name, listing)
                    elif here not in above:
                        waiting.append((entry.path, name + b"/", (*above, here)))
                    continue
                if entry.is_symlink() and not Path(os.fsdecode(entry.path)).exists():
                    if is_image(entry.name) and not is_hidden(entry.name):
                        raise UsageError(f"{os.fsdecode(entry.path)} is a link to nothing: mend or remove it")
                    listing.skip(name, "links to nothing")
                    continue
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    listing.add(name, container=container, method=FILE, stored=found.st_size, size=found.st_size)
                elif is_image(entry.name):
                    raise UsageError(f"{os.fsdecode(entry.path)} is a pipe, socket or device, not an image: remove it")
                else:
                    listing.skip(name, "pipes, sockets or devices")
        except OSError as error:
            raise UsageError(f"{os.fsdecode(folder)} cannot be read: {error.strerror}") from None


def _count_hidden(folder: bytes, name: bytes, listing: Listing) -> None:
    if name == _WORK_FOLDER:
        return
    # One that cannot be read (lost+found) is not worth an error.
    for place, _, files in os.walk(folder):
        if files:
            inner = place[len(folder) :]
            listing.skip(name + inner + b"/" + min(files), "hidden", len(files))
