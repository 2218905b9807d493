"""Which folder or shard is which split: the one table of the names that people give, and what is done where they clash.

A name is taken for a split's where it holds one of the words below and nothing else but what says nothing of its
contents (set, images, 2012, X1): Training, train_set, TRAIN, ILSVRC2012_img_val, seg_test. What is not plain is refused
with the option that settles it, `--split NAME=FOLDER`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import UsageError
from .account import Account
from .names import shown, stem_of

SPLIT_ORDER = ("train", "val", "test")
_WORDS = {
    b"train": "train", b"training": "train",
    b"val": "val", b"valid": "val", b"validation": "val", b"validate": "val", b"dev": "val", b"eval": "val",
    b"evaluation": "val",
    b"test": "test", b"testing": "test",
}  # fmt: skip
# What may stand beside such a word.
_NEUTRAL = frozenset(
    b"set sets split splits part parts image images imgs img pic pics picture pictures photo photos data dataset "
    b"folder dir seg x v imagenet net ilsvrc clsloc cls loc tiny full raw jpg jpeg png crops cropped resized original "
    b"partial sample samples shard shards chunk k of tar gz tgz bz bz2 tbz xz txz zip".split()
)  # fmt: skip
_TOKEN = re.compile(rb"[A-Z]?[a-z\x80-\xff]+|[A-Z]+(?![a-z])|\d+")
# The number of a part at a name's end: train.X1, train_2, train-00003; a year is none.
_PART = re.compile(rb"[._ -]*(?:x|part|p)?\d{0,3}$|[._ -]+x?\d{5,}$", re.IGNORECASE)
_WRAPPERS = frozenset((b"images", b"imgs", b"image", b"img", b"data", b"jpegimages"))
_KAGGLE_BASE = b"ILSVRC/Data/CLS-LOC/"


def _words(name: bytes) -> tuple[set[str], bool]:
    """(splits that words of a name speak of, whether it says something else as well)."""
    found, other = set(), False
    for token in _TOKEN.findall(name):
        word = token.lower()
        stem = next((w for w in sorted(_WORDS, key=len, reverse=True) if word.startswith(w)), b"")
        if word in _WORDS:
            found.add(_WORDS[word])
        elif stem and word[len(stem) :] in _NEUTRAL:
            found.add(_WORDS[stem])
        elif not word.isdigit() and word not in _NEUTRAL:
            other = True
    return found, other or not _TOKEN.sub(b"", name).isascii()


def split_of(name: bytes) -> str | None:
    """The split that a folder's name is one of; None where it says something else."""
    found, other = _words(name)
    return next(iter(found)) if len(found) == 1 and not other else None


def split_in(name: bytes) -> str | None:
    """The split that a shard's file name speaks of, whatever else it says; None where it speaks of none, or of two."""
    found, _ = _words(stem_of(name))
    return next(iter(found)) if len(found) == 1 else None


def split_of_source(path: bytes, *, shard: bool = False) -> str | None:
    """The split that a SOURCE given alone is: by its name, or by its folder's where its own says nothing."""
    parts = [part for part in path.split(b"/") if part]
    for part in reversed(parts[-2:]):
        name = stem_of(part) if part is parts[-1] else part
        found = split_in(name) if shard else split_of(name)
        if found:
            return found
        tokens = [token.lower() for token in _TOKEN.findall(name)]
        if not all(token.isdigit() or token in _NEUTRAL for token in tokens):
            return None
        shard = False
    return None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What --split asked for.

    Attributes:
        names: of the splits to pack; None for all there are.
        folders: folders of the source (or archives in it) by the split that they are said to be.
    """

    names: tuple[str, ...] | None = None
    folders: Mapping[str, bytes] = field(default_factory=dict)

    def takes(self, split: str) -> bool:
        """Whether the split will be packed."""
        return self.names is None or split in self.names


def parse_wanted(asked: Sequence[str] | None) -> Wanted:
    """--split as it was given: NAME, or NAME=FOLDER.

    Raises:
        UsageError: a folder is empty, or a split was given twice.
    """
    if not asked:
        return Wanted()
    names, folders = [], {}
    for text in asked:
        name, equals, folder = text.partition("=")
        if name in names:
            raise UsageError(f"--split {name} was given twice")
        names.append(name)
        if equals:
            if not folder:
                raise UsageError(f"--split {text} names no folder: --split {name}=FOLDER")
            folders[name] = folder.strip("/").encode(errors="surrogateescape")
    return Wanted(names=tuple(names), folders=folders)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the splits of a tree lie.

    Attributes:
        splits: split by folder ('a/train/'; '' is the top).
        base: what lies above the splits' folders.
    """

    splits: Mapping[bytes, str]
    base: bytes = b""


