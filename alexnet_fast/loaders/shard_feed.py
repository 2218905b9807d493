"""Which shards an epoch needs when: what a loader tells the cache of shards in object storage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dataset import ShardCache
from .order import Int64Array


class ShardFeed:
    """Keeps the shards of each batch at hand while it is made.

    Args:
        cache: of the split.
        batch_size: records of a batch.
    """

    def __init__(self, cache: ShardCache, batch_size: int) -> None:
        self.cache, self._batch_size = cache, batch_size
        self._ends = np.cumsum([shard.records for shard in cache.shards])
        self._first: dict[int, list[int]] = {}
        self._last: dict[int, list[int]] = {}

    def begin(self, records: Int64Array, then: Int64Array, start_step: int = 0) -> None:
        """A pass over these records begins at a step; `then` are the records of the next pass."""
        shards, first = self._first_use(records[start_step * self._batch_size :])
        reversed_shards = np.searchsorted(self._ends, records[::-1], side="right")
        found, place = np.unique(reversed_shards, return_index=True)
        last = (len(records) - 1 - place) // self._batch_size
        self._first, self._last = {}, {}
        for shard, at in zip(shards.tolist(), first.tolist(), strict=True):
            self._first.setdefault(start_step + at // self._batch_size, []).append(shard)
        for shard, step in zip(found.tolist(), last.tolist(), strict=True):
            self._last.setdefault(step, []).append(shard)
        self.cache.release(range(len(self.cache.shards)))
        self.cache.plan(shards.tolist(), self._first_use(then)[0].tolist())

    def before(self, step: int) -> None:
        """Wait for the shards that a step is the first to need.

        Raises:
            UsageError, DamagedDataError, StorageError: one cannot be had; the text names it.
        """
        self.cache.wait(self._first.pop(step, ()))

    def after(self, step: int) -> None:
        """A batch is made, and those before it are: let go what no later step needs."""
        for done in [s for s in self._last if s <= step]:
            self.cache.release(self._last.pop(done))

    def _first_use(self, records: Int64Array) -> tuple[Int64Array, Int64Array]:
        """(shards, place in `records` of the first of each), in the order in which they are needed."""
        shards, first = np.unique(np.searchsorted(self._ends, records, side="right"), return_index=True)
        order = np.argsort(first)
        return shards[order], first[order]


def window_fits(shard_bytes: Sequence[int], window: int, limit: int) -> bool:
    """Whether a cache of `limit` bytes holds what a window of that many shards needs at a time.

    A window's records span one shard more than it is long, and while it is read the next is fetched.
    """
    return (2 * window + 1) * max(shard_bytes, default=0) <= limit
