"""WebDataset shards: tars in which a sample is neighbouring members that share the name up to its first dot."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DamagedDataError, UsageError
from .archives import TarMember, tar_members
from .table import RANGE, ImageList, MemberList, Source, is_image
from .tree import SPLIT_ORDER, WNID

_LABEL_ENDINGS = (b"cls", b"label", b"target", b"index", b"json")
_JSON_NAMES = ("label", "cls", "class", "class_id", "target", "wnid", "synset")
_CLASS_FILES = ("classes.txt", "synsets.txt", "wnids.txt", "classnames.txt")
_SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|test)(?:[^a-z]|$)", re.IGNORECASE)
_LARGEST_LABEL = 1 << 20


def split_by_name(name: str) -> str:
    """The split that a shard's file name speaks of; 'train' where it speaks of none."""
    found = _SPLIT_WORD.search(name)
    word = found[1].lower() if found else "train"
    return "val" if word.startswith("val") else "test" if word == "test" else "train"


def is_webdataset(path: Path) -> bool:
    """Whether a tar's first members are an image and a label with one name up to the first dot."""
    groups: dict[bytes, set[bytes]] = {}
    for count, member in enumerate(_members(path)):
        key, ending = _key_and_ending(member.name)
        groups.setdefault(key, set()).add(ending)
        if count >= 12:
            break
    return any(
        endings & set(_LABEL_ENDINGS) and any(is_image(b"." + ending) for ending in endings)
        for endings in groups.values()
    )


def _key_and_ending(name: bytes) -> tuple[bytes, bytes]:
    """('a/b', 'jpg') of 'a/b.jpg'; of 'a/b.image.jpg' too, since only the last part tells the kind."""
    folder, slash, base = name.rpartition(b"/")
    stem, _, endings = base.partition(b".")
    return folder + slash + stem, endings.rpartition(b".")[2].lower()


def _members(path: Path) -> Iterator[TarMember]:
    with open(path, "rb", buffering=0) as file:
        yield from tar_members(file.fileno(), path, 0, os.fstat(file.fileno()).st_size)


@dataclass
class _Sample:
    """One sample while its members go by."""

    key: bytes
    image: TarMember | None = None
    labels: dict[bytes, TarMember] = field(default_factory=dict)


@dataclass
class _Images:
    """One split while its shards are read."""

    list: ImageList = field(default_factory=ImageList)
    labelled: bool | None = None


def read_webdataset(name: str, tars: Sequence[Path], folder: Path) -> Source:
    """The source that a set of WebDataset tars is.

    Args:
        name: of the source, for people.
        tars: the shards; their file names tell the split.
        folder: where a list of classes may lie (classes.txt and the like: the line number is the label).

    Raises:
        UsageError: samples lack labels, or labels and the list of classes do not fit.
        DamagedDataError: a tar or a label is damaged.
    """
    members = MemberList()
    splits: dict[str, _Images] = {}
    number = 0
    for container, path in enumerate(tars):
        split = splits.setdefault(split_by_name(path.name), _Images())
        with open(path, "rb", buffering=0) as file:
            for sample in _samples(path):
                if sample.image is None:
                    continue
                label = _read_label(file.fileno(), path, sample)
                _agree(split, label is not None, path, sample)
                ending = sample.image.name[len(sample.key) :]
                members.add(
                    sample.image.name, container=container, method=RANGE, offset=sample.image.offset,
                    stored=sample.image.size, size=sample.image.size,
                )  # fmt: skip
                split.list.add(number, label or b"", sample.key + ending)
                number += 1
    if not number:
        raise UsageError(f"{name} holds no samples with images")
    return _source(name, members, splits, tars, _listed_classes(folder))


def _samples(path: Path) -> Iterator[_Sample]:
    sample = _Sample(b"")
    for member in _members(path):
        key, ending = _key_and_ending(member.name)
        if key != sample.key:
            yield sample
            sample = _Sample(key)
        if is_image(b"." + ending):
            sample.image = member
        elif ending in _LABEL_ENDINGS:
            sample.labels[ending] = member
    yield sample


def _read_label(descriptor: int, path: Path, sample: _Sample) -> bytes | None:
    """The label's text: a number, or a class's name; None where there is none."""
    for ending in _LABEL_ENDINGS:
        member = sample.labels.get(ending)
        if member is None:
            continue
        if member.size > _LARGEST_LABEL:
            raise DamagedDataError(f"{member.name.decode(errors='replace')} in {path} is too large to be a label")
        text = os.pread(descriptor, member.size, member.offset).strip()
        if ending != b"json":
            return text
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise DamagedDataError(f"{member.name.decode(errors='replace')} in {path} is not JSON") from None
        values = content if isinstance(content, dict) else {"label": content}
        for name in _JSON_NAMES:
            if isinstance(values.get(name), (int, str)) and not isinstance(values[name], bool):
                return str(values[name]).encode()
    return None


def _agree(split: _Images, labelled: bool, path: Path, sample: _Sample) -> None:
    if split.labelled not in (None, labelled):
        raise UsageError(
            f"sample {sample.key.decode(errors='replace')} of {path} has {'a' if labelled else 'no'} label "
            "(.cls or .json) unlike those before it: give all samples of a split one, or none"
        )
    split.labelled = labelled


def _listed_classes(folder: Path) -> list[bytes]:
    for name in _CLASS_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_bytes().splitlines()
            return [line.strip() for line in lines if line.strip()]
    return []


def _source(
    name: str, members: MemberList, splits: dict[str, _Images], tars: Sequence[Path], listed: list[bytes]
) -> Source:
    used = set().union(*(split.list.class_names() for split in splits.values() if split.labelled))
    numeric = all(text.isdigit() for text in used)
    if numeric:
        most = max(map(int, used), default=-1)
        if listed and most >= len(listed):
            raise UsageError(f"{name} has label {most}, and its list of classes has {len(listed)} lines: mend the list")
        if most >= 1 << 20:
            raise UsageError(f"{name} has label {most}, which is no class's number")
        names = listed or [str(i).encode() for i in range(most + 1)]
    else:
        names = sorted(used)
    # Wnids sort as torchvision numbers them, whatever order the shards' writer had.
    order = sorted(names) if all(WNID.match(n) for n in names) else names
    place = {text: i for i, text in enumerate(order)}
    index = {text: place[names[int(text)]] if numeric else place[text] for text in used}
    table = members.table()
    tables = {}
    for split in sorted(splits, key=SPLIT_ORDER.index):
        labelled = bool(splits[split].labelled)
        tables[split] = splits[split].list.split(table, class_index=index, labelled=labelled)
    classes = [text.decode(errors="replace") for text in order]
    return Source(
        name=name, format="webdataset", classes=tuple(_wnid_and_name(text) for text in classes), splits=tables,
        containers=tuple(path.resolve() for path in tars),
    )  # fmt: skip


def _wnid_and_name(text: str) -> tuple[str, str]:
    """A class as a line of a list gives it: 'n01440764 tench', or one word that is both."""
    first, _, rest = text.partition(" ")
    return (first, rest.strip()) if rest and WNID.fullmatch(first.encode()) else (text, text)
