"""Lists what a folder, a zip or a tar holds, without unpacking: for each file, where its bytes lie.

Zips and tars are parsed here and not with zipfile and tarfile, because those make an object of half a kilobyte for
each member. Nothing is ever extracted, so a hostile name cannot write anywhere; it is refused all the same, as are
links and devices.
"""

from __future__ import annotations

import itertools
import operator
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import DamagedDataError, UsageError
from .table import FILE, RANGE, ZIP_DEFLATED, ZIP_STORED, MemberList, is_image

_TAR_BLOCK = 512
_WINDOW = 4096
_LONGEST_NAME = 4096
_CHECKSUM_FIELD = 0x20 * 8
_ZIP_END = b"PK\x05\x06"


def check_name(name: bytes, where: Path) -> bytes:
    """A member's name as given, without a leading './'.

    Raises:
        DamagedDataError: it is absolute, climbs out with '..', or holds what no image's name holds.
    """
    while name.startswith(b"./"):
        name = name[2:]
    parts = name.split(b"/")
    hostile = (
        name.startswith((b"/", b"\\")) or b".." in parts or b"\\" in name or b"\0" in name or name[1:3] in (b":/", b":")
    )
    if hostile or len(name) > _LONGEST_NAME:
        raise DamagedDataError(
            f"{where} holds a member with an unsafe name ({_shown(name)}): nothing was packed from it; "
            "get the archive from a source that you trust"
        )
    return name


