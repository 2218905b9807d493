"""Which records of a split an epoch reads: all, a part, a weighted draw, or what the caller's function says."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Share
from ..errors import UsageError
from ..images import uniform
from .order import Int64Array, epoch_order, evaluation_order

_SHARE_STREAM = 3000
_WEIGHT_STREAM = 3001
_MOST_DIGITS = 18  # of a record number


class Selection:
    """The records of an epoch, a pure function of (seed, epoch).

    Args:
        labels: int64 (n,), of every record of the split.
        records, weights: as in `LoaderConfig`.

    Attributes:
        whole: whether every epoch is the whole split, each record once.

    Raises:
        UsageError: `records` or `weights` do not fit the split; the text says how.
    """

    def __init__(self, labels: Int64Array, records: Any, weights: Any) -> None:
        self._size = len(labels)
        self._function: Callable[[int, int], Any] | None = None
        self._records: Int64Array | None = None
        self._upto: npt.NDArray[np.float64] | None = None  # cumulated weights
        if callable(records):
            self._function = records
        elif records is not None:
            if isinstance(records, float):
                records = Share(records)
            drawn = draw_share(records, labels) if isinstance(records, Share) else record_numbers(records, self._size)
            self._records = drawn
            if not len(drawn) and self._size:
                raise UsageError("records selects no record of the split")
        if weights is not None:
            if self._function is not None:
                raise UsageError("weights and a function for records exclude each other: let the function draw")
            self._upto = np.cumsum(self._checked_weights(weights))
        self.whole = records is None and weights is None

    def _checked_weights(self, weights: Any) -> npt.NDArray[np.float64]:
        try:
            found = np.asarray(weights, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"weights must be numbers ({error})") from None
        chosen = self._size if self._records is None else len(self._records)
        if found.ndim != 1 or len(found) not in (self._size, chosen):
            raise UsageError(f"weights must be one number for each of the split's {self._size} records")
        if self._records is not None and len(found) == self._size:
            found = found[self._records]
        if not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
            raise UsageError("weights must be finite numbers from 0 up, and one of them over 0")
        return found

    def _pool(self, seed: int, epoch: int) -> Int64Array | None:
        """The records that an epoch draws from; None: all of the split."""
        if self._function is None:
            return self._records
        found = self._function(seed, epoch)
        if found is None:
            raise UsageError("the function for records returned None: it must return record numbers or a mask")
        return record_numbers(found, self._size)

    def count(self, seed: int, epoch: int) -> int:
        """Records of an epoch, over all ranks."""
        pool = self._pool(seed, epoch)
        return self._size if pool is None else len(pool)

    def order(self, *, seed: int, epoch: int, train: bool, rank: int, world_size: int) -> Int64Array:
        """The record numbers that one rank reads, in order; the ranks share an epoch as in `epoch_order`, or for
        evaluation as in `evaluation_order`."""
        pool = self._pool(seed, epoch)
        n = self._size if pool is None else len(pool)
        if self._upto is not None:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, _WEIGHT_STREAM])))
            draws = generator.random(n) * self._upto[-1]
            # The largest double below 1 times the sum may round up to the sum itself, which lies beyond the last.
            last = int(np.searchsorted(self._upto, self._upto[-1]))
            drawn = np.minimum(np.searchsorted(self._upto, draws, side="right"), last)
            places = drawn[rank::world_size][: n // world_size]
        elif not train:
            places = evaluation_order(n, rank=rank, world_size=world_size)
        else:
            shuffle = self._function is None
            places = epoch_order(n, seed=seed, epoch=epoch, rank=rank, world_size=world_size, shuffle=shuffle)
        return places if pool is None else np.ascontiguousarray(pool[places])

    def fingerprint(self, seed: int, epoch: int) -> int:
        """A number that another selection is unlikely to have."""
        pool = self._pool(seed, epoch)
        code = zlib.crc32(b"all" if pool is None else pool.tobytes())
        return code if self._upto is None else zlib.crc32(self._upto.tobytes(), code)


def draw_share(share: Share, labels: Int64Array) -> Int64Array:
    """The records of a share, ascending."""
    luck = uniform(share.seed, 0, np.arange(len(labels)), _SHARE_STREAM)
    groups = labels if share.per_class else np.zeros(len(labels), np.int64)
    order = np.lexsort((luck, groups))
    chosen = [np.empty(0, np.int64)]
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        chosen.append(order[start : start + max(1, round(share.fraction * count))])
    return np.sort(np.concatenate(chosen))


def chosen_records(labels: Int64Array, records: Path | str | None, share: float | None) -> Int64Array:
    """The record numbers that a file lists or a share draws.

    Args:
        labels: of every record of the split.
        records: text with a record number a line (# begins a comment), or .npy with numbers or a mask.
        share: of each class, over 0 and up to 1.

    Raises:
        UsageError: both are given, or the file cannot be read or does not fit the split.
    """
    if records is not None and share is not None:
        raise UsageError("records and share exclude each other: list the share's records in the file")
    if records is None:
        return draw_share(Share(1.0 if share is None else share), labels)
    path = Path(records)
    try:
        return record_numbers(_read_numbers(path), len(labels))
    except OSError as error:
        raise UsageError(f"the file of records {path} cannot be read ({error.strerror or error})") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _read_numbers(path: Path) -> Any:
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UsageError(f"is no array of numbers or of True and False ({error})") from None
    numbers = []
    for place, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word and not (word.isdecimal() and len(word) <= _MOST_DIGITS):
            raise UsageError(f"line {place} holds {word[:40]!r}, which is no record number")
        if word:
            numbers.append(int(word))
    if not numbers:
        raise UsageError("lists no record")
    return numbers


def record_numbers(records: Any, size: int) -> Int64Array:
    """Record numbers from numbers or a mask, in the order given.

    Raises:
        UsageError: they are neither, or name records that are not there.
    """
    try:
        found = np.asarray(records)
    except (TypeError, ValueError) as error:
        raise UsageError(f"records must be record numbers or a mask ({error})") from None
    if found.ndim != 1:
        raise UsageError(f"records must be a list of record numbers, a mask or a share, got {records!r:.60}")
    if found.dtype == np.bool_:
        if len(found) != size:
            raise UsageError(f"records is a mask of {len(found)} values, where the split has {size} records")
        return np.flatnonzero(found).astype(np.int64)
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise UsageError(f"records must be whole numbers or True and False, got {found.dtype} values")
    numbers = found.astype(np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < size:
        wrong = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise UsageError(f"records names record {wrong}, and the split's go from 0 to {size - 1}")
    return numbers
