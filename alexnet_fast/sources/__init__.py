"""Where pictures come from: recognises the forms that ImageNet is held in and lists each without unpacking it.

`open_source` looks at a path and returns a `Source`: compact tables of every picture's key, label and place. Reading a
picture later is one open or one pread (`FileReader`). No torch and no lmdb here.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from .archives import list_folder, list_tar, list_zip
from .reading import FileReader
from .table import MemberList, Source, Split
from .tree import read_tree

__all__ = ["FORMATS", "FileReader", "Source", "Split", "open_source"]

FORMATS = ("auto", "tiny-imagenet", "imagefolder", "kaggle")


def open_source(source: Path | str, *, format: str = "auto", staging: Path | None = None) -> Source:
    """Look at SOURCE, recognise its form, and list its pictures.

    Args:
        source: a folder, a zip or a tar.
        format: one of FORMATS; 'auto' recognises by looking.
        staging: folder for what must be laid down before it can be read at random (compressed tars, downloads).

    Raises:
        UsageError: it is missing, of no known form, or lacks a file (the text says which and where it is had).
        DamagedDataError: an archive or a label file is torn, cut short or hostile.
    """
    if format not in FORMATS:
        raise UsageError(f"--format is one of {', '.join(FORMATS)}: got {format!r}")
    path = Path(source)
    if not path.exists():
        raise UsageError(f"SOURCE {source} does not exist")
    members = MemberList()
    if path.is_dir():
        list_folder(path, members)
        name = path.resolve().name
    elif not path.is_file():
        raise UsageError(f"SOURCE {source} is a pipe, socket or device: give a folder, a zip or a tar")
    else:
        name = path.name
        kind = _archive_kind(path)
        if kind == "zip":
            list_zip(path, members)
        elif kind == "tar":
            list_tar(path, members)
        else:
            raise UsageError(f"SOURCE {source} is neither a folder nor a zip or tar of pictures")
    return read_tree(name, members.table(), [path.resolve()], format=format)


def _archive_kind(path: Path) -> str:
    """'zip', 'tar' or '', by the file's first bytes and its name."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or path.suffix.lower() == ".zip":
        return "zip"
    if head[257:262] == b"ustar" or path.suffix.lower() == ".tar":
        return "tar"
    return ""