def find_layout(
    folders: Mapping[bytes, int],
    account: Account,
    *,
    wanted: Wanted,
    alone: str | None,
    archives: Collection[bytes] = (),
) -> Layout:
    """Where the splits lie in a tree whose folders hold so many images each.

    Args:
        folders: images directly in each folder ('a/b/').
        account: told what was decided where it is not plain.
        wanted: folders that were named for splits count as that.
        alone: the split that the source is by its own name, where there are no splits in it.
        archives: which of the folders are archives that were read as such.

    Raises:
        UsageError: names of folders can be read in two ways; the text says which option settles it.
    """
    if wanted.folders:
        return _named_layout(folders, wanted)
    for folder in folders:
        if _KAGGLE_BASE in folder:
            base = folder[: folder.index(_KAGGLE_BASE)] + _KAGGLE_BASE
            break
    else:
        base = _base_of(folders)
    named = {child: split for child in _children(folders, base) if (split := split_of(child))}
    if not named:
        return _without_splits(folders, base, account, alone)
    _refuse_one_among_others(folders, base, named)
    splits = _one_folder_each(base, named, account, archives)
    return Layout(splits={_descend(folders, folder, split): split for folder, split in splits.items()}, base=base)


def _named_layout(folders: Mapping[bytes, int], wanted: Wanted) -> Layout:
    splits: dict[bytes, str] = {}
    for split, asked in wanted.folders.items():
        if asked == b".":
            splits[_common(folders)] = split
            continue
        ends = {folder[: at + len(asked) + 1] for folder in folders for at in [_find_path(folder, asked)] if at >= 0}
        if len(ends) != 1:
            there = sorted({b"/".join(folder.split(b"/")[:2]).rstrip(b"/") for folder in folders if folder})[:8]
            raise UsageError(
                f"--split {split}={shown(asked)}: SOURCE has {'more than one' if ends else 'no'} such folder with "
                f"images; it has {', '.join(map(shown, there)) or 'none'}"
            )
        splits[_descend(folders, ends.pop(), split)] = split
    missing = [name for name in wanted.names or () if name not in wanted.folders]
    if missing:
        rest = {f: n for f, n in folders.items() if not any(f.startswith(folder) for folder in splits)}
        layout = find_layout(rest, Account(), wanted=Wanted(), alone=None) if rest else Layout(splits={})
        splits |= {folder: split for folder, split in layout.splits.items() if split in missing}
    return Layout(splits=splits)


def _find_path(folder: bytes, path: bytes) -> int:
    """Where `path` lies in a folder's path as whole parts; -1 where it does not."""
    return (b"/" + folder).find(b"/" + path + b"/")


def _children(folders: Iterable[bytes], base: bytes) -> list[bytes]:
    """Names of the folders directly in `base`, sorted."""
    return sorted({f[len(base) :].partition(b"/")[0] for f in folders if f.startswith(base) and f != base})


def _base_of(folders: Mapping[bytes, int]) -> bytes:
    """The folder that the folders of splits lie in, else the one that all images have in common.

    Raises:
        UsageError: several folders hold splits.
    """
    holders: dict[bytes, set[str]] = {}
    for folder in folders:
        parts = folder.split(b"/")[:-1]
        for depth, part in enumerate(parts):
            split = split_of(part)
            if split:
                holders.setdefault(b"".join(p + b"/" for p in parts[:depth]), set()).add(split)
    common = _common(folders)
    several = [h for h, found in holders.items() if len(found) > 1]
    outermost = [h for h in several if not any(h != other and h.startswith(other) for other in several)]
    if len(outermost) > 1:
        first, second = sorted(outermost)[:2]
        raise UsageError(
            f"{len(outermost)} folders hold splits each ({shown(first)}, {shown(second)} ...): give one of them as "
            "SOURCE, or say what is what with --split NAME=FOLDER"
        )
    if outermost:
        return outermost[0]
    # A folder called like one split counts at or above what all images have in common; below, it is a class.
    above = [h for h in holders if common.startswith(h)]
    return min(above, key=len) if above else common


def _common(folders: Mapping[bytes, int]) -> bytes:
    """The folder that all others lie in; where it has images itself, and so is a class, the one above it."""
    paths = [folder.split(b"/")[:-1] for folder in folders]
    common: list[bytes] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    if common and folders.get(b"".join(part + b"/" for part in common)):
        common = common[: -2 if common[-1:] == [b"images"] else -1]
    # One class alone keeps its folder.
    for place, part in enumerate(common):
        if re.fullmatch(rb"n\d{8}", part):
            common = common[:place]
            break
    return b"".join(part + b"/" for part in common)


def _without_splits(folders: Mapping[bytes, int], base: bytes, account: Account, alone: str | None) -> Layout:
    likely: dict[str, bytes] = {}
    for child in _children(folders, base):
        split = split_in(child + b".x")
        if split:
            likely.setdefault(split, child)
    if len(likely) > 1:
        asked = " ".join(f"--split {split}={shown(base + likely[split])}" for split in in_order(likely))
        raise UsageError(
            f"folders {' and '.join(map(shown, likely.values()))} look like splits: say {asked}, or "
            f"--split train={shown(base.rstrip(b'/') or b'.')} if they are classes"
        )
    if alone and alone != "train":
        account.note(f"all of it is split {alone}, as SOURCE is called (--split train=. takes it for train)")
    return Layout(splits={base: alone or "train"}, base=base)


