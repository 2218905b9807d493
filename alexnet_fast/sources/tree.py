"""Layouts that are told by folder names: ImageFolder, Tiny ImageNet, Kaggle's, whatever container they come in.

Keys are CLASS/FILE for labelled pictures and FILE for others, so that one picture has one key in every form it is
distributed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DamagedDataError, UsageError
from .reading import FileReader
from .table import PictureList, Source, Table, is_picture, names_of

SPLIT_FOLDERS = {b"train": "train", b"val": "val", b"valid": "val", b"validation": "val", b"test": "test"}
SPLIT_ORDER = ("train", "val", "test")
_KAGGLE_BASE = b"ILSVRC/Data/CLS-LOC/"
_VAL_LABELS = (b"val_annotations.txt", b"LOC_val_solution.csv", b"val_labels.txt", b"val_labels.csv")
_CLASS_NAMES = (b"words.txt", b"LOC_synset_mapping.txt")
_LARGEST_TEXT = 256 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # what editors on Windows put before UTF-8
WNID = re.compile(rb"n\d{8}")


def read_tree(
    name: str,
    members: Table,
    containers: Sequence[Path],
    *,
    format: str = "auto",
    beside: Mapping[bytes, bytes] | None = None,
    called: str = "",
) -> Source:
    """The source that a listing of files is, by its folders.

    Args:
        name: of the source, for people.
        members: all files.
        containers: what the rows refer to.
        format: 'auto', 'tiny-imagenet', 'imagefolder' or 'kaggle'.
        beside: contents of label files that lie outside the listing, by base name.
        called: the format's name, where the caller knows it.

    Raises:
        UsageError: there are no pictures, or labels are missing (the text says which file and where it is had).
        DamagedDataError: a label file cannot be read.
    """
    texts = _small_files(members, containers, beside or {})
    base = _base_folder(members)
    splits, flat = _sort_pictures(members, base, texts)
    if not splits:
        raise UsageError(f"{name} holds no pictures ({', '.join(_endings())}): give the folder or archive they are in")
    found = called or _format(base, texts)
    if format not in ("auto", found):
        raise UsageError(f"{name} looks like {found}, not like {format}: leave --format out, or give another SOURCE")
    classes = _classes(splits, flat, name)
    index = {wnid: i for i, wnid in enumerate(classes)}
    readable = class_names(texts)
    tables = {}
    for split in (*SPLIT_ORDER, *sorted(set(splits) - set(SPLIT_ORDER))):
        if split in splits:
            labelled = split not in flat
            tables[split] = splits[split].split(members, class_index=index, labelled=labelled)
            _refuse_twins(tables[split].pictures, name)
    return Source(
        name=name,
        format=found,
        classes=tuple((wnid.decode(errors="replace"), readable.get(wnid, wnid.decode(errors="replace")))
                      for wnid in classes),
        splits=tables,
        containers=tuple(containers),
    )  # fmt: skip


def _endings() -> Iterable[str]:
    from .table import PICTURE_ENDINGS

    return (ending.decode() for ending in PICTURE_ENDINGS)


def _small_files(members: Table, containers: Sequence[Path], beside: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Contents of the label and class-name files of a listing, by base name; those nearest the top win."""
    wanted = {*_VAL_LABELS, *_CLASS_NAMES, b"wnids.txt"}
    texts = dict(beside)
    depth: dict[bytes, int] = {}
    with FileReader(containers) as reader:
        for number, name in enumerate(names_of(members)):
            base = name.rpartition(b"/")[2]
            if base not in wanted or depth.get(base, 1 << 30) <= name.count(b"/"):
                continue
            if members["size"][number] > _LARGEST_TEXT:
                raise DamagedDataError(f"{name.decode(errors='replace')} is too large to be a file of labels")
            depth[base] = name.count(b"/")
            try:
                texts[base] = reader.read(members[number])
            except DamagedDataError as error:
                raise DamagedDataError(f"{name.decode(errors='replace')} cannot be used: {error}") from None
    return texts


def _base_folder(members: Table) -> bytes:
    """The folder that split or class folders lie in: Kaggle's, or whatever all pictures have in common above those."""
    common: list[bytes] | None = None
    direct = False  # whether a picture lies in the common folder itself, which is a class then
    for name in names_of(members):
        if not is_picture(name):
            continue
        if _KAGGLE_BASE in name:
            return name[: name.index(_KAGGLE_BASE)] + _KAGGLE_BASE
        folders = name.split(b"/")[:-1]
        if common is None:
            common, direct = folders, True
        elif common != folders[: len(common)]:
            same = 0
            while same < min(len(common), len(folders)) and common[same] == folders[same]:
                same += 1
            direct = len(folders) == same or (direct and len(common) == same)
            common = common[:same]
    parts = common or []
    for place, part in enumerate(parts):
        # One split alone (val/...), or one class alone (n01440764/...): those folders are not to be stripped.
        if part in SPLIT_FOLDERS or WNID.fullmatch(part):
            parts = parts[:place]
            break
    else:
        if direct:
            parts = parts[: -2 if parts[-1:] == [b"images"] else -1]
    return b"".join(part + b"/" for part in parts)


