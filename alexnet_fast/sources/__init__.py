"""Where images come from: recognises the forms that ImageNet is held in and lists each without unpacking it.

`open_source` looks at a path or URL and returns a `Source`: compact tables of every image's key, label and place, and
an account of every file. Reading an image later is one open or one pread (`FileReader`). No torch and no lmdb here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DamagedDataError, UsageError
from ..options import is_url
from .account import Account, count_and_reason
from .folders import list_folder
from .ilsvrc import labels_beside
from .labels import WNID, class_names
from .listing import Listing
from .names import is_hidden
from .opening import Request, open_file, open_folder, split_of_path
from .reading import FileReader
from .remote import fetch, why_not_fetched
from .selection import select_classes
from .splits import parse_wanted
from .staging import Staging
from .table import Source, Split

__all__ = [
    "Account",
    "FileReader",
    "Source",
    "Split",
    "count_and_reason",
    "is_hidden",
    "list_images",
    "open_source",
    "select_classes",
    "why_not_fetched",
]


def open_source(
    source: Path | str,
    *,
    format: str = "auto",
    splits: Sequence[str] | None = None,
    staging: Path | None = None,
    note: Callable[[str], None] | None = None,
    on_missing: str = "error",
) -> Source:
    """Look at SOURCE, recognise its form, and list its images.

    Args:
        source: a folder, a zip, a tar (compressed or not), a parquet file, or a URL of one.
        format: one of `config.SOURCE_FORMATS`; 'auto' recognises by looking.
        splits: those that will be packed, NAME or NAME=FOLDER; the labels of others need not be there. None for all.
        staging: folder for what must be laid down before it can be read at random: compressed tars, parquet, URLs.
        note: called with a sentence on what is being laid down.
        on_missing: 'skip' leaves out images without a label and passes over labels without an image.

    Raises:
        UsageError: it is missing, of no known form, or lacks a file (the text says which and where it is had).
        DamagedDataError: an archive or a label file is torn, cut short or hostile.
        MissingDependencyError: the form needs a package that is not installed; the text holds the command.
    """
    stage = Staging(staging, note)
    wanted = parse_wanted(splits)
    path = fetch(str(source), stage) if is_url(source) else Path(source)
    if not path.exists():
        raise UsageError(f"SOURCE {source} does not exist")
    if not (path.is_dir() or path.is_file()):
        raise UsageError(f"SOURCE {source} is a pipe, socket or device: give a folder, a zip or a tar")
    request = Request(
        format=format, wanted=wanted, stage=stage, skip_missing=on_missing == "skip", alone=split_of_path(path)
    )  # fmt: skip
    listing = Listing()
    try:
        found = (open_folder if path.is_dir() else open_file)(path, request, listing)
    except DamagedDataError as error:
        if is_url(source) and path.is_file():
            stage.remove(path)
            raise DamagedDataError(
                f"{error} (it came from {source}; run the same command again to fetch it anew)"
            ) from None
        raise
    if format not in ("auto", found.format):
        raise UsageError(f"{source} looks like {found.format}, not like {format}: leave --format out, or give another")
    return _named(found, path if path.is_dir() else path.parent)


def list_images(folder: Path) -> tuple[list[Path], Account]:
    """The images in a folder and those within it, in order of name, and the account of its other files.

    By the rules that `open_source` has: hidden files are none, and a file whose name tells nothing is looked into.

    Raises:
        UsageError: the folder cannot be read.
    """
    listing = Listing()
    list_folder(folder, listing)
    names = sorted(bytes(row["name"]) for row in listing.table())
    return [folder / os.fsdecode(name) for name in names], listing.close()


def _named(found: Source, folder: Path) -> Source:
    """The source with names of its classes from a list in `folder`, where all it has itself is wnids."""
    wnids = [wnid.encode() for wnid, _ in found.classes]
    if any(wnid != name for wnid, name in found.classes) or not all(map(WNID.fullmatch, wnids)):
        return found
    texts = {name.rpartition(b"/")[2]: text for name, text in labels_beside([folder]).items()}
    names = class_names(texts, set(wnids))
    classes = tuple((wnid, names.get(wnid.encode(), wnid)) for wnid, _ in found.classes)
    return dataclasses.replace(found, classes=classes)