def _refuse_one_among_others(folders: Mapping[bytes, int], base: bytes, named: Mapping[bytes, str]) -> None:
    """One split's name among others may be a class's: bus, car and train."""
    others = [child for child in _children(folders, base) if child not in named]
    if len(set(named.values())) == 1 and others:
        name, split = next(iter(named.items()))
        raise UsageError(
            f"folder {shown(name)} is called like a split, and {shown(others[0])} beside it is not: if they are "
            f"classes, say --split train={shown(base.rstrip(b'/') or b'.')}; if {shown(name)} is the split {split}, "
            f"say --split {split}={shown(base + name)}"
        )


def _one_folder_each(
    base: bytes, named: Mapping[bytes, str], account: Account, archives: Collection[bytes]
) -> dict[bytes, str]:
    """Split by folder, where several folders of one split are its numbered parts, or an archive and what came of it.

    Raises:
        UsageError: two folders of other names are one split.
    """
    splits: dict[bytes, str] = {}
    for split in dict.fromkeys(named.values()):
        children = sorted(child for child, of in named.items() if of == split)
        packed = [child for child in children if base + child + b"/" in archives]
        if len(packed) == 1 and len(children) > 1:
            left = [child for child in children if child not in packed]
            account.note(
                f"split {split} is read from the archive {shown(packed[0])}; folder {shown(left[0])} beside it is left "
                f"out (--split {split}={shown(base + left[0])} reads that)"
            )
            children = packed
        if len({_PART.sub(b"", stem_of(child) if child in packed else child) for child in children}) > 1:
            raise UsageError(
                f"folders {shown(children[0])} and {shown(children[1])} would both be split {split}: say which is with "
                f"--split {split}={shown(base + children[0])}, and leave the other out or give it another split"
            )
        if len(children) > 1:
            account.note(f"split {split} is in {len(children)} folders: {', '.join(map(shown, children[:4]))}")
        elif children[0] not in packed and children[0].lower() not in (
            b"train",
            b"val",
            b"test",
            b"valid",
            b"validation",
        ):
            account.note(f"folder {shown(base + children[0])} is taken for split {split}")
        splits |= {base + child + b"/": split for child in children}
    return splits


def _descend(folders: Mapping[bytes, int], folder: bytes, split: str) -> bytes:
    """The folder that a split's classes lie in: within seg_train/seg_train/ or train/images/CLASS/, say."""
    while not folders.get(folder):
        children = _children(folders, folder)
        if len(children) != 1 or not (split_of(children[0]) == split or children[0].lower() in _WRAPPERS):
            break
        below = folder + children[0] + b"/"
        if folders.get(below) and children[0].lower() in _WRAPPERS:
            break
        folder = below
    return folder


def shard_splits(
    files: Sequence[bytes], account: Account, *, wanted: Wanted, alone: str | None, what: str
) -> dict[bytes, str]:
    """The split of each shard (a tar of WebDataset, a parquet file), by its name or its folders'.

    Raises:
        UsageError: some names tell a split and others do not, or the shards lie in several configurations' folders.
    """
    found: dict[bytes, str | None] = {}
    for name in files:
        said = (s for s, f in wanted.folders.items() if f == b"." or name == f or name.startswith(f + b"/"))
        found[name] = next(said, None) or split_in(name) or _split_above(name)
    if wanted.folders:
        return {name: split for name, split in found.items() if split and wanted.takes(split)}
    places = {_configuration(name) for name in files}
    if len(places) > 1:
        first, second = sorted(places)[:2]
        raise UsageError(
            f"{what} lie in several folders ({shown(first) or 'the top'}, {shown(second)} ...): give one of them as "
            "SOURCE"
        )
    unknown = [name for name, split in found.items() if split is None]
    if unknown and len(unknown) < len(files):
        raise UsageError(
            f"{shown(unknown[0])} names no split, and others do: say which it is with --split "
            f"NAME={shown(unknown[0])}, for each split that is to be packed"
        )
    if unknown and alone and alone != "train":
        account.note(
            f"all of it is split {alone}, as SOURCE or its folder is called (--split train=. takes it for train)"
        )
    return {name: split or alone or "train" for name, split in found.items()}


def _split_above(name: bytes) -> str | None:
    return next((split for part in reversed(name.split(b"/")[:-1]) if (split := split_of(part))), None)


def _configuration(name: bytes) -> bytes:
    """The folder that a shard lies in, without those that are named for splits."""
    return b"/".join(part for part in name.split(b"/")[:-1] if not split_of(part))


def in_order(splits: Iterable[str]) -> list[str]:
    """Names of splits: train, val, test, then others."""
    found = set(splits)
    return [*(s for s in SPLIT_ORDER if s in found), *sorted(found - set(SPLIT_ORDER))]