def _sort_pictures(
    members: Table, base: bytes, texts: Mapping[bytes, bytes]
) -> tuple[dict[str, PictureList], set[str]]:
    """(pictures by split, those splits that stay without labels)."""
    label_of = _validation_labels(texts)
    splits: dict[str, PictureList] = {}
    flat: dict[str, list[tuple[int, bytes]]] = {}
    by_split = _has_split_folders(members, base)
    for number, name in enumerate(names_of(members)):
        if not name.startswith(base) or not is_picture(name):
            continue
        parts = name[len(base) :].split(b"/")
        if by_split:
            if parts[0] not in SPLIT_FOLDERS or len(parts) < 2:
                continue
            split = SPLIT_FOLDERS[parts.pop(0)]
        else:
            split = "train"
        if len(parts) > 1 and parts[0] != b"images":
            inner = parts[2:] if len(parts) > 2 and parts[1] == b"images" else parts[1:]
            splits.setdefault(split, PictureList()).add(number, parts[0], b"/".join([parts[0], *inner]))
        else:
            flat.setdefault(split, []).append((number, parts[-1]))
    return splits, _place_flat(splits, flat, label_of)


def _has_split_folders(members: Table, base: bytes) -> bool:
    for name in names_of(members):
        if name.startswith(base) and is_picture(name):
            first, slash, _ = name[len(base) :].partition(b"/")
            if slash and first in SPLIT_FOLDERS:
                return True
    return False


def _place_flat(
    splits: dict[str, PictureList],
    flat: Mapping[str, list[tuple[int, bytes]]],
    label_of: Callable[[bytes], bytes | None] | None,
) -> set[str]:
    """Put pictures that lie in no class folder into their splits; returns the splits that have no labels."""
    unlabelled = set()
    for split, pictures in flat.items():
        if split in splits:
            shown = pictures[0][1].decode(errors="replace")
            raise UsageError(
                f"split {split} has pictures within class folders and pictures beside them ({shown}): "
                "put each picture into the folder of its class"
            )
        target = splits[split] = PictureList()
        if split == "test":
            unlabelled.add(split)
            for number, file in pictures:
                target.add(number, b"", file)
            continue
        if label_of is None:
            raise UsageError(
                f"split {split} has pictures in no class folder and no file of labels: val_annotations.txt comes with "
                "Tiny ImageNet, LOC_val_solution.csv with ImageNet at Kaggle, and ILSVRC2012_devkit_t12.tar.gz with "
                "ImageNet at image-net.org; put it beside the pictures, or make a folder for each class"
            )
        for number, file in pictures:
            label = label_of(file)
            if label is None:
                raise UsageError(f"the file of labels has none for {file.decode(errors='replace')}: fetch it again")
            target.add(number, label, label + b"/" + file)
    return unlabelled


def _validation_labels(texts: Mapping[bytes, bytes]) -> Callable[[bytes], bytes | None] | None:
    for name in _VAL_LABELS:
        if name in texts:
            table = parse_labels(texts[name], name.decode())
            return lambda file: table.get(file) or table.get(file.rpartition(b".")[0])
    return None


def parse_labels(text: bytes, name: str) -> dict[bytes, bytes]:
    """Class by file name from val_annotations.txt, LOC_val_solution.csv, or lines of 'FILE WNID' or 'FILE,WNID'.

    Raises:
        DamagedDataError: a line holds no file and class, or another class than a line before it.
    """
    table: dict[bytes, bytes] = {}
    for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).splitlines(), 1):
        # Names may hold spaces where tabs part the columns.
        words = line.strip().split(b"\t") if b"\t" in line.strip() else line.replace(b",", b" ").split()
        if not words or (number == 1 and words[0] in (b"ImageId", b"filename", b"file", b"image")):
            continue
        if len(words) < 2:
            raise DamagedDataError(f"line {number} of {name} names no file and class: fetch it again")
        file, label = words[0].rpartition(b"/")[2], words[1].split()[0] if words[1].split() else b""
        if not label or table.setdefault(file, label) != label:
            shown = file.decode(errors="replace")
            raise DamagedDataError(f"line {number} of {name} gives {shown} no class or a second one: fetch it again")
    return table


def class_names(texts: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Readable names by class from words.txt (tab) or LOC_synset_mapping.txt (space)."""
    names = {}
    for file in _CLASS_NAMES:
        for line in texts.get(file, b"").removeprefix(_BYTE_ORDER_MARK).splitlines():
            words = line.split(b"\t" if b"\t" in line else None, 1)
            if len(words) == 2:
                names[words[0]] = words[1].decode(errors="replace").strip()
    return names


def _classes(splits: Mapping[str, PictureList], flat: set[str], name: str) -> list[bytes]:
    """Class names in label order: train's, sorted, as ImageFolder has them; else those of all labelled splits."""
    labelled = {split: pictures.class_names() for split, pictures in splits.items() if split not in flat}
    if "train" not in labelled:
        return sorted(set().union(*labelled.values()))
    for split, found in labelled.items():
        strange = sorted(found - labelled["train"])
        if strange:
            raise UsageError(
                f"{name}: split {split} has class {strange[0].decode(errors='replace')}, which train has not "
                f"({len(strange)} such): the splits must be of the same classes"
            )
    return sorted(labelled["train"])


def _format(base: bytes, texts: Mapping[bytes, bytes]) -> str:
    if base.endswith(_KAGGLE_BASE):
        return "kaggle"
    return "tiny-imagenet" if b"val_annotations.txt" in texts or b"wnids.txt" in texts else "imagefolder"


def _refuse_twins(pictures: Table, name: str) -> None:
    """An archive may hold two members of one name; which of them counts is anyone's guess."""
    same = pictures["key"][1:] == pictures["key"][:-1]
    if same.any():
        twin = bytes(pictures["key"][1:][same][0]).decode(errors="replace")
        raise UsageError(f"{name} holds two pictures named {twin}: remove one of them")
