"""Lists the files of a tar without unpacking it: for each, where its bytes lie.

Parsed here and not with tarfile, which makes an object of half a kilobyte for each member. Nothing is ever extracted,
so a hostile name cannot write anywhere; it is refused all the same, as are links and devices.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import DamagedDataError
from ..system import read_at
from .listing import Listing
from .names import check_name, shown
from .table import RANGE

_TAR_BLOCK = 512
_WINDOW = 4096
_SEARCH = 1 << 20
_CHECKSUM_FIELD = 0x20 * 8


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


def list_tar(path: Path, listing: Listing, *, prefix: bytes = b"", called: str = "") -> None:
    """Add every regular file of a tar; a tar within it is read as a folder of its name without '.tar'.

    So the tar of 1,000 tars that ImageNet's training images come in lists as n01440764/n01440764_10026.JPEG.

    Args:
        path: the tar.
        listing: takes the files.
        prefix: the folder that they are to lie in, with '/'.
        called: the tar's name for people, where `path` is another.

    Raises:
        DamagedDataError: the tar is torn, cut short or hostile.
    """
    container = listing.container(path)
    rest = rest_noted(listing, called or path.name)
    with open(path, "rb", buffering=0) as file:
        for member in tar_members(file.fileno(), path, 0, os.fstat(file.fileno()).st_size, rest):
            if member.name.endswith(b".tar"):
                folder = prefix + member.name.removesuffix(b".tar") + b"/"
                for inner in tar_members(file.fileno(), path, member.offset, member.offset + member.size, rest):
                    listing.add(
                        folder + inner.name, container=container, method=RANGE, offset=inner.offset,
                        stored=inner.size, size=inner.size,
                    )  # fmt: skip
            else:
                listing.add(
                    prefix + member.name, container=container, method=RANGE, offset=member.offset,
                    stored=member.size, size=member.size,
                )  # fmt: skip


def rest_noted(listing: Listing, name: str) -> Callable[[int], None]:
    """For `tar_members`: note in the account how much of a tar was not read."""
    return lambda count: listing.account.note(
        f"{count:,} bytes behind the end of {name} are no tar: they were not read"
    )


def is_tar_header(block: bytes) -> bool:
    """Whether a file's first bytes are a tar's header, of any age: its checksum fits."""
    header = block[:_TAR_BLOCK]
    if len(header) < _TAR_BLOCK or not header.strip(b"\0"):
        return False
    try:
        _parse_tar_header(header, Path(), 0)
    except DamagedDataError:
        return False
    return True


def tar_members(
    descriptor: int, path: Path, start: int, end: int, rest: Callable[[int], None] | None = None
) -> Iterator[TarMember]:
    """The regular files of the tar that lies in [start, end) of an open file, by seeking from header to header.

    Knows ustar, GNU long names and pax path and size records; anything that is no plain file or folder is refused.
    Behind the closing blocks it reads on where another tar follows, as tars joined by `cat` have it; of anything else
    there, `rest` is told the number of bytes.

    Raises:
        DamagedDataError: a header does not add up, the closing blocks are missing, a member reaches past the end, or is
            a link or a device.
    """
    at = start
    window, window_at = b"", 0
    long_name: bytes | None = None
    pax_size: int | None = None
    closed = False
    while True:
        if at + _TAR_BLOCK > end:
            if closed:
                return
            raise DamagedDataError(
                f"{path} is cut short: it ends at byte {end} without its closing blocks; fetch it again"
            )
        if not window_at <= at <= window_at + len(window) - _TAR_BLOCK:
            window, window_at = read_at(descriptor, min(_WINDOW, end - at), at), at
        header = window[at - window_at : at - window_at + _TAR_BLOCK]
        if not header.strip(b"\0"):
            at, closed = _next_content(descriptor, at, end), True
            continue
        if closed:
            if not is_tar_header(header):
                if rest is not None:
                    rest(end - at)
                return
            closed = False
        name, size, kind = _parse_tar_header(header, path, at)
        body = at + _TAR_BLOCK
        if pax_size is not None and kind not in b"xgLK":
            size, pax_size = pax_size, None
        if size > end - body:
            raise DamagedDataError(
                f"{path} is cut short within {shown(name)}: it needs {size} bytes from byte {body} on and "
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
                    f"{path} holds a link, device or other special member ({shown(name)}), which no archive of "
                    "images needs: nothing was packed from it"
                )


def _next_content(descriptor: int, at: int, end: int) -> int:
    """The first block from `at` on that is not of zeros; `end` where there is none."""
    while at < end:
        chunk = read_at(descriptor, min(_SEARCH, end - at), at)
        content = chunk.lstrip(b"\0")
        if content or not chunk:
            return at + (len(chunk) - len(content)) // _TAR_BLOCK * _TAR_BLOCK if chunk else end
        at += len(chunk)
    return end


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
    return read_at(descriptor, size, at)


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
