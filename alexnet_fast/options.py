"""From the words of the command line to values, or one sentence on what they should be."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from .config import MOST_WORKERS
from .errors import UsageError

_MOST_BYTES = 2.0**60
_LONGEST_VALUE = 1000
_MOST_DIGITS = 9  # more are a slip of the keyboard, and int() takes no more than 4,300


def parse_size(text: str) -> int:
    """Bytes in '1GiB', '64MiB', '500MB', '1048576'."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*", text)
    if not match or not 0 < float(match[1]) < _MOST_BYTES:
        raise UsageError(f"a size is a number with an optional unit, such as 1GiB or 500MB: got {text[:40]!r}")
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_workers(text: str) -> int | Literal["auto"]:
    """'auto' or a whole number from 0 to MOST_WORKERS."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) > MOST_WORKERS:
        raise UsageError(f"a number of workers is auto or a whole number from 0 to {MOST_WORKERS}: got {text[:40]!r}")
    return int(text)


def parse_list(text: str | None) -> tuple[str, ...] | None:
    """The parts of 'a,b,c'; None for None."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise UsageError("an empty list was given: name at least one value, separated by commas")
    return parts


def parse_whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """The numbers of '0,1,2'; None for None."""
    parts = parse_list(text)
    if parts is None:
        return None
    if not all(part.isdecimal() and len(part) <= _MOST_DIGITS for part in parts):
        raise UsageError(f"{option} takes whole numbers separated by commas: got {str(text)[:40]!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """{'name': value} of each 'NAME=VALUE'; a value that is not JSON is text."""
    overrides = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE: got {pair[:40]!r}")
        if len(text) > _LONGEST_VALUE:
            raise UsageError(f"--set takes a value of up to {_LONGEST_VALUE} characters: {name[:40]} has {len(text):,}")
        try:
            overrides[name.replace("-", "_")] = json.loads(text)
        except (ValueError, RecursionError):
            overrides[name.replace("-", "_")] = text
    return overrides
