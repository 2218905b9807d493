"""WebDataset shards: tars in which a sample is the members that share the name up to its first dot."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import DamagedDataError, UsageError
from ..system import read_at
from .account import Account
from .classes import order_classes
from .listing import Listing
from .names import IMAGE, check_utf8, is_hidden, kind_of, shown
from .splits import in_order
from .table import RANGE, ImageList, Source
from .tars import TarMember, rest_noted, tar_members

_LABEL_ENDINGS = (b"cls", b"label", b"target", b"index", b"json")
_JSON_NAMES = ("label", "cls", "class", "class_id", "target", "wnid", "synset")
# Members that are named for a label and hold it in a form of Python's.
_BINARY_LABEL = re.compile(rb"(?:cls|label|labels|target|class|index)\.(?:npy|pyd|pkl|pickle|pt|pth)|pyd|pkl|pickle")
_NONE = "-1"  # as a label: none
_LARGEST_LABEL = 1 << 20
# A tar is told for one of WebDataset by so many of its first members.
_LOOKED_AT = 4096


def is_webdataset(path: Path) -> bool:
    """Whether a tar's first members hold an image and a label with one name up to the first dot."""
    groups: dict[bytes, int] = {}
    for count, member in enumerate(_members(path)):
        if is_hidden(member.name):
            continue
        key, endings = _key_and_endings(member.name)
        last = endings.rpartition(b".")[2]
        found = groups[key] = (
            groups.get(key, 0)
            | (1 if kind_of(b"x." + last) == IMAGE else 0)
            | (2 if last in _LABEL_ENDINGS or _BINARY_LABEL.fullmatch(endings) else 0)
        )
        if found == 3:
            return True
        if count >= _LOOKED_AT:
            break
    return False


def is_empty_tar(path: Path) -> bool:
    """Whether a tar has no members, as a writer leaves behind that was closed before its first sample."""
    return next(iter(_members(path)), None) is None


def _key_and_endings(name: bytes) -> tuple[bytes, bytes]:
    """('a/b', 'depth.png') of 'a/b.depth.PNG'."""
    at = name.rfind(b"/") + 1
    stem, _, endings = name[at:].partition(b".")
    return name[:at] + stem, endings.lower()


def _members(path: Path) -> Iterator[TarMember]:
    with open(path, "rb", buffering=0) as file:
        yield from tar_members(file.fileno(), path, 0, os.fstat(file.fileno()).st_size)


@dataclass
class _Sample:
    """The members of one sample that may be its image or its label, by their endings."""

    images: dict[bytes, TarMember] = field(default_factory=dict)
    labels: dict[bytes, TarMember] = field(default_factory=dict)
    binary: dict[bytes, TarMember] = field(default_factory=dict)


@dataclass
class _Images:
    """One split while its shards are read."""

    list: ImageList = field(default_factory=ImageList)
    labelled: bool | None = None


def read_webdataset(
    name: str, shards: Mapping[bytes, Path], splits: Mapping[bytes, str], listing: Listing, listed: Sequence[bytes]
) -> Source:
    """The source that a set of WebDataset tars is.

    Args:
        name: of the source, for people.
        shards: the tars by their names within the source.
        splits: the split of each.
        listing: takes the account of members and what else is there.
        listed: the list of classes that numbers count in (classes.txt and the like); empty where there is none.

    Raises:
        UsageError: samples lack labels or have several images or labels, or labels and the list do not fit.
        DamagedDataError: a tar or a label is damaged.
    """
    found: dict[str, _Images] = {}
    number = 0
    for shard, path in shards.items():
        split = found.setdefault(splits[shard], _Images())
        container = listing.container(path)
        with open(path, "rb", buffering=0) as file:
            for key, sample in _samples(path, shown(shard), listing).items():
                image = _image_of(key, sample, shown(shard), listing)
                if image is None:
                    continue
                label = _read_label(file.fileno(), shown(shard), sample, listing.account)
                _agree(split, label is not None, shown(shard), key)
                _add_row(listing, image, container)
                check_utf8(image.name, f"a member of {shown(shard)}")
                split.list.add(number, label or b"", key + image.name[len(key) :])
                number += 1
    if not number:
        raise UsageError(f"{name} holds no samples with images ({listing.close()})")
    used = set().union(*(split.list.class_names() for split in found.values() if split.labelled))
    classes = order_classes(used, name, listing.account, listed=listed)
    table = listing.table()
    tables = {}
    for split_name in in_order(found):
        labelled = bool(found[split_name].labelled)
        tables[split_name] = found[split_name].list.split(table, class_index=classes.index, labelled=labelled)
    return Source(
        name=name, format="webdataset", classes=classes.names, splits=tables, containers=tuple(listing.containers),
        account=listing.close(),
    )  # fmt: skip


def _add_row(listing: Listing, image: TarMember, container: int) -> None:
    listing.add_image(
        image.name, container=container, method=RANGE, offset=image.offset, stored=image.size, size=image.size
    )


