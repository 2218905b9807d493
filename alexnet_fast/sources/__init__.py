"""Where pictures come from: recognises the forms that ImageNet is held in and lists each without unpacking it.

`open_source` looks at a path or URL and returns a `Source`: compact tables of every picture's key, label and place.
Reading a picture later is one open or one pread (`FileReader`). No torch and no lmdb here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from .archives import list_folder, list_tar, list_zip
from .ilsvrc import TARS, is_ilsvrc_folder, labels_beside, read_ilsvrc, split_of_tar
from .parquet import read_parquet
from .reading import FileReader
from .remote import fetch, is_url
from .staging import Staging
from .table import MANY, MemberList, Source, Split
from .tree import read_tree
from .webdataset import is_webdataset, read_webdataset

__all__ = ["FORMATS", "MANY", "FileReader", "Source", "Split", "open_source"]

FORMATS = ("auto", "tiny-imagenet", "imagefolder", "kaggle", "ilsvrc2012", "webdataset", "parquet")
_TREES = ("tiny-imagenet", "imagefolder", "kaggle")


def open_source(
    source: Path | str,
    *,
    format: str = "auto",
    staging: Path | None = None,
    note: Callable[[str], None] | None = None,
    on_many: Callable[[], None] | None = None,
) -> Source:
    """Look at SOURCE, recognise its form, and list its pictures.

    Args:
        source: a folder, a zip, a tar (compressed or not), a parquet file, or a URL of one.
        format: one of FORMATS; 'auto' recognises by looking.
        staging: folder for what must be laid down before it can be read at random: compressed tars, parquet, URLs.
        note: called with a sentence on what is being laid down.
        on_many: called, perhaps, as soon as more than MANY files are found.

    Raises:
        UsageError: it is missing, of no known form, or lacks a file (the text says which and where it is had).
        DamagedDataError: an archive or a label file is torn, cut short or hostile.
        MissingDependencyError: the form needs a package that is not installed; the text holds the command.
    """
    if format not in FORMATS:
        raise UsageError(f"--format is one of {', '.join(FORMATS)}: got {format!r}")
    stage = Staging(staging, note)
    path = fetch(str(source), stage) if is_url(source) else Path(source)
    if not path.exists():
        raise UsageError(f"SOURCE {source} does not exist")
    if path.is_dir():
        found = _open_folder(path, format, stage, MemberList(on_many))
    elif path.is_file():
        found = _open_file(path, format, stage, MemberList(on_many))
    else:
        raise UsageError(f"SOURCE {source} is a pipe, socket or device: give a folder, a zip or a tar")
    if format not in ("auto", found.format):
        raise UsageError(f"{source} looks like {found.format}, not like {format}: leave --format out, or give another")
    return found


def _open_folder(path: Path, format: str, stage: Staging, members: MemberList) -> Source:
    name = path.resolve().name
    if format in ("auto", "ilsvrc2012") and is_ilsvrc_folder(path):
        return read_ilsvrc(name, {split: path / tar for tar, split in TARS.items() if (path / tar).is_file()})
    if format in ("auto", "parquet"):
        parquets = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
        if parquets:
            return read_parquet(name, parquets, stage)
    if format in ("auto", "webdataset"):
        tars = sorted(p for pattern in ("*.tar", "*.tar.gz", "*.tgz") for p in path.glob(pattern))
        if tars and (format == "webdataset" or is_webdataset(stage.plain(tars[0]))):
            return read_webdataset(name, [stage.plain(tar) for tar in tars], path)
    list_folder(path, members)
    return read_tree(name, members.table(), [path.resolve()], format=_tree(format), beside=labels_beside([path]))


def _open_file(path: Path, format: str, stage: Staging, members: MemberList) -> Source:
    kind = _file_kind(path)
    if kind == "parquet":
        return read_parquet(path.name, [path], stage)
    if kind == "zip":
        list_zip(path, members)
        plain = path
    else:
        plain = stage.plain(path)
        if kind != "tar" and _file_kind(plain) != "tar":
            raise UsageError(f"SOURCE {path} is not a folder, zip, tar or parquet file of pictures")
        if format in ("auto", "webdataset") and (format == "webdataset" or is_webdataset(plain)):
            return read_webdataset(path.name, [plain], path.parent)
        split = split_of_tar(plain)
        if split is not None and format in ("auto", "ilsvrc2012"):
            return read_ilsvrc(path.name, {split: plain}, beside=path.parent)
        list_tar(plain, members)
    return read_tree(
        path.name, members.table(), [plain.resolve()], format=_tree(format), beside=labels_beside([path.parent])
    )


def _tree(format: str) -> str:
    return format if format in _TREES else "auto"


def _file_kind(path: Path) -> str:
    """'zip', 'tar', 'parquet' or '', by the file's first bytes and its name."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or path.suffix.lower() == ".zip":
        return "zip"
    if head[257:262] == b"ustar" or path.suffix.lower() == ".tar":
        return "tar"
    return ""
