"""From the words of the command line to values, or one sentence on what they should be."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from .errors import UsageError


def parse_size(text: str) -> int:
    """Bytes in '1GiB', '64MiB', '500MB', '1048576'."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*", text)
    if not match or float(match[1]) <= 0:
        raise UsageError(f"a size is a number with an optional unit, such as 1GiB or 500MB: got {text!r}")
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_workers(text: str) -> int | Literal["auto"]:
    """'auto' or a whole number from 0 up."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UsageError(f"a number of workers is auto or a whole number from 0 up: got {text!r}")
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
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} takes whole numbers separated by commas: got {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """{'name': value} of each 'NAME=VALUE'; a value that is not JSON is text."""
    overrides = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE: got {pair!r}")
        try:
            overrides[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            overrides[name.replace("-", "_")] = text
    return overrides
