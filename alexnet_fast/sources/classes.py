"""From the labels that a source gives to classes and their order: one rule for folders, label files, tars and parquet.

Names are sorted, as torchvision's ImageFolder has them. Whole numbers are labels already: label 2 is class 2, though as
text 10 comes before it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .account import Account
from .labels import WNID
from .names import refuse_equal_names, shown

MOST_CLASSES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes in label order, and the label of each text that a source may give one by.

    Attributes:
        names: (wnid, readable name); the same twice where there is no other.
        index: label by class name, or by number as text.
    """

    names: tuple[tuple[str, str], ...]
    index: dict[bytes, int]


def order_classes(
    used: Collection[bytes], where: str, account: Account, *, folders: bool = False, listed: Sequence[bytes] = ()
) -> Classes:
    """Classes and their labels.

    Args:
        used: the classes that images have, names or numbers.
        where: the source, for people.
        account: told of an order that is not plain.
        folders: whether they are names of folders; only then may numbers have gaps and still be names.
        listed: the list of classes that numbers count in; empty where there is none.

    Raises:
        UsageError: two classes are one, or a number is none of a class.
    """
    refuse_equal_names(used, where)
    if not used or not all(name.isdigit() for name in used):
        return _named(sorted(used), listed, where)
    numbers = {name: int(name) for name in used}
    if len(set(numbers.values())) < len(numbers):
        first, second = sorted(numbers, key=lambda name: (numbers[name], name))[:2]
        raise UsageError(
            f"{where} has classes {shown(first)} and {shown(second)} ..., which are one number: give them one name"
        )
    most = max(numbers.values())
    if folders and not listed and set(numbers.values()) != set(range(len(numbers))):
        order = sorted(used)
        if order != sorted(used, key=numbers.__getitem__):
            account.note(
                f"classes are numbers, but not those from 0 to {len(used) - 1}: they are sorted as text, as "
                f"ImageFolder has them, so label 1 is class {shown(order[1])}"
            )
        return _named(order, (), where)
    if most >= MOST_CLASSES:
        raise UsageError(f"{where} has label {most}, which is no class's number")
    if listed:
        if most >= len(listed):
            raise UsageError(
                f"{where} has label {most}, and its list of classes has {len(listed)} lines: mend the list"
            )
        refuse_equal_names(listed, where)
        # Wnids sort as torchvision numbers them, whatever order the source's writer had.
        order = sorted(listed) if all(WNID.match(name) for name in listed) else list(listed)
        place = {name: number for number, name in enumerate(order)}
        if len(place) < len(order):
            raise UsageError(f"{where} has a list of classes that names one twice: mend the list")
        return Classes(
            names=_split_names(order), index={text: place[listed[number]] for text, number in numbers.items()}
        )
    texts = {number: name for name, number in numbers.items()}
    order = [texts.get(number, str(number).encode()) for number in range(most + 1)]
    if folders and order != sorted(order):
        account.note("classes are numbers and stay in their order: label 2 is class 2 (ImageFolder sorts 10 before it)")
    return Classes(names=_split_names(order), index=numbers)


def _named(order: Sequence[bytes], listed: Sequence[bytes], where: str) -> Classes:
    by_first = {line.partition(b" ")[0]: line for line in listed if WNID.fullmatch(line.partition(b" ")[0])}
    names = _split_names([by_first.get(name, name) for name in order])
    return Classes(names=names, index={name: label for label, name in enumerate(order)})


def _split_names(order: Sequence[bytes]) -> tuple[tuple[str, str], ...]:
    """A class as a line of a list gives it: 'n01440764 tench', or one text that is both."""
    names = []
    for text in order:
        first, _, rest = text.decode().replace("\t", " ").partition(" ")
        is_wnid = bool(rest) and WNID.fullmatch(first.encode()) is not None
        names.append((first, rest.strip()) if is_wnid else (text.decode(), text.decode()))
    return tuple(names)