def _shown(name: bytes) -> str:
    return repr(name[:200].decode(errors="replace"))


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def list_folder(root: Path, members: MemberList, *, container: int = 0, prefix: bytes = b"") -> None:
    """Add every regular file below `root`, following links as ImageFolder does; names are relative, with '/'.

    Raises:
        UsageError: a folder cannot be read, or an image's name belongs to what is no file (a pipe, a device).
    """
    top = os.fsencode(root)
    waiting: list[tuple[bytes, bytes, tuple[tuple[int, int], ...]]] = [(top, prefix, ())]
    while waiting:
        folder, relative, above = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=operator.attrgetter("name"))
            for entry in listed:
                # Hidden folders are nobody's classes, and one of them may be another pack's own.
                if entry.is_dir():
                    found = entry.stat()
                    here = (found.st_dev, found.st_ino)
                    if here not in above and not entry.name.startswith(b"."):
                        waiting.append((entry.path, relative + entry.name + b"/", (*above, here)))
                    continue
                if entry.is_symlink() and not Path(os.fsdecode(entry.path)).exists():
                    if is_image(entry.name):
                        raise UsageError(f"{os.fsdecode(entry.path)} is a link to nothing: mend or remove it")
                    continue
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    members.add(
                        relative + entry.name, container=container, method=FILE, stored=found.st_size,
                        size=found.st_size,
                    )  # fmt: skip
                elif is_image(entry.name):
                    raise UsageError(f"{os.fsdecode(entry.path)} is a pipe, socket or device, not an image: remove it")
        except OSError as error:
            raise UsageError(f"{os.fsdecode(folder)} cannot be read: {error.strerror}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Tars


def first_names(path: Path, count: int) -> list[bytes]:
    """Names of a tar's first regular files, up to `count`."""
    with open(path, "rb", buffering=0) as file:
        found = tar_members(file.fileno(), path, 0, os.fstat(file.fileno()).st_size)
        return [member.name for member in itertools.islice(found, count)]


class TarMember(NamedTuple):
    """One regular file of a tar: its name and the range that its bytes take in the file."""

    name: bytes
    offset: int
    size: int


def list_tar(path: Path, members: MemberList, *, container: int = 0, prefix: bytes = b"") -> None:
    """Add every regular file of a tar; a tar within it is read as a folder of its name without '.tar'.

    So the tar of 1,000 tars that ImageNet's training images come in lists as n01440764/n01440764_10026.JPEG.

    Raises:
        DamagedDataError: the tar is torn, cut short or hostile.
    """
    with open(path, "rb", buffering=0) as file:
        for member in tar_members(file.fileno(), path, 0, os.fstat(file.fileno()).st_size):
            if member.name.endswith(b".tar"):
                folder = prefix + member.name.removesuffix(b".tar") + b"/"
                for inner in tar_members(file.fileno(), path, member.offset, member.offset + member.size):
                    members.add(
                        folder + inner.name, container=container, method=RANGE, offset=inner.offset,
                        stored=inner.size, size=inner.size,
                    )  # fmt: skip
            else:
                members.add(
                    prefix + member.name, container=container, method=RANGE, offset=member.offset,
                    stored=member.size, size=member.size,
                )  # fmt: skip


def tar_members(descriptor: int, path: Path, start: int, end: int) -> Iterator[TarMember]:
    """The regular files of the tar that lies in [start, end) of an open file, by seeking from header to header.

    Knows ustar, GNU long names and pax path and size records; anything that is no plain file or folder is refused.

    Raises:
        DamagedDataError: a header does not add up, the closing blocks are missing, a member reaches past the end, or is
            a link or a device.
    """
    at = start
    window, window_at = b"", 0
    long_name: bytes | None = None
    pax_size: int | None = None
    while True:
        if at + _TAR_BLOCK > end:
            raise DamagedDataError(
                f"{path} is cut short: it ends at byte {end} without its closing blocks; fetch it again"
            )
        if not window_at <= at <= window_at + len(window) - _TAR_BLOCK:
            window, window_at = os.pread(descriptor, min(_WINDOW, end - at), at), at
        header = window[at - window_at : at - window_at + _TAR_BLOCK]
        if not header.strip(b"\0"):
            return
        name, size, kind = _parse_tar_header(header, path, at)
        body = at + _TAR_BLOCK
        if pax_size is not None and kind not in b"xgLK":
            size, pax_size = pax_size, None
        if size > end - body:
            raise DamagedDataError(
                f"{path} is cut short within {_shown(name)}: it needs {size} bytes from byte {body} on and "
                f"ends at {end}; fetch it again"
            )
        at = body + -(-size // _TAR_BLOCK) * _TAR_BLOCK
        if kind == b"L":
            long_name = _read_small(descriptor, path, body, size).rstrip(b"\0")
        elif kind == b"x":
            records = _parse_pax(_read_small(descriptor, path, body, size), path)
            long_name = records.get(b"path", long_name)
            if b"size" in records:
                pax_size = int(records[b"size"])
        elif kind in b"gK":
            continue
        else:
            name, long_name = check_name(long_name if long_name is not None else name, path), None
            if kind in (b"0", b"\0", b"7") and not name.endswith(b"/"):
                yield TarMember(name, body, size)
            elif kind != b"5" and not (kind in (b"0", b"\0") and name.endswith(b"/")):
                raise DamagedDataError(
                    f"{path} holds a link, device or other special member ({_shown(name)}), which no archive of "
                    "images needs: nothing was packed from it"
                )


def _parse_tar_header(header: bytes, path: Path, at: int) -> tuple[bytes, int, bytes]:
    """(name, size, type) of a 512-byte tar header."""
    try:
        told = int(header[148:156].strip(b"\0 ") or b"x", 8)
        size_field = header[124:136]
        if size_field[0] & 0x80:  # GNU's base-256, for what octal digits cannot hold
            size = int.from_bytes(size_field[1:], "big") if size_field[0] == 0x80 else -1
        else:
            size = int(size_field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        told, size = -1, -1
    if told != sum(header) - sum(header[148:156]) + _CHECKSUM_FIELD or size < 0:
        raise DamagedDataError(f"{path} is not a tar, or is damaged: the header at byte {at} does not add up")
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345] != 0:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name, size, header[156:157]


def _read_small(descriptor: int, path: Path, at: int, size: int) -> bytes:
    if size > 1 << 20:
        raise DamagedDataError(f"{path} holds a header record of {size} bytes at byte {at}: it is damaged")
    return os.pread(descriptor, size, at)


def _parse_pax(text: bytes, path: Path) -> dict[bytes, bytes]:
    """The records 'LENGTH key=value\\n' of a pax header."""
    records: dict[bytes, bytes] = {}
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        if not digits.isdigit() or not len(digits) + 2 < int(digits) <= len(text):
            raise DamagedDataError(f"{path} is damaged: a pax header in it cannot be read")
        record, text = text[len(digits) + 1 : int(digits) - 1], text[int(digits) :]
        key, _, records[key] = record.partition(b"=")
    if not records.get(b"size", b"0").isdigit():
        raise DamagedDataError(f"{path} is damaged: a pax header in it cannot be read")
    return records


# ---------------------------------------------------------------------------------------------------------------------
# Zips


def list_zip(path: Path, members: MemberList, *, container: int = 0, prefix: bytes = b"") -> None:
    """Add every file of a zip (also zip64), from its directory alone.

    Raises:
        DamagedDataError: the directory is missing or torn, or a member is hostile.
        UsageError: an image is encrypted or packed with a method other than stored or deflated.
    """
    directory, entries, shift, length = _read_zip_directory(path)
    at = told = 0
    for _ in range(entries):
        if directory[at : at + 4] != b"PK\x01\x02" or at + 46 > len(directory):
            raise DamagedDataError(f"{path} is damaged: its directory breaks off at byte {at}; fetch it again")
        (flags, method, crc, stored, size, name_len, extra_len, comment_len, attributes, offset) = struct.unpack_from(
            "<8xHH4xLLLHHH4xLL", directory, at
        )
        name = directory[at + 46 : at + 46 + name_len]
        extra = directory[at + 46 + name_len : at + 46 + name_len + extra_len]
        at += 46 + name_len + extra_len + comment_len
        if 0xFFFFFFFF in (stored, size, offset):
            size, stored, offset = _zip64_sizes(extra, size, stored, offset, path)
        # Members that share their bytes make a small file into any amount of work.
        told += stored
        if told > length:
            raise DamagedDataError(
                f"{path} says that its members have more bytes than it has itself: nothing was packed from it"
            )
        name = check_name(name, path)
        kind = stat.S_IFMT(attributes >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DamagedDataError(
                f"{path} holds a link, device or other special member ({_shown(name)}), which no archive of "
                "images needs: nothing was packed from it"
            )
        if name.endswith(b"/") or name.startswith(b"__MACOSX/"):
            continue
        if flags & 1 or method not in (0, 8):
            if is_image(name):
                how = "is encrypted" if flags & 1 else f"is packed with zip method {method}"
                raise UsageError(f"{_shown(name)} in {path} {how}, which is not read here: zip the images anew")
            continue
        members.add(
            prefix + name, container=container, method=ZIP_STORED if method == 0 else ZIP_DEFLATED,
            offset=offset + shift, stored=stored, size=size, crc=crc,
        )  # fmt: skip


def _read_zip_directory(path: Path) -> tuple[bytes, int, int, int]:
    """(directory, entries in it, what to add to its offsets where something precedes the zip, the file's length)."""
    damaged = DamagedDataError(f"{path} is not a zip, or is cut short: its directory is missing; fetch it again")
    with open(path, "rb", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        tail_at = max(0, length - 65557)
        tail = os.pread(file.fileno(), length - tail_at, tail_at)
        found = tail.rfind(_ZIP_END)
        if found < 0 or found + 22 > len(tail):
            raise damaged
        entries, size, offset = struct.unpack_from("<10xHLL", tail, found)
        end = tail_at + found
        locator = tail[found - 20 : found] if found >= 20 else b""
        if locator[:4] == b"PK\x06\x07" and (entries == 0xFFFF or 0xFFFFFFFF in (size, offset)):
            end = struct.unpack_from("<8xQ", locator)[0]
            record = os.pread(file.fileno(), 56, end) if end < length else b""
            if len(record) < 56 or record[:4] != b"PK\x06\x06":
                raise damaged
            entries, size, offset = struct.unpack_from("<32xQQQ", record)
        shift = end - size - offset
        if shift < 0 or size > length or entries * 46 > size:
            raise damaged
        return os.pread(file.fileno(), size, offset + shift), entries, shift, length


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
