"""The index beside a shard: one row per record, all there is to know of it but the image itself."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError
from .manifest import MANIFEST, ShardInfo

IndexArray = npt.NDArray[np.void]


def index_dtype(key_bytes: int) -> np.dtype[np.void]:
    """The row of an index whose longest key has `key_bytes` bytes: 28 bytes and the key, little-endian, packed.

    `crc32` and `length` (bytes) are the encoded image's, `width` and `height` (pixels) the decoded one's; `label` is
    -1 for none; `offset` is the byte of data.mdb at which the image begins; `key` is its name at its source.
    """
    return np.dtype(
        [
            ("crc32", "<u4"), ("length", "<u4"), ("width", "<u4"), ("height", "<u4"), ("label", "<i4"),
            ("offset", "<u8"), ("key", f"S{max(1, key_bytes)}"),
        ]
    )  # fmt: skip


def load_index(path: Path, *, sha256: str | None = None) -> IndexArray:
    """An index file's rows; with `sha256`, not a byte of it is looked at before the whole has that checksum.

    Raises:
        DamagedDataError: it is missing, not an index, or has another checksum.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedDataError(f"{path} is missing: restore it or pack the data set again") from None
    except OSError as error:
        raise DamagedDataError(f"{path} cannot be read ({error.strerror or error}): restore it or pack again") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedDataError(f"{path} was altered after packing (its checksum differs): restore it or pack again")
    try:
        index: IndexArray = np.load(io.BytesIO(content), allow_pickle=False)
        expected = index_dtype(index.dtype["key"].itemsize)
    except Exception as error:  # numpy raises what its parsers meet: ValueError, EOFError, SyntaxError, TypeError ...
        raise DamagedDataError(f"{path} is damaged ({type(error).__name__}): restore it or pack again") from None
    if index.ndim != 1 or index.dtype != expected:
        raise DamagedDataError(f"{path} is damaged (not an index): restore it or pack again")
    return index


def read_index(dataset: Path, shard: ShardInfo) -> IndexArray:
    """One shard's index: (records,) rows of `index_dtype`, checked against dataset.json.

    Raises:
        DamagedDataError: it is missing, altered, or of another length.
    """
    path = dataset / shard.index_path
    index = load_index(path, sha256=shard.sha256)
    if len(index) != shard.records:
        raise DamagedDataError(f"{path} has {len(index)} rows where {MANIFEST} says {shard.records}: restore it")
    return index
