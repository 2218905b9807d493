"""Numbers with their nouns, as sentences need them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """'1 image', '2 images', '1,000 classes'; `noun` in the singular."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {_plural(noun)}"


def _plural(noun: str) -> str:
    hissing = noun.endswith(("s", "ch", "sh", "x")) and not noun.endswith("epoch")
    return noun + ("es" if hissing else "s")
