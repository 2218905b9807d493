"""Lists the files of a zip without unpacking it, from its directory alone: for each, where its bytes lie.

Parsed here and not with zipfile, which makes an object of half a kilobyte for each member.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from ..errors import DamagedDataError, UsageError
from ..system import read_at
from .listing import Listing
from .names import check_name, decode_zip_names, is_hidden, is_image, shown
from .table import ZIP_DEFLATED, ZIP_STORED

_ZIP_END = b"PK\x05\x06"
_UTF8_FLAG = 0x800
_MORE_NAMES = 3


class _Entry(NamedTuple):
    """One file as a zip's directory has it."""

    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    attributes: int
    offset: int


def list_zip(path: Path, listing: Listing, *, prefix: bytes = b"", called: str = "") -> None:
    """Add every file of a zip (also zip64), from its directory alone; backslashes count as '/'.

    Raises:
        DamagedDataError: the directory is missing or torn, or a member is hostile.
        UsageError: an image is encrypted or packed with a method other than stored or deflated, or names are in an
            encoding that cannot be told.
    """
    container = listing.container(path)
    # Names that neither are ASCII nor say their encoding wait for the others: one zip has one encoding.
    waiting: list[_Entry] = []
    directory, entries, shift, length = _read_zip_directory(path)
    at = told = 0
    for _ in range(entries):
        entry, unicode_name, at = _parse_entry(directory, at, path)
        # Members that share their bytes make a small file into any amount of work.
        told += entry.stored
        if told > length:
            raise DamagedDataError(
                f"{path} says that its members have more bytes than it has itself: nothing was packed from it"
            )
        if unicode_name:
            entry = entry._replace(name=unicode_name)
        elif not entry.flags & _UTF8_FLAG and not entry.name.isascii():
            waiting.append(entry)
            continue
        _add(entry, path, listing, container, shift, prefix)
    if waiting:
        encoding, names = decode_zip_names([entry.name for entry in waiting], path)
        if encoding != "UTF-8":
            odd = [name for name in names if not name.isascii()][:_MORE_NAMES]
            listing.account.note(f"names in {called or path.name} are taken for {encoding}: {shown(odd[0])}")
        for entry, name in zip(waiting, names, strict=True):
            _add(entry._replace(name=name), path, listing, container, shift, prefix)


def _parse_entry(directory: bytes, at: int, path: Path) -> tuple[_Entry, bytes, int]:
    """(the entry at byte `at`, its name as a Unicode record has it or '', where the next entry begins)."""
    if directory[at : at + 4] != b"PK\x01\x02" or at + 46 > len(directory):
        raise DamagedDataError(f"{path} is damaged: its directory breaks off at byte {at}; fetch it again")
    (flags, method, crc, stored, size, name_len, extra_len, comment_len, attributes, offset) = struct.unpack_from(
        "<8xHH4xLLLHHH4xLL", directory, at
    )
    name = directory[at + 46 : at + 46 + name_len]
    extra = directory[at + 46 + name_len : at + 46 + name_len + extra_len]
    if 0xFFFFFFFF in (stored, size, offset):
        size, stored, offset = _zip64_sizes(extra, size, stored, offset, path)
    entry = _Entry(name, flags, method, crc, stored, size, attributes, offset)
    unicode_name = b"" if name.isascii() else _unicode_name(extra, name)
    return entry, unicode_name, at + 46 + name_len + extra_len + comment_len


def _unicode_name(extra: bytes, name: bytes) -> bytes:
    """The UTF-8 name of Info-ZIP's Unicode path record (0x7075), where it belongs to `name`."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if tag == 0x7075 and len(body) > 5 and struct.unpack_from("<L", body, 1)[0] == zlib.crc32(name):
            return body[5:]
        at += 4 + length
    return b""


def _add(entry: _Entry, path: Path, listing: Listing, container: int, shift: int, prefix: bytes) -> None:
    # Some programs on Windows write backslashes; a name that climbs out or has a drive is refused all the same.
    name = check_name(entry.name.replace(b"\\", b"/"), path)
    kind = stat.S_IFMT(entry.attributes >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DamagedDataError(
            f"{path} holds a link, device or other special member ({shown(name)}), which no archive of "
            "images needs: nothing was packed from it"
        )
    if name.endswith(b"/"):
        return
    if entry.flags & 1 or entry.method not in (0, 8):
        how = "is encrypted" if entry.flags & 1 else f"is packed with zip method {entry.method}"
        if is_image(name) and not is_hidden(name):
            raise UsageError(f"{shown(name)} in {path} {how}, which is not read here: zip the images anew")
        listing.skip(prefix + name, "encrypted, or packed with an unusual method")
        return
    listing.add(
        prefix + name, container=container, method=ZIP_STORED if entry.method == 0 else ZIP_DEFLATED,
        offset=entry.offset + shift, stored=entry.stored, size=entry.size, crc=entry.crc,
    )  # fmt: skip


def _read_zip_directory(path: Path) -> tuple[bytes, int, int, int]:
    """(directory, entries in it, what to add to its offsets where something precedes the zip, the file's length)."""
    damaged = DamagedDataError(f"{path} is not a zip, or is cut short: its directory is missing; fetch it again")
    with open(path, "rb", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        tail_at = max(0, length - 65557)
        tail = read_at(file.fileno(), length - tail_at, tail_at)
        found = tail.rfind(_ZIP_END)
        if found < 0 or found + 22 > len(tail):
            raise damaged
        entries, size, offset = struct.unpack_from("<10xHLL", tail, found)
        end = tail_at + found
        locator = tail[found - 20 : found] if found >= 20 else b""
        if locator[:4] == b"PK\x06\x07" and (entries == 0xFFFF or 0xFFFFFFFF in (size, offset)):
            end = struct.unpack_from("<8xQ", locator)[0]
            record = read_at(file.fileno(), 56, end) if end < length else b""
            if len(record) < 56 or record[:4] != b"PK\x06\x06":
                raise damaged
            entries, size, offset = struct.unpack_from("<32xQQQ", record)
        shift = end - size - offset
        if shift < 0 or size > length or entries * 46 > size:
            raise damaged
        return read_at(file.fileno(), size, offset + shift), entries, shift, length


def _zip64_sizes(extra: bytes, size: int, stored: int, offset: int, path: Path) -> tuple[int, int, int]:
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1:
            values = [v[0] for v in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])]
            try:
                size = values.pop(0) if size == 0xFFFFFFFF else size
                stored = values.pop(0) if stored == 0xFFFFFFFF else stored
                offset = values.pop(0) if offset == 0xFFFFFFFF else offset
            except IndexError:
                break
            return size, stored, offset
        at += 4 + length
    raise DamagedDataError(f"{path} is damaged: a zip64 record in its directory is missing; fetch it again")
