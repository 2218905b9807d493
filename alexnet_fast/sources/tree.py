"""Layouts that are told by folder names: ImageFolder, Tiny ImageNet, Kaggle's, whatever container they come in.

Keys are CLASS/FILE for labelled images and FILE for others, so that one image has one key in every form it is
distributed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..words import counted
from .classes import Classes, order_classes
from .labels import (
    CLASS_LISTS,
    class_names,
    is_of_one_split,
    label_files,
    listed_classes,
    read_labels,
    refuse_no_match,
)
from .listing import Listing
from .names import check_utf8, composed, shown
from .splits import Layout, Wanted, find_layout, in_order
from .table import ImageList, Source, Split, Table, names_of

_LABELS_FROM = {
    "ilsvrc2012": (
        "put ILSVRC2012_devkit_t12.tar.gz beside the tar, which image-net.org has on the page of the tars (development "
        "kit, tasks 1 & 2), or LOC_val_solution.csv from Kaggle's download"
    ),
    "kaggle": "put LOC_val_solution.csv, which Kaggle's download holds beside the folder ILSVRC, back there",
    "tiny-imagenet": "put val_annotations.txt, which tiny-imagenet-200.zip holds in the folder val, back there",
}
# The wnid in the names of ImageNet's training images, and of all images as the Hugging Face hub had them.
_WNID_LAST = re.compile(rb".*_(n\d{8})\.\w+")
_WNID_FIRST = re.compile(rb"(n\d{8})_\d+\.\w+")
_SHOWN_FOLDERS = 5


@dataclass(frozen=True, kw_only=True)
class _Flat:
    """Images of one split that lie in no class folder: row numbers and base names."""

    numbers: list[int]
    names: list[bytes]


def read_tree(
    name: str,
    listing: Listing,
    *,
    format: str = "auto",
    beside: Mapping[bytes, bytes] | None = None,
    called: str = "",
    wanted: Wanted,
    alone: str | None = None,
    skip_missing: bool = False,
) -> Source:
    """The source that a listing of files is, by its folders.

    Args:
        name: of the source, for people.
        listing: all files.
        format: 'auto', 'tiny-imagenet', 'imagefolder' or 'kaggle'.
        beside: contents of label files that lie outside the listing, by base name.
        called: the format's name, where the caller knows it.
        wanted: splits that will be packed; of others, labels and classes are not asked for.
        alone: the split that the source is by its own name, where it holds no folders of splits.
        skip_missing: leave out images without a label, and pass over labels without an image, instead of ending.

    Raises:
        UsageError: there are no images, or labels are missing (the text says which file and where it is had).
        DamagedDataError: a label file cannot be read.
    """
    members = listing.table()
    if not len(members):
        raise UsageError(_no_images(name, listing))
    account = listing.account
    layout = find_layout(listing.folders, account, wanted=wanted, alone=alone, archives=listing.joined)
    texts = _Texts(listing, layout, dict(beside or {}))
    found = called or _format(layout, texts)
    if format not in ("auto", found):
        raise UsageError(f"{name} looks like {found}, not like {format}: leave --format out, or give another SOURCE")
    splits, flat = _sort_images(members, layout, listing, name)
    unlabelled, by_file = _place_flat(splits, flat, members, texts, found, listing, wanted, skip_missing)
    classes = _classes(splits, unlabelled, by_file, name, wanted, listing, texts)
    tables: dict[str, Split] = {}
    for split in in_order(splits):
        labelled = split not in unlabelled and wanted.takes(split)
        tables[split] = splits[split].split(members, class_index=classes.index, labelled=labelled)
        _refuse_twins(tables[split].images, name)
    readable = class_names(texts.class_texts(), set(classes.index))
    return Source(
        name=name, format=found,
        classes=tuple((wnid, readable.get(wnid.encode(), text)) for wnid, text in classes.names),
        splits=tables, containers=tuple(listing.containers), account=listing.close(texts.used),
    )  # fmt: skip


def _no_images(name: str, listing: Listing) -> str:
    """Why nothing of a source is an image, and what to give instead."""
    if listing.archives:
        where = shown(listing.archives[0])
        return f"{name} holds no images, but an archive: give {where} in it as SOURCE, or unpack it"
    left = listing.close()
    what = f" ({left})" if left.files else ""
    return f"{name} holds no images{what}: give the folder or archive they are in"


class _Texts:
    """The files of labels and names that a tree has, within it or beside it; those that are read are noted."""

    def __init__(self, listing: Listing, layout: Layout, beside: dict[bytes, bytes]) -> None:
        self._listing = listing
        self._layout = layout
        self._beside = beside
        self.used: list[bytes] = []

    def names(self) -> list[bytes]:
        return [*self._listing.texts, *self._beside]

    def has(self, base: bytes) -> bool:
        return any(_base(name) == base for name in self.names())

    def read(self, name: bytes) -> bytes:
        if name in self._listing.texts:
            self.used.append(name)
            return self._listing.read_texts([name])[name]
        return self._beside[name]

    def for_split(self, split: str, only: bool) -> bytes | None:
        """The file of a split's labels: one in its own folder before one elsewhere."""
        own = tuple(folder for folder, of in self._layout.splits.items() if of == split)
        found = label_files(self.names(), split, only=only)
        return next((name for name in found if name.startswith(own) and own != (b"",)), None) or next(iter(found), None)

    def names_any(self, file: bytes, images: Sequence[bytes]) -> bool:
        """Whether a file of labels has one of some images."""
        table = read_labels(self.read(file), _last(shown(file)), images)
        return any(table.label(image) for image in images)

    def class_texts(self) -> dict[bytes, bytes]:
        """By base name, those nearest to the top first."""
        texts: dict[bytes, bytes] = {}
        wanted = (b"words.txt", b"LOC_synset_mapping.txt", b"Labels.json", b"imagenet_class_index.json")
        for name in sorted(self._listing.texts, key=lambda n: n.count(b"/")):
            if _base(name) in wanted and _base(name) not in texts:
                texts[_base(name)] = self.read(name)
        return {**{_base(k): v for k, v in self._beside.items() if _base(k) in wanted}, **texts}

    def class_list(self) -> list[bytes]:
        """The lines of a list of classes at the top; empty where there is none."""
        for base in CLASS_LISTS:
            for name in (base, self._layout.base + base):
                if name in self._listing.texts:
                    return listed_classes(self.read(name), shown(name))
        return []


