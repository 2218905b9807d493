"""Where an LMDB file keeps its values, read from its pages alone.

liblmdb trusts its pages: of 400 single bits flipped at random in the tree pages of a shard, 7 made it end the process
with SIGBUS. This walk checks whatever it follows, so a damaged file costs an exception and never the process, and once
the place of every value is known a reader needs no tree at all. The layout is that of LMDB 0.9 (``mdb.c``, data
version 1) as 64-bit little-endian machines write it, with one unnamed database.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_HEADER = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_META = struct.Struct("<IIQQ" + 2 * "IHHQQQQQ" + "QQ")  # magic, version, address, map size, 2 databases, last page, txn
_BRANCH, _LEAF, _META_PAGE = 1, 2, 8
_BIG_DATA = 1
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32
_PAGES_AT_ONCE = 1024  # 4 MiB, and 16 MiB as the words that are computed with

Int64Array = npt.NDArray[np.int64]


class _Tree(NamedTuple):
    page_size: int
    depth: int
    entries: int
    root: int


def value_places(path: Path) -> tuple[Int64Array, Int64Array]:
    """(offsets, sizes), int64, in bytes, of all values of the LMDB file `path` in the order of their keys.

    The keys must be the numbers 0, 1, 2, ... as 8 decimal digits.

    Raises:
        DamagedDataError: `path` is not such a file.
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            tree = _read_meta(file, size)
            if tree.entries == 0:
                return np.empty(0, np.int64), np.empty(0, np.int64)
            offsets, sizes = _walk(file, size, tree)
        except _BadPageError as error:
            raise DamagedDataError(f"{path} is damaged ({error}): restore it or pack again") from None
    return offsets, sizes


class _BadPageError(Exception):
    pass


def _require(condition: bool | np.bool_, what: str) -> None:
    if not condition:
        raise _BadPageError(what)


def _read_meta(file: BinaryIO, size: int) -> _Tree:
    """The newer of the two meta pages, which LMDB writes in turn."""
    first = _parse_meta(_read(file, 0, 16 + _META.size), 0)
    second = _parse_meta(_read(file, first[0].page_size, 16 + _META.size), 1)
    _require(first[0].page_size == second[0].page_size, "its two meta pages differ")
    tree, last_page, _ = max(first, second, key=lambda meta: meta[2])
    _require(size >= (last_page + 1) * tree.page_size, "it is cut short")
    return tree


def _parse_meta(page: bytes, number: int) -> tuple[_Tree, int, int]:
    pgno, _, flags, _, _ = _PAGE_HEADER.unpack_from(page)
    fields = _META.unpack_from(page, 16)
    magic, version, _, _, page_size = fields[:5]
    main_flags, depth, _, _, _, entries, root, last_page, transaction = fields[13:22]
    _require(magic == _MAGIC and pgno == number and flags & _META_PAGE, "it has no LMDB meta page")
    _require(version == _VERSION, f"LMDB data version {version}, not {_VERSION}")
    _require(page_size in (1 << k for k in range(9, 16)), "its page size is impossible")
    _require(main_flags == 0 and depth <= _MAX_DEPTH, "its tree is not a plain one")
    _require((entries == 0) == (root == _NO_PAGE), "its tree has no root")
    _require(root == _NO_PAGE or root <= last_page < 1 << 40, "its root lies outside it")
    return _Tree(page_size, depth, entries, root), last_page, transaction


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    block = file.read(size)
    _require(len(block) == size, "it is cut short")
    return block


