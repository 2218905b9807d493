"""Tells what form a folder or a file is, and opens it: parquet, WebDataset, or a tree, in archives or out of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from .folders import list_folder
from .ilsvrc import is_imagenet_archive, labels_beside, split_of_tar
from .labels import CLASS_LISTS, WNID, listed_classes
from .listing import Listing
from .names import shown, stem_of
from .parquet import has_images, read_parquet
from .recognise import describe_contents, describe_file, describe_folder
from .splits import Wanted, shard_splits, split_of, split_of_source
from .staging import Staging
from .table import Source
from .tars import is_tar_header, list_tar
from .tree import read_tree
from .webdataset import is_empty_tar, is_webdataset, read_webdataset
from .zips import list_zip

_TREES = ("tiny-imagenet", "imagefolder", "kaggle")
_WRAPPERS = ("images", "imgs", "data")
_TARS = (b".tar", b".tar.gz", b".tgz", b".tar.bz2", b".tbz2", b".tar.xz", b".txz")
_READ = "read for labels or class names"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of `open_source`.

    Attributes:
        format: one of SOURCE_FORMATS.
        wanted: what --split said.
        stage: where compressed tars and parquet files are laid down.
        skip_missing: leave out what has no label.
        alone: the split that SOURCE is by its own name.
    """

    format: str
    wanted: Wanted
    stage: Staging
    skip_missing: bool
    alone: str | None

    @property
    def tree(self) -> str:
        return self.format if self.format in _TREES else "auto"


def split_of_path(path: Path) -> str | None:
    """The split that SOURCE is by its own name, or by its folder's where its own is that of a part or of a wrapper."""
    place = path.absolute()
    if path.is_file():
        is_shard = place.suffix.lower() in (".parquet", ".tar") or place.name.lower().endswith((".tar.gz", ".tgz"))
        return (
            split_of_source(os.fsencode(place), shard=is_shard)
            if is_shard
            else split_of(stem_of(os.fsencode(place.name)))
        )
    own = split_of(os.fsencode(place.name))
    if own is None and place.name.lower() in _WRAPPERS:
        # images/ within val/ beside train/: it is val. A folder that is called test for another reason has no such
        # neighbour.
        above = split_of(os.fsencode(place.parent.name))
        try:
            beside = {split_of(os.fsencode(entry.name)) for entry in os.scandir(place.parent.parent) if entry.is_dir()}
        except OSError:
            beside = set()
        own = above if above and beside - {None, above} else None
    return own


def open_folder(path: Path, request: Request, listing: Listing) -> Source:
    name = path.absolute().name
    list_folder(path, listing)
    if request.format in ("auto", "parquet") and listing.parquets:
        files = {file: path / os.fsdecode(file) for file in sorted(listing.parquets)}
        if not len(listing.table()) or request.format == "parquet" or has_images(next(iter(files.values()))):
            return _parquet(name, files, request, listing)
    tars = [file for file in sorted(listing.archives) if file.lower().endswith(_TARS)]
    shards = [
        file for file in tars if not is_imagenet_archive(stem_of(file)) and not stem_of(file).startswith(b"ILSVRC")
    ]
    if request.format in ("auto", "webdataset") and shards and _are_webdataset(path, shards, request, listing):
        return _webdataset(name, path, shards, request, listing)
    called = _join_archives(path, request, listing)
    if not len(listing.table()):
        _refuse_known(path)
    return read_tree(
        name, listing, format=request.tree, beside=labels_beside(_above(path)), called=called, wanted=request.wanted,
        alone=request.alone, skip_missing=request.skip_missing,
    )  # fmt: skip


def _refuse_known(path: Path) -> None:
    """Refuse a folder without images that is known for something else, with what to do."""
    what = describe_folder(path)
    if what is not None:
        raise UsageError(f"SOURCE {path} is {what}")
    inside = describe_contents(path)
    if inside is not None:
        raise UsageError(f"SOURCE {path} holds no images: {inside}")


def _are_webdataset(path: Path, shards: Sequence[bytes], request: Request, listing: Listing) -> bool:
    """Whether the tars of a folder are shards of WebDataset: by the first that is not empty."""
    for shard in shards:
        file = path / os.fsdecode(shard)
        _refuse_known_file(file)
        plain = request.stage.plain(file)
        if not is_empty_tar(plain):
            return request.format == "webdataset" or is_webdataset(plain)
    return False


def _refuse_known_file(file: Path) -> None:
    """Refuse what is called an archive and is a web page or the like."""
    what = describe_file(file)
    if what is not None:
        raise UsageError(f"{file} is {what}")


def _take(listing: Listing, files: Sequence[bytes], kinds: list[bytes]) -> None:
    """Files that are read for what is in them are no longer files of the source themselves."""
    for file in files:
        kinds.remove(file)
        listing.account.files -= 1


def _leave_images(listing: Listing, what: str) -> None:
    """Images that lie beside shards are not packed."""
    listing.account.leave_out_all(f"images beside {what}", (bytes(row["name"]) for row in listing.table()))
    listing.clear_images()


def _parquet(name: str, files: dict[bytes, Path], request: Request, listing: Listing) -> Source:
    splits = shard_splits(
        list(files), listing.account, wanted=request.wanted, alone=request.alone, what="parquet files"
    )
    _leave_images(listing, "parquet files")
    taken = {file: path for file, path in files.items() if file in splits}
    _take(listing, list(taken), listing.parquets)
    return read_parquet(name, taken, splits, request.stage, listing, wanted=request.wanted)


