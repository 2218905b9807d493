"""Where images come from: recognises the forms that ImageNet is held in and lists each without unpacking it.

`open_source` looks at a path or URL and returns a `Source`: compact tables of every image's key, label and place.
Reading an image later is one open or one pread (`FileReader`). No torch and no lmdb here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import SOURCE_FORMATS
from ..errors import UsageError
from .archives import list_folder, list_tar, list_zip
from .ilsvrc import TARS, is_ilsvrc_folder, labels_beside, read_ilsvrc, split_of_tar
from .parquet import read_parquet
from .reading import FileReader
from .remote import fetch, is_url
from .staging import Staging
from .table import MANY, MemberList, Source, Split
from .tree import WNID, class_names, read_tree
from .webdataset import is_webdataset, read_webdataset

__all__ = ["MANY", "FileReader", "Source", "Split", "is_url", "open_source"]

_TREES = ("tiny-imagenet", "imagefolder", "kaggle")


def open_source(
    source: Path | str,
    *,
    format: str = "auto",
    splits: Sequence[str] | None = None,
    staging: Path | None = None,
    note: Callable[[str], None] | None = None,
    on_many: Callable[[], None] | None = None,
) -> Source:
    """Look at SOURCE, recognise its form, and list its images.

    Args:
        source: a folder, a zip, a tar (compressed or not), a parquet file, or a URL of one.
        format: one of SOURCE_FORMATS; 'auto' recognises by looking.
        splits: those that will be packed; the labels of others need not be there. None for all.
        staging: folder for what must be laid down before it can be read at random: compressed tars, parquet, URLs.
        note: called with a sentence on what is being laid down.
        on_many: called, perhaps, as soon as more than MANY files are found.

    Raises:
        UsageError: it is missing, of no known form, or lacks a file (the text says which and where it is had).
        DamagedDataError: an archive or a label file is torn, cut short or hostile.
        MissingDependencyError: the form needs a package that is not installed; the text holds the command.
    """
    if format not in SOURCE_FORMATS:
        raise UsageError(f"--format is one of {', '.join(SOURCE_FORMATS)}: got {format!r}")
    stage = Staging(staging, note)
    path = fetch(str(source), stage) if is_url(source) else Path(source)
    if not path.exists():
        raise UsageError(f"SOURCE {source} does not exist")
    if path.is_dir():
        found = _open_folder(path, format, splits, stage, MemberList(on_many))
    elif path.is_file():
        found = _open_file(path, format, splits, stage, MemberList(on_many))
    else:
        raise UsageError(f"SOURCE {source} is a pipe, socket or device: give a folder, a zip or a tar")
    if format not in ("auto", found.format):
        raise UsageError(f"{source} looks like {found.format}, not like {format}: leave --format out, or give another")
    return _named(found, path if path.is_dir() else path.parent)


def _named(found: Source, folder: Path) -> Source:
    """The source with names of its classes from a list in `folder`, where all it has itself is wnids."""
    wnids = [wnid.encode() for wnid, _ in found.classes]
    if any(wnid != name for wnid, name in found.classes) or not all(map(WNID.fullmatch, wnids)):
        return found
    names = class_names(labels_beside([folder]), set(wnids))
    classes = tuple((wnid, names.get(wnid.encode(), wnid)) for wnid, _ in found.classes)
    return dataclasses.replace(found, classes=classes)


def _open_folder(path: Path, format: str, splits: Sequence[str] | None, stage: Staging, members: MemberList) -> Source:
    name = path.resolve().name
    if format in ("auto", "ilsvrc2012") and is_ilsvrc_folder(path):
        tars = {split: path / tar for tar, split in TARS.items() if (path / tar).is_file()}
        return read_ilsvrc(name, tars, wanted=splits)
    if format in ("auto", "parquet"):
        parquets = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
        if parquets:
            return read_parquet(name, parquets, stage, wanted=splits)
    if format in ("auto", "webdataset"):
        shards = sorted(p for pattern in ("*.tar", "*.tar.gz", "*.tgz") for p in path.glob(pattern))
        if shards and (format == "webdataset" or is_webdataset(stage.plain(shards[0]))):
            return read_webdataset(name, [stage.plain(shard) for shard in shards], path)
    classes = sorted(tar for tar in path.glob("n*.tar") if WNID.fullmatch(tar.stem.encode()))
    if classes and format in ("auto", "ilsvrc2012"):
        # ImageNet's training tar, unpacked once: a tar for each class.
        for number, tar in enumerate(classes):
            list_tar(tar, members, container=number, prefix=tar.stem.encode() + b"/")
        found = [tar.resolve() for tar in classes]
        return read_tree(name, members.table(), found, beside=labels_beside([path]), called="ilsvrc2012", wanted=splits)
    list_folder(path, members)
    return read_tree(
        name, members.table(), [path.resolve()], format=_tree(format), beside=labels_beside(_above(path)), wanted=splits
    )


def _open_file(path: Path, format: str, splits: Sequence[str] | None, stage: Staging, members: MemberList) -> Source:
    kind = _file_kind(path)
    if kind == "parquet":
        return read_parquet(path.name, [path], stage, wanted=splits)
    if kind == "zip":
        list_zip(path, members)
        plain = path
    else:
        plain = stage.plain(path)
        if kind != "tar" and _file_kind(plain) != "tar":
            raise UsageError(f"SOURCE {path} is not a folder, zip, tar or parquet file of images")
        if format in ("auto", "webdataset") and (format == "webdataset" or is_webdataset(plain)):
            return read_webdataset(path.name, [plain], path.parent)
        split = split_of_tar(plain)
        if split is not None and format in ("auto", "ilsvrc2012"):
            return read_ilsvrc(path.name, {split: plain}, beside=path.parent, wanted=splits)
        list_tar(plain, members)
    return read_tree(
        path.name, members.table(), [plain.resolve()], format=_tree(format), beside=labels_beside([path.parent]),
        wanted=splits,
    )  # fmt: skip


def _above(folder: Path) -> list[Path]:
    """`folder` and, where it is one of those that Kaggle's images lie deep in, those above it up to the top."""
    folder = folder.resolve()
    for end in ("ILSVRC/Data/CLS-LOC", "ILSVRC/Data", "ILSVRC"):
        if folder.as_posix().endswith("/" + end):
            return [folder, *folder.parents[: end.count("/") + 1]]
    return [folder]


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
