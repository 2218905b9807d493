"""The account of a source's files: each is packed, or left out for a reason that is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .names import shown

_EXAMPLES = 2
# How reasons begin that are said of one file. A reason is kept in the plural, as dataset.json has it.
_OF_ONE = {
    "not images": "not an image",
    "archives": "archive",
    "images": "image",
    "parquet files": "parquet file",
    "shards": "shard",
}


def count_and_reason(files: int, reason: str) -> str:
    """'11 not images by name (.txt)', '1 not an image by name (.txt)'."""
    if files == 1:
        for many, one in _OF_ONE.items():
            if reason.startswith(many):
                reason = one + reason.removeprefix(many)
                break
    return f"{files:,} {reason}"


class LeftOut(NamedTuple):
    """How many files one reason left out, and two of their names."""

    reason: str
    files: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.examples) + (", ..." if self.files > len(self.examples) else "")
        return f"{count_and_reason(self.files, self.reason)} ({names})"


class Account:
    """Counts of files that are not packed, by reason, in the order in which reasons came up.

    Attributes:
        files: all files that were found, packed or not.
        notes: what was decided on the way, a sentence each.
    """

    def __init__(self) -> None:
        self.files = 0
        self.notes: list[str] = []
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def leave_out(self, reason: str, name: bytes | str, count: int = 1) -> None:
        """Note that `count` files, of which `name` is one, are not packed; the reason reads on from their number."""
        self._counts[reason] = self._counts.get(reason, 0) + count
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(shown(name))

    def leave_out_all(self, reason: str, names: Iterable[bytes | str]) -> None:
        """`leave_out` each of several."""
        for name in names:
            self.leave_out(reason, name)

    def note(self, sentence: str) -> None:
        """Say what was decided, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def left_out(self) -> list[LeftOut]:
        return [LeftOut(r, n, tuple(self._examples[r])) for r, n in self._counts.items()]

    @property
    def packed(self) -> int:
        """Files that are not left out."""
        return self.files - sum(self._counts.values())

    def as_dict(self) -> dict[str, Any]:
        """{found, packed, left_out: [{reason, files, examples}]}."""
        return {
            "found": self.files,
            "packed": self.packed,
            "left_out": [{"reason": e.reason, "files": e.files, "examples": list(e.examples)} for e in self.left_out],
        }

    def __str__(self) -> str:
        return "; ".join(map(str, self.left_out))