def _webdataset(name: str, path: Path, shards: Sequence[bytes], request: Request, listing: Listing) -> Source:
    splits = shard_splits(shards, listing.account, wanted=request.wanted, alone=request.alone, what="shards")
    _leave_images(listing, "WebDataset's shards")
    taken = [shard for shard in shards if shard in splits and request.wanted.takes(splits[shard])]
    _take(listing, taken, listing.archives)
    for shard in [shard for shard in shards if shard not in taken]:
        listing.archives.remove(shard)
        listing.account.leave_out("shards of splits that are not asked for", shard)
    if not taken:
        there = ", ".join(dict.fromkeys(splits.values()))
        raise UsageError(f"{name} has no split {', '.join(request.wanted.names or ())}; it has: {there}")
    plain = {shard: request.stage.plain(path / os.fsdecode(shard)) for shard in taken}
    return read_webdataset(name, plain, splits, listing, _listed_classes(path, listing))


def _listed_classes(folder: Path, listing: Listing) -> list[bytes]:
    """The lines of a list of classes in a folder, or above it where it is a split's."""
    folders = [folder, folder.parent] if split_of(os.fsencode(folder.name)) else [folder]
    for place in folders:
        for base in CLASS_LISTS:
            file = place / base.decode()
            if file.is_file():
                if base in listing.texts and place == folder:
                    del listing.texts[base]
                    listing.account.leave_out(_READ, base)
                return listed_classes(file.read_bytes(), file.name)
    return []


def _join_archives(path: Path, request: Request, listing: Listing) -> str:
    """Read archives that are named for a split or for a class as folders of that name; returns the format's name."""
    called = ""
    asked = {name for name in request.wanted.folders.values() if name in listing.archives}
    for file in sorted(listing.archives):
        stem = stem_of(file)
        if stem.startswith(b"ILSVRC2012_devkit"):
            listing.archives.remove(file)
            listing.account.leave_out(_READ, file)
            continue
        split = split_of(stem)
        if not (is_imagenet_archive(stem) or split or file in asked) or (request.wanted.folders and file not in asked):
            continue
        if split and not asked and not request.wanted.takes(split):
            listing.archives.remove(file)
            listing.account.leave_out(f"archives of split {split}, which is not asked for", file)
            continue
        if is_imagenet_archive(stem):
            called = "ilsvrc2012"
        # A class's tar is a folder of the class. Others keep their endings: train.tar may lie beside train/.
        folder = file[: file.rfind(b"/") + 1] + (stem if WNID.fullmatch(stem) else file[file.rfind(b"/") + 1 :]) + b"/"
        inside = path / os.fsdecode(file)
        _refuse_known_file(inside)
        _take(listing, [file], listing.archives)
        listing.joined[folder] = file
        if file.lower().endswith(b".zip"):
            list_zip(inside, listing, prefix=folder, called=shown(file))
        else:
            list_tar(request.stage.plain(inside), listing, prefix=folder, called=shown(file))
    return called


def open_file(path: Path, request: Request, listing: Listing) -> Source:
    kind = _file_kind(path)
    if kind == "parquet":
        file = os.fsencode(path.name)
        splits = shard_splits([file], listing.account, wanted=request.wanted, alone=request.alone, what="parquet files")
        return read_parquet(path.name, {file: path}, splits, request.stage, listing, wanted=request.wanted)
    called = ""
    prefix = b""
    if kind == "zip":
        list_zip(path, listing)
    else:
        plain = request.stage.plain(path)
        if kind != "tar" and _file_kind(plain) != "tar":
            raise UsageError(f"SOURCE {path} is not a folder, zip, tar or parquet file of images")
        if request.format in ("auto", "webdataset") and (request.format == "webdataset" or is_webdataset(plain)):
            shard = os.fsencode(path.name)
            splits = shard_splits([shard], listing.account, wanted=request.wanted, alone=request.alone, what="shards")
            return read_webdataset(path.name, {shard: plain}, splits, listing, _listed_classes(path.parent, listing))
        split = split_of_tar(plain)
        if split is not None and request.format in ("auto", "ilsvrc2012"):
            called, prefix = "ilsvrc2012", split.encode() + b"/"
        list_tar(plain, listing, prefix=prefix, called=path.name)
    return read_tree(
        path.name, listing, format=request.tree, beside=labels_beside(_above(path.parent)), called=called,
        wanted=request.wanted, alone=request.alone, skip_missing=request.skip_missing,
    )  # fmt: skip


def _above(folder: Path) -> list[Path]:
    """`folder`, and those above it that may hold its labels: of a split's folder, and of those within Kaggle's."""
    folder = folder.absolute()
    for end in ("ILSVRC/Data/CLS-LOC", "ILSVRC/Data", "ILSVRC"):
        if folder.as_posix().endswith("/" + end):
            return [folder, *folder.parents[: end.count("/") + 1]]
    above = [folder]
    while len(above) < 3 and (split_of(os.fsencode(above[-1].name)) or above[-1].name.lower() in _WRAPPERS):
        above.append(above[-1].parent)
    return above


def _file_kind(path: Path) -> str:
    """'zip', 'tar', 'parquet' or '', by the file's first bytes and its name.

    Raises:
        UsageError: it is known for something else; the text says what to do.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") and path.suffix.lower() != ".npz":
        return "zip"
    if is_tar_header(head):
        return "tar"
    what = describe_file(path)
    if what is not None:
        raise UsageError(f"SOURCE {path} is {what}")
    if path.suffix.lower() in (".zip", ".tar"):
        return path.suffix.lower()[1:]
    return ""
