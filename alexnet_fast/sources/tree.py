"""Layouts that are told by folder names: ImageFolder, Tiny ImageNet, Kaggle's, whatever container they come in.

Keys are CLASS/FILE for labelled images and FILE for others, so that one image has one key in every form it is
distributed in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DamagedDataError, UsageError
from .reading import FileReader
from .table import ImageList, Source, Table, is_image, names_of

SPLIT_FOLDERS = {b"train": "train", b"val": "val", b"valid": "val", b"validation": "val", b"test": "test"}
SPLIT_ORDER = ("train", "val", "test")
_KAGGLE_BASE = b"ILSVRC/Data/CLS-LOC/"
_VAL_LABELS = (b"val_annotations.txt", b"LOC_val_solution.csv", b"val_labels.txt", b"val_labels.csv")
_CLASS_NAMES = (b"words.txt", b"LOC_synset_mapping.txt")
_LABELS_FROM = {
    "ilsvrc2012": (
        "put ILSVRC2012_devkit_t12.tar.gz beside the tar, which image-net.org has on the page of the tars (development "
        "kit, tasks 1 & 2), or LOC_val_solution.csv from Kaggle's download"
    ),
    "kaggle": "put LOC_val_solution.csv, which Kaggle's download holds beside the folder ILSVRC, back there",
    "tiny-imagenet": "put val_annotations.txt, which tiny-imagenet-200.zip holds in the folder val, back there",
}
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
    wanted: Collection[str] | None = None,
) -> Source:
    """The source that a listing of files is, by its folders.

    Args:
        name: of the source, for people.
        members: all files.
        containers: what the rows refer to.
        format: 'auto', 'tiny-imagenet', 'imagefolder' or 'kaggle'.
        beside: contents of label files that lie outside the listing, by base name.
        called: the format's name, where the caller knows it.
        wanted: splits that will be packed; of others, labels and classes are not asked for. None for all.

    Raises:
        UsageError: there are no images, or labels are missing (the text says which file and where it is had).
        DamagedDataError: a label file cannot be read.
    """
    texts = _small_files(members, containers, beside or {})
    base = _base_folder(members)
    found = called or _format(base, texts)
    splits, flat = _sort_images(members, base, texts, found, wanted)
    if not splits:
        archive = next((n for n in names_of(members) if n.endswith((b".zip", b".tar", b".tgz", b".tar.gz"))), None)
        hint = f"{archive.decode(errors='replace')} in it" if archive else "the folder or archive they are in"
        raise UsageError(f"{name} holds no images ({', '.join(_endings())}): give {hint}")
    if format not in ("auto", found):
        raise UsageError(f"{name} looks like {found}, not like {format}: leave --format out, or give another SOURCE")
    classes = _classes(splits, flat, name, wanted)
    index = {wnid: i for i, wnid in enumerate(classes)}
    readable = class_names(texts, index)
    tables = {}
    for split in (*SPLIT_ORDER, *sorted(set(splits) - set(SPLIT_ORDER))):
        if split in splits:
            labelled = split not in flat and (wanted is None or split in wanted)
            tables[split] = splits[split].split(members, class_index=index, labelled=labelled)
            _refuse_twins(tables[split].images, name)
    return Source(
        name=name,
        format=found,
        classes=tuple((wnid.decode(errors="replace"), readable.get(wnid, wnid.decode(errors="replace")))
                      for wnid in classes),
        splits=tables,
        containers=tuple(containers),
    )  # fmt: skip


def _endings() -> Iterable[str]:
    from .table import IMAGE_ENDINGS

    return (ending.decode() for ending in IMAGE_ENDINGS)


def _small_files(members: Table, containers: Sequence[Path], beside: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Contents of the label and class-name files of a listing, by base name; those nearest the top win."""
    wanted = {*_VAL_LABELS, *_CLASS_NAMES, b"wnids.txt"}
    texts = dict(beside)
    depth: dict[bytes, int] = {}
    with FileReader(containers) as reader:
        for number, name in enumerate(names_of(members)):
            if not name.endswith((b".txt", b".csv")):
                continue
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
    """The folder that split or class folders lie in: Kaggle's, or whatever all images have in common above those."""
    common: list[bytes] | None = None
    direct = False  # whether an image lies in the common folder itself, which is a class then
    last: bytes | None = None
    for name in names_of(members):
        folder = name[: name.rfind(b"/") + 1]
        if folder == last or not is_image(name):
            continue
        last = folder
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


def _sort_images(
    members: Table, base: bytes, texts: Mapping[bytes, bytes], format: str, wanted: Collection[str] | None
) -> tuple[dict[str, ImageList], set[str]]:
    """(images by split, those splits that stay without labels)."""
    splits: dict[str, ImageList] = {}
    flat: dict[str, list[tuple[int, bytes]]] = {}
    by_split = _has_split_folders(members, base)
    last: bytes | None = None
    place: tuple[str, bytes, bytes] | None = None
    for number, name in enumerate(names_of(members)):
        at = name.rfind(b"/") + 1
        # What there is to know of an image is in its folder's name, and neighbours share it: a third of the time.
        if name[:at] != last:
            last = name[:at]
            place = _place_of(last, base, by_split)
        if place is None or not is_image(name):
            continue
        split, wnid, prefix = place
        if wnid:
            splits.setdefault(split, ImageList()).add(number, wnid, prefix + name[at:])
        else:
            flat.setdefault(split, []).append((number, name[at:]))
    return splits, _place_flat(splits, flat, texts, format, wanted)