def _base(name: bytes) -> bytes:
    return name[name.rfind(b"/") + 1 :]


def _sort_images(
    members: Table, layout: Layout, listing: Listing, source: str
) -> tuple[dict[str, ImageList], dict[str, _Flat]]:
    """(images within class folders, images beside them), by split; those in no split are left out and said."""
    splits: dict[str, ImageList] = {}
    flat: dict[str, _Flat] = {}
    outside: dict[bytes, str] = {}
    last: bytes | None = None
    reason = ""
    target: ImageList | _Flat | None = None
    wnid = prefix = b""
    number = -1
    for name in names_of(members):
        number += 1
        at = name.rfind(b"/") + 1
        # What there is to know of an image is in its folder's name, and neighbours share it: a third of the time.
        if name[:at] != last:
            last = name[:at]
            check_utf8(last, f"a folder of {source}")
            place = _place_of(last, layout)
            if place is None:
                target, reason = None, _outside(last, layout, outside)
            else:
                split, wnid, prefix = place
                lists: dict[str, Any] = splits if wnid else flat
                target = lists.setdefault(split, ImageList() if wnid else _Flat(numbers=[], names=[]))
        base = name[at:]
        if not base.isascii():
            check_utf8(base, f"an image in {shown(name[:at]) or source}")
        if isinstance(target, ImageList):
            target.add(number, wnid, prefix + base)
        elif target is not None:
            target.numbers.append(number)
            target.names.append(base)
        else:
            listing.account.leave_out(reason, name)
    return splits, flat


