"""Reads the one MAT-file that ImageNet comes with, meta.mat of its development kit, without SciPy.

A MAT-file of level 5 is a header of 128 bytes and a list of tagged elements, which may be deflated; a struct array is
an element that holds its fields' names and then each field of each entry as a matrix of its own. Only what such a file
needs is read: struct arrays whose fields are numbers or text. (MathWorks, "MAT-File Format", the level 5 chapters.)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from ..errors import DamagedDataError

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q", 16: "B", 17: "H", 18: "I"}
# Numbers become Python objects of many times their size.
_LARGEST = 16 << 20
# meta.mat nests two deep. Each level of a hostile file would hold another copy of nearly all of it in memory.
_DEEPEST = 8


def read_structs(content: bytes, variable: str) -> list[dict[str, Any]]:
    """The entries of a struct array, as dictionaries of numbers, texts, and lists of numbers.

    Raises:
        DamagedDataError: the content is no such file, or has no struct array of that name.
    """
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise DamagedDataError("it is not a MAT-file of level 5")
    order = "<" if content[126:128] == b"IM" else ">"
    try:
        for kind, body in _elements(content[128:], order):
            if kind == _COMPRESSED:
                body = zlib.decompressobj().decompress(body, _LARGEST)
                kind, body = next(_elements(body, order))
            if kind == _MATRIX:
                name, value = _matrix(body, order)
                if name == variable and isinstance(value, list) and value and isinstance(value[0], dict):
                    return value
    except (struct.error, zlib.error, IndexError, KeyError, ValueError, StopIteration, UnicodeDecodeError) as error:
        raise DamagedDataError(f"the MAT-file is damaged ({type(error).__name__})") from None
    raise DamagedDataError(f"the MAT-file holds no struct array {variable!r}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each tagged element."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        if kind >> 16:  # the small form: size and type share four bytes, the data has the other four
            kind, size, begin, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            begin = at + 8
            # Elements fill whole words of eight bytes, but for deflated ones.
            after = begin + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(content):
            raise ValueError("an element reaches past the end")
        yield kind, content[begin : begin + size]
        at = after


def _matrix(body: bytes, order: str, depth: int = 0) -> tuple[str, Any]:
    """(name, value) of a matrix: a number, a text, a list of numbers, or a list of dictionaries."""
    if depth > _DEEPEST:
        raise ValueError("it nests too deep")
    parts = list(_elements(body, order))
    if not parts:
        return "", []
    kind = struct.unpack_from(order + "I", parts[0][1])[0] & 0xFF
    name = parts[2][1].decode("ascii")
    if kind == _STRUCT:
        width = struct.unpack(order + "i", parts[3][1][:4])[0]
        fields = [
            parts[4][1][i : i + width].partition(b"\0")[0].decode("ascii") for i in range(0, len(parts[4][1]), width)
        ]
        values = [_matrix(part, order, depth + 1)[1] for _, part in parts[5:]]
        entries = [values[i : i + len(fields)] for i in range(0, len(values), len(fields))]
        return name, [dict(zip(fields, entry, strict=True)) for entry in entries]
    if kind == _CELL:
        return name, [_matrix(part, order, depth + 1)[1] for _, part in parts[3:]]
    numbers = _numbers(*parts[3], order) if len(parts) > 3 else []
    if kind == _CHAR:
        encoded = parts[3] if len(parts) > 3 else (16, b"")
        return name, encoded[1].decode() if encoded[0] in (1, 2, 16) else "".join(map(chr, numbers))
    return name, numbers[0] if len(numbers) == 1 else numbers


def _numbers(kind: int, data: bytes, order: str) -> list[Any]:
    letter = _NUMBERS[kind]
    return [value for (value,) in struct.iter_unpack(order + letter, data)]
