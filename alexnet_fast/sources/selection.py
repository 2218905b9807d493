"""A part of a source's classes (`pack --classes`): its images alone, with labels counted anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..words import counted
from .labels import decode_text
from .names import shown
from .table import Source, Split


def select_classes(source: Source, classes: int | str | Path) -> Source:
    """The source with some of its classes, in the order that they have in it.

    Splits without labels keep all their images.

    Args:
        source: all of it.
        classes: the number of classes to take from the front, or a file that has a class on each line: its wnid (or
            the folder's name), its readable name, or its label in the source.

    Raises:
        UsageError: a class is not in the source, or there are fewer than that.
    """
    keep = _kept(source, classes)
    label = np.full(max(len(source.classes), 1), -1, np.int32)
    label[keep] = np.arange(len(keep))
    splits = {}
    for name, split in source.splits.items():
        if not split.labelled:
            splits[name] = split
            continue
        new = label[split.images["label"]]
        taken = split.images[new >= 0]
        taken["label"] = new[new >= 0]
        splits[name] = Split(images=taken, labelled=True)
        if len(taken) < len(split.images):
            example = bytes(split.images["key"][new < 0][0])
            source.account.leave_out(
                f"of classes that --classes leaves out (split {name})", example, len(split.images) - len(taken)
            )
    return dataclasses.replace(source, classes=tuple(source.classes[i] for i in keep), splits=splits)


def _kept(source: Source, classes: int | str | Path) -> list[int]:
    """Labels of the classes that are kept, in order."""
    text = str(classes)
    if text.isdigit():
        if not 1 <= int(text) <= len(source.classes):
            raise UsageError(f"--classes {text}: {source.name} has {counted(len(source.classes), 'class')}")
        return list(range(int(text)))
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"--classes {text} is neither a number nor a file: give one with a class on each line")
    lines = [line.strip() for line in decode_text(path.read_bytes(), text).splitlines() if line.strip()]
    by_text: dict[str, int] = {str(i): i for i in range(len(source.classes))}
    names: dict[str, list[int]] = {}
    for i, (_, name) in enumerate(source.classes):
        for one in dict.fromkeys((name, *name.split(", "))):
            names.setdefault(one, []).append(i)
    # ImageNet has two classes called crane and two called maillot: a name that is two classes' is no name.
    by_text |= {name: places[0] for name, places in names.items() if len(places) == 1}
    by_text |= {wnid: i for i, (wnid, _) in enumerate(source.classes)}
    found = []
    for line in lines:
        first = line.split()[0]
        place = by_text.get(line, by_text.get(first) if first in {wnid for wnid, _ in source.classes} else None)
        if place is None:
            why = "is the name of several classes: give the wnid" if line in names else f"is no class of {source.name}"
            raise UsageError(f"{text}: {shown(line)} {why}")
        found.append(place)
    if not found:
        raise UsageError(f"{text} names no class")
    if len(set(found)) < len(found):
        twice = next(line for line, place in zip(lines, found, strict=True) if found.count(place) > 1)
        raise UsageError(f"{text} names the class {shown(twice)} twice")
    return sorted(found)