def _place_of(folder: bytes, base: bytes, by_split: bool) -> tuple[str, bytes, bytes] | None:
    """(split, class, what comes before the file's name in a key) of a folder's images; None if they are no part.

    `folder` ends in '/', or is empty. The class is empty where the folder is none of a class.
    """
    if not folder.startswith(base):
        return None
    parts = folder[len(base) :].split(b"/")[:-1]
    split = "train"
    if by_split:
        if not parts or parts[0] not in SPLIT_FOLDERS:
            return None
        split = SPLIT_FOLDERS[parts.pop(0)]
    if not parts or parts[0] == b"images":
        return split, b"", b""
    inner = parts[2:] if parts[1:2] == [b"images"] else parts[1:]
    return split, parts[0], b"".join(part + b"/" for part in [parts[0], *inner])


def _has_split_folders(members: Table, base: bytes) -> bool:
    last: bytes | None = None
    for name in names_of(members):
        folder = name[: name.rfind(b"/") + 1]
        if folder != last and is_image(name):
            last = folder
            if folder.startswith(base) and folder[len(base) :].partition(b"/")[0] in SPLIT_FOLDERS:
                return True
    return False


def _place_flat(
    splits: dict[str, ImageList],
    flat: Mapping[str, list[tuple[int, bytes]]],
    texts: Mapping[bytes, bytes],
    format: str,
    wanted: Collection[str] | None,
) -> set[str]:
    """Put images that lie in no class folder into their splits; returns the splits that have no labels."""
    labels_file = next((name for name in _VAL_LABELS if name in texts), None)
    labels = parse_labels(texts[labels_file], labels_file.decode()) if labels_file else {}
    unlabelled = set()
    for split, images in flat.items():
        if split in splits:
            shown = images[0][1].decode(errors="replace")
            raise UsageError(
                f"split {split} has images within class folders and images beside them ({shown}): "
                "put each image into the folder of its class"
            )
        target = splits[split] = ImageList()
        if split == "test" or (wanted is not None and split not in wanted):
            unlabelled.add(split)
            for number, file in images:
                target.add(number, b"", file)
            continue
        if labels_file is None:
            others = [name for name in splits if name not in flat] if wanted is None else []
            raise UsageError(_missing_labels(split, format, others))
        for number, file in images:
            label = labels.get(file) or labels.get(file.rpartition(b".")[0])
            if label is None:
                raise UsageError(
                    f"{labels_file.decode()} has no label for {file.decode(errors='replace')} of split {split}: "
                    "fetch it again, or give the one that belongs to these images"
                )
            target.add(number, label, label + b"/" + file)
    return unlabelled


def _missing_labels(split: str, format: str, others: Sequence[str]) -> str:
    """Which file would hold the labels of images that lie in no class folder, and where that file is had."""
    if split == "val" and format in _LABELS_FROM:
        rest = f"; or pack without it: {' '.join(f'--split {name}' for name in others)}" if others else ""
        return f"the labels of split val are missing: {_LABELS_FROM[format]}{rest}"
    return (
        f"split {split} has images that lie in no class folder: make a folder for each class, or put beside them a "
        "val_labels.txt with a line of FILE CLASS for each"
    )


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


def class_names(texts: Mapping[bytes, bytes], classes: Collection[bytes]) -> dict[bytes, str]:
    """Readable names of `classes` from words.txt (tab) or LOC_synset_mapping.txt (space), where those have them."""
    names = {}
    for file in _CLASS_NAMES:
        for line in texts.get(file, b"").removeprefix(_BYTE_ORDER_MARK).splitlines():
            wnid, found, words = line.partition(b"\t")
            if not found:
                wnid, _, words = line.strip().partition(b" ")
            if wnid in classes and words:
                names[wnid] = words.decode(errors="replace").strip()
    return names


def _classes(splits: Mapping[str, ImageList], flat: set[str], name: str, wanted: Collection[str] | None) -> list[bytes]:
    """Class names in label order: train's, sorted, as ImageFolder has them; else those of all labelled splits."""
    labelled = {split: images.class_names() for split, images in splits.items() if split not in flat}
    if "train" not in labelled:
        return sorted(set().union(*labelled.values()))
    for split, found in labelled.items():
        strange = sorted(found - labelled["train"]) if wanted is None or split in wanted else []
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


def _refuse_twins(images: Table, name: str) -> None:
    """An archive may hold two members of one name; which of them counts is anyone's guess."""
    same = images["key"][1:] == images["key"][:-1]
    if same.any():
        twin = bytes(images["key"][1:][same][0]).decode(errors="replace")
        raise UsageError(f"{name} holds two images named {twin}: remove one of them")