def _outside(folder: bytes, layout: Layout, seen: dict[bytes, str]) -> str:
    """Why images of a folder that is no split's are left out; the first such folders are named."""
    inner = folder[len(layout.base) :] if folder.startswith(layout.base) else folder
    top = inner.partition(b"/")[0]
    if top not in seen:
        where = f"in {shown(top)}" if len(seen) < _SHOWN_FOLDERS else "in other folders"
        seen[top] = f"{where if top else 'beside them'}, outside of the splits' folders"
    return seen[top]


def _place_of(folder: bytes, layout: Layout) -> tuple[str, bytes, bytes] | None:
    """(split, class, what comes before the file's name in a key) of a folder's images; None if they are no part.

    `folder` ends in '/', or is empty. The class is empty where the folder is none of a class.
    """
    at = max((len(top) for top in layout.splits if folder.startswith(top)), default=-1)
    if at < 0:
        return None
    split = layout.splits[folder[:at]]
    parts = folder[at:].split(b"/")[:-1]
    if not parts or parts[0] == b"images":
        return split, b"", b""
    inner = parts[2:] if parts[1:2] == [b"images"] else parts[1:]
    return split, parts[0], b"".join(part + b"/" for part in [parts[0], *inner])


def _place_flat(
    splits: dict[str, ImageList],
    flat: Mapping[str, _Flat],
    members: Table,
    texts: _Texts,
    format: str,
    listing: Listing,
    wanted: Wanted,
    skip_missing: bool,
) -> tuple[set[str], set[str]]:
    """Put images that lie in no class folder into their splits.

    Returns:
        (the splits that have no labels, those that have them from a file).
    """
    unlabelled = set()
    labelled: dict[bytes, list[str]] = {}
    for split, images in flat.items():
        if split in splits:
            raise UsageError(
                f"split {split} has images within class folders and images beside them ({shown(images.names[0])}): "
                "put each image into the folder of its class"
            )
        file = texts.for_split(split, only=len(flat) == 1)
        if not wanted.takes(split) or (file is None and split == "test"):
            unlabelled.add(split)
        elif file is not None:
            labelled.setdefault(file, []).append(split)
        elif not _place_by_names(splits, split, images, listing):
            others = [name for name in splits if name not in flat] if wanted.names is None else []
            raise UsageError(_missing_labels(split, format, others))
    for file, of in labelled.items():
        # A file of no split's name may have nothing on the test images, which then have no labels.
        if "test" in of and not is_of_one_split(file) and not texts.names_any(file, flat["test"].names):
            of.remove("test")
            unlabelled.add("test")
    for split in unlabelled:
        target = splits[split] = ImageList()
        for number, file_name in zip(flat[split].numbers, flat[split].names, strict=True):
            target.add(number, b"", file_name)
    for file, of in labelled.items():
        if of:
            _place_by_file(splits, {split: flat[split] for split in of}, file, members, texts, listing, skip_missing)
    return unlabelled, {split for of in labelled.values() for split in of}