def _samples(path: Path, shard: str, listing: Listing) -> dict[bytes, _Sample]:
    """The samples of a tar by their names, wherever in it their members lie."""
    samples: dict[bytes, _Sample] = {}
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        for member in tar_members(file.fileno(), path, 0, end, rest_noted(listing, shard)):
            if is_hidden(member.name):
                listing.skip(member.name, "hidden")
                continue
            key, endings = _key_and_endings(member.name)
            last = endings.rpartition(b".")[2]
            sample = samples.setdefault(key, _Sample())
            if kind_of(b"x." + last) == IMAGE:
                kind = sample.images
            elif last in _LABEL_ENDINGS:
                kind = sample.labels
            elif _BINARY_LABEL.fullmatch(endings):
                kind = sample.binary
            else:
                listing.skip(member.name, f"members of samples that are neither image nor label (.{shown(last)})")
                continue
            if endings in kind:
                raise UsageError(
                    f"{shard} holds two members named {shown(member.name)}: pack shards whose samples differ in name"
                )
            kind[endings] = member
            if kind is not sample.images:
                listing.skip(member.name, "labels of samples")
    return samples


def _image_of(key: bytes, sample: _Sample, shard: str, listing: Listing) -> TarMember | None:
    """The image of a sample: the only one, or the one whose ending has one part (jpg beside depth.png).

    Raises:
        UsageError: there are several such; or the sample's labels are of several samples of one stem.
    """
    plain = [endings for endings in sample.images if b"." not in endings]
    several = len(sample.images) > 1 and len(plain) != 1
    lasts = [endings.rpartition(b".")[2] for endings in sample.labels]
    if several or len(set(lasts)) < len(lasts):
        members = [*sample.images.values(), *sample.labels.values()]
        first, second = (shown(member.name) for member in members[:2])
        raise UsageError(
            f"sample {shown(key)} of {shard} has several images or labels ({first}, {second}): a sample's name ends at "
            "its first dot, so name samples without dots, and give each one image"
        )
    if not sample.images:
        return None
    chosen = plain[0] if plain else next(iter(sample.images))
    for endings, member in sample.images.items():
        if endings != chosen:
            listing.skip(member.name, f"second images of samples (.{shown(endings)}, beside .{shown(chosen)})")
    return sample.images[chosen]


def _read_label(descriptor: int, shard: str, sample: _Sample, account: Account) -> bytes | None:
    """The label's text: a number, or a class's name; None where there is none."""
    for ending in _LABEL_ENDINGS:
        for endings, member in sample.labels.items():
            if endings.rpartition(b".")[2] == ending:
                text = _read_member(descriptor, shard, member)
                label = (
                    _label_of_json(text, shard, member, account)
                    if ending == b"json"
                    else _label_of_text(text, shard, member)
                )
                if label is not None:
                    return label
    for endings, member in sample.binary.items():
        if not endings.endswith(b"npy"):
            raise UsageError(
                f"{shown(member.name)} in {shard} is a pickled label, which is never read (it could run anything): "
                "write labels as text (.cls)"
            )
        return _label_of_npy(_read_member(descriptor, shard, member), shard, member)
    return None


def _read_member(descriptor: int, shard: str, member: TarMember) -> bytes:
    if member.size > _LARGEST_LABEL:
        raise DamagedDataError(f"{shown(member.name)} in {shard} is too large to be a label")
    return read_at(descriptor, member.size, member.offset)


def _label_of_text(text: bytes, shard: str, member: TarMember) -> bytes | None:
    if text.startswith(b"\x93NUMPY"):
        return _label_of_npy(text, shard, member)
    try:
        label = text.removeprefix(b"\xef\xbb\xbf").decode().strip()
    except UnicodeDecodeError:
        label = ""
    if not label or not label.isprintable():
        raise UsageError(
            f"{shown(member.name)} in {shard} is no text with a label (it begins with {text[:8]!r}): write the class's "
            "number or name"
        )
    if label == _NONE:
        return None
    number = re.fullmatch(r"(\d+)\.0*", label)
    return (number[1] if number else label).encode()


def _label_of_npy(data: bytes, shard: str, member: TarMember) -> bytes:
    try:
        value = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DamagedDataError(f"{shown(member.name)} in {shard} is no NumPy array with a label ({error})") from None
    label = _plain_label(value.item()) if value.size == 1 else None
    if label is None:
        raise _no_label(f"an array of shape {value.shape}", shard, member)
    return label


def _label_of_json(text: bytes, shard: str, member: TarMember, account: Account) -> bytes | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedDataError(f"{shown(member.name)} in {shard} is not JSON") from None
    values = content if isinstance(content, dict) else {"label": content}
    for name in _JSON_NAMES:
        if values.get(name) is None or str(values[name]) in (_NONE, "-1.0"):
            continue
        label = _plain_label(values[name])
        if label is None:
            raise _no_label(f"{name}: {json.dumps(values[name])[:60]}", shard, member)
        return label
    if any(str(values.get(name)) in (_NONE, "-1.0") for name in _JSON_NAMES):
        return None
    there = shown(", ".join(map(str, values))[:120]) or "nothing"
    account.note(f"the .json of samples holds no label ({', '.join(_JSON_NAMES)}); it has {there}")
    return None


def _plain_label(value: object) -> bytes | None:
    """The text of a label that is a whole number (1, 1.0), a name, or a list of one of them; None where it is not."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    text = str(value).strip()
    return text.encode() if text and not text.startswith("-") else None


def _no_label(what: str, shard: str, member: TarMember) -> UsageError:
    return UsageError(
        f"{shown(member.name)} in {shard} has {what}, which is not one class: write its number or its name"
    )


def _agree(split: _Images, labelled: bool, shard: str, key: bytes) -> None:
    if split.labelled not in (None, labelled):
        raise UsageError(
            f"sample {shown(key)} of {shard} has {'a' if labelled else 'no'} label "
            "(.cls or .json) unlike those before it: give all samples of a split one, or none"
        )
    split.labelled = labelled