def _walk(file: BinaryIO, size: int, tree: _Tree) -> tuple[Int64Array, Int64Array]:
    # A page holds an entry or more, so a level with more pages than there are entries or pages is a knot, not a tree.
    most = min(tree.entries, size // tree.page_size)
    level = np.array([tree.root], np.int64)
    for _ in range(tree.depth - 1):
        children = [_children(nodes) for nodes in _level(file, size, tree.page_size, level, _BRANCH)]
        level = np.concatenate(children)
        _require(len(level) <= most, "its tree has more pages than it can have")
    places = []
    seen = 0
    for nodes in _level(file, size, tree.page_size, level, _LEAF):
        places.append(_values(nodes, first_key=seen))
        seen += len(places[-1][0])
        _require(seen <= tree.entries, "it holds more entries than it says")
    _require(seen == tree.entries, f"it holds {seen} entries where it says {tree.entries}")
    offsets = np.concatenate([offsets for offsets, _ in places])
    sizes = np.concatenate([sizes for _, sizes in places])
    _require((offsets >= 2 * tree.page_size).all() and (offsets <= size - sizes).all(), "a value lies outside it")
    return offsets, sizes


class _Nodes(NamedTuple):
    """The nodes of several pages, in order: `words` are the pages as 16-bit words, `at` where each node begins."""

    words: Int64Array  # (pages * words a page,)
    at: Int64Array  # (nodes,), in words
    page: Int64Array  # (nodes,), byte offset in the file of the node's page
    page_size: int

    def word(self, number: int) -> Int64Array:
        """(nodes,) the node's word of that number: 0 low, 1 high, 2 flags, 3 key size, then key and data."""
        return self.words[self.at + number]


def _level(file: BinaryIO, size: int, page_size: int, numbers: Int64Array, kind: int) -> Iterator[_Nodes]:
    """The nodes of the pages `numbers`, checked to be of that kind, a batch of pages at a time."""
    _require((numbers >= 2).all() and (numbers < size // page_size).all(), "its tree points outside it")
    for start in range(0, len(numbers), _PAGES_AT_ONCE):
        batch = numbers[start : start + _PAGES_AT_ONCE]
        block = b"".join(_read(file, int(number) * page_size, page_size) for number in batch)
        words = np.frombuffer(block, "<u2").astype(np.int64).reshape(len(batch), page_size // 2)
        own = words[:, 0] | words[:, 1] << 16 | words[:, 2] << 32
        lower, upper = words[:, 6], words[:, 7]
        _require((own == batch).all() and (words[:, 3] == 0).all() and (words[:, 5] == kind).all(), "a page is wrong")
        _require(
            (lower > 16).all() and (lower % 2 == 0).all() and (lower <= upper).all() and (upper <= page_size).all(),
            "a page has impossible bounds",
        )
        counts = (lower - 16) // 2
        page = np.repeat(np.arange(len(batch)), counts)
        slot = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        pointers = words[page, 8 + slot]
        _require(
            (pointers % 2 == 0).all() and (pointers >= upper[page]).all() and (pointers <= page_size - 8).all(),
            "a page points outside itself",
        )
        yield _Nodes(words.reshape(-1), page * (page_size // 2) + pointers // 2, batch[page] * page_size, page_size)


def _children(nodes: _Nodes) -> Int64Array:
    return nodes.word(0) | nodes.word(1) << 16 | nodes.word(2) << 32


def _values(nodes: _Nodes, first_key: int) -> tuple[Int64Array, Int64Array]:
    """(offsets, sizes) in bytes of the values of leaf nodes whose keys are first_key, first_key + 1, ..."""
    in_page = nodes.at % (nodes.page_size // 2) * 2
    big = nodes.word(2)
    _require(((big == 0) | (big == _BIG_DATA)).all() and (nodes.word(3) == 8).all(), "an entry is not a record's")
    _require((in_page <= nodes.page_size - 16 - 8 * big).all(), "an entry runs out of its page")
    key = np.zeros(len(nodes.at), np.int64)
    digits_only = np.ones(len(nodes.at), np.bool_)
    for number in range(4, 8):
        for digit in (nodes.word(number) & 0xFF, nodes.word(number) >> 8):
            key = key * 10 + digit - ord("0")
            digits_only &= (digit >= ord("0")) & (digit <= ord("9"))
    _require(digits_only.all() and (key == first_key + np.arange(len(key))).all(), "its keys are not 0, 1, 2, ...")
    sizes = nodes.word(0) | nodes.word(1) << 16
    inline = in_page + 16
    _require(((big == _BIG_DATA) | (inline + sizes <= nodes.page_size)).all(), "an entry runs out of its page")
    last = len(nodes.words) - 4  # only so that entries within their page, whose words are not used, do not run out
    at = np.minimum(nodes.at + 8, last)
    overflow = nodes.words[at] | nodes.words[at + 1] << 16 | nodes.words[at + 2] << 32 | nodes.words[at + 3] << 48
    own = overflow[big == _BIG_DATA]
    _require(((own >= 2) & (own < 1 << 40)).all(), "a value lies outside it")
    return np.where(big == _BIG_DATA, overflow * nodes.page_size + 16, nodes.page + inline), sizes