def _place_by_file(
    splits: dict[str, ImageList], flat: Mapping[str, _Flat], file: bytes, members: Table, texts: _Texts,
    listing: Listing, skip_missing: bool,
) -> None:  # fmt: skip
    """Put the images of some splits where one file of labels says."""
    names = [name for images in flat.values() for name in images.names]
    called = shown(file)
    table = read_labels(texts.read(file), _last(called), names)
    refuse_no_match(table, _last(called), names, " and ".join(flat))
    listing.account.note(f"labels of {' and '.join(flat)} are from {called}, {table.column}")
    lost = table.without_image(names)
    if lost:
        some = ", ".join(map(shown, lost[:2])) + (" ..." if len(lost) > 2 else "")
        text = f"{_last(called)} names {counted(len(lost), 'image')} that SOURCE has not ({some})"
        if not skip_missing:
            raise UsageError(f"{text}: fetch it or them again, or pack what is there with --on-missing skip")
        listing.account.note(text)
    forms = {composed(name): name for images in splits.values() for name in images.class_names()}
    for split, images in flat.items():
        target = ImageList()
        for number, name in zip(images.numbers, images.names, strict=True):
            label = table.label(name)
            if label is None and not skip_missing:
                raise UsageError(
                    f"{_last(called)} has no label for {shown(name)} of split {split}: fetch it again, give the one "
                    "that belongs to these images, or leave such images out with --on-missing skip"
                )
            if label is None:
                listing.account.leave_out(f"without a label in {called}", bytes(members["name"][number]) or name)
                continue
            label = forms.get(label, label)
            target.add(number, label, label + b"/" + name)
        if len(target):
            splits[split] = target


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _place_by_names(splits: dict[str, ImageList], split: str, images: _Flat, listing: Listing) -> bool:
    """Label images by the wnids in their names, where each has one; False where not."""
    for pattern in (_WNID_LAST, _WNID_FIRST):
        found = [pattern.fullmatch(name) for name in images.names]
        if all(found):
            target = splits[split] = ImageList()
            for number, name, match in zip(images.numbers, images.names, found, strict=True):
                wnid = match[1] if match else b""
                target.add(number, wnid, wnid + b"/" + name)
            listing.account.note(f"labels of {split} are the wnids in the images' names ({shown(images.names[0])})")
            return True
    return False


def _missing_labels(split: str, format: str, others: Sequence[str]) -> str:
    """Which file would hold the labels of images that lie in no class folder, and where that file is had."""
    rest = f"; or pack without it: {' '.join(f'--split {name}' for name in others)}" if others else ""
    if split == "val" and format in _LABELS_FROM:
        return f"the labels of split val are missing: {_LABELS_FROM[format]}{rest}"
    return (
        f"split {split} has images that lie in no class folder: make a folder for each class, or put beside them a "
        f"{split}_labels.txt with a line of FILE CLASS for each{rest}"
    )


def _classes(
    splits: Mapping[str, ImageList], unlabelled: set[str], by_file: set[str], name: str, wanted: Wanted,
    listing: Listing, texts: _Texts,
) -> Classes:  # fmt: skip
    """Classes in label order: train's, sorted, as ImageFolder has them; else those of all labelled splits."""
    named = {split: images.class_names() for split, images in splits.items() if split not in unlabelled}
    if "train" not in named:
        used = set().union(*named.values())
    else:
        used = named["train"]
        for split, found in named.items():
            strange = sorted(found - used) if wanted.takes(split) else []
            if strange:
                raise UsageError(
                    f"{name}: split {split} has class {shown(strange[0])}, which train has not ({len(strange)} such): "
                    "the splits must be of the same classes"
                )
    listed = texts.class_list() if used and all(text.isdigit() for text in used) else []
    folders = not by_file & ({"train"} if "train" in named else set(named))
    classes = order_classes(used, name, listing.account, folders=folders, listed=listed)
    # Classes of splits that are not packed may be strange; they get a label that no record has.
    others = {text: 0 for found in named.values() for text in found if text not in classes.index}
    return Classes(names=classes.names, index={**others, **classes.index})


def _format(layout: Layout, texts: _Texts) -> str:
    if layout.base.endswith(b"ILSVRC/Data/CLS-LOC/"):
        return "kaggle"
    return "tiny-imagenet" if texts.has(b"val_annotations.txt") or texts.has(b"wnids.txt") else "imagefolder"


def _refuse_twins(images: Table, name: str) -> None:
    """An archive may hold two members of one name; which of them counts is anyone's guess."""
    same = images["key"][1:] == images["key"][:-1]
    if same.any():
        twin = bytes(images["key"][1:][same][0]).decode(errors="replace")
        raise UsageError(f"{name} holds two images named {twin}: remove one of them")
