"""Caffe's ``Datum``, the protobuf message that a record's value is: data (4) the image, label (5), encoded (7) true.

Three fields of one message are all there are: a codec of a screen spares a dependency and a code generator, and its
decoder hands out the image without copying it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError

Int64Array = npt.NDArray[np.int64]

_U32 = 0xFFFFFFFF


@lru_cache(maxsize=1 << 16)  # labels and lengths of small images come again and again
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(buffer: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise DamagedDataError("the record is not a Datum message: it ends within a number")
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def encode_datum(data: bytes, label: int) -> bytes:
    """A serialised ``Datum`` with data, label (int32) and encoded=true."""
    head, tail = datum_frame(len(data), label)
    return b"".join((head, data, tail))


def datum_frame(length: int, label: int) -> tuple[bytes, bytes]:
    """What lies before and behind an image of `length` bytes in the ``Datum`` that `encode_datum` makes."""
    # protobuf writes a negative int32 as the ten bytes of its 64-bit two's complement.
    return b"\x22" + _varint(length), b"\x28" + _varint(label & 0xFFFFFFFFFFFFFFFF) + b"\x38\x01"


def datum_frame_sizes(lengths: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[Int64Array, Int64Array]:
    """Sizes of what `datum_frame` gives for many images at once: ((n,) before, (n,) behind), bytes."""
    lengths, labels = lengths.astype(np.int64), labels.astype(np.int64)
    heads, tails = np.full(len(lengths), 2, np.int64), np.full(len(labels), 4, np.int64)
    for shift in range(7, 35, 7):
        heads += lengths >> shift > 0
        tails += labels >> shift > 0
    tails[labels < 0] = 13
    return heads, tails


def decode_datum(record: bytes | memoryview) -> tuple[memoryview, int]:
    """(encoded image, label) of a serialised ``Datum``; fields that this format does not use are passed over.

    The image is a view into `record`, not a copy.

    Raises:
        DamagedDataError: `record` is not such a message.
    """
    buffer = memoryview(record).cast("B")
    data: memoryview | None = None
    label = 0
    at = 0
    while at < len(buffer):
        tag, at = _read_varint(buffer, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(buffer, at)
            if tag == 0x28:
                value &= _U32
                label = value - (1 << 32) if value >> 31 else value
            continue
        if kind == 2:
            size, at = _read_varint(buffer, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise DamagedDataError(f"the record is not a Datum message: it has a field of wire type {kind}")
        if size > len(buffer) - at:
            raise DamagedDataError("the record is not a Datum message: it ends within a field")
        if tag == 0x22:
            data = buffer[at : at + size]
        at += size
    if data is None:
        raise DamagedDataError("the record is not a Datum message with an image in it")
    return data, label
