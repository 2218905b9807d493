"""Which shards a pass needs when: what a loader tells the cache of shards in object storage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dataset import ShardCache
from ..errors import UsageError
from .order import Int64Array


class ShardFeed:
    """Keeps the shards of each batch at hand from before it is made until it is handed out.

    Args:
        cache: of the split.
        ahead: batches that are in the making at a time.
    """

    def __init__(self, cache: ShardCache, ahead: int) -> None:
        self._cache, self._ahead = cache, ahead
        self._sizes = np.array([shard.data_bytes for shard in cache.shards], np.int64)
        self._ends = np.cumsum([shard.records for shard in cache.shards])
        self._first: dict[int, list[int]] = {}
        self._last: dict[int, list[int]] = {}
        self._held: list[int] = []

    def begin(self, batches: Sequence[Int64Array], then: Int64Array) -> None:
        """A pass over these batches begins; `then` are the records of the next one.

        Raises:
            UsageError: the cache is too small for the shards that some batches need at a time.
        """
        self.end()
        self._first, self._last = {}, {}
        steps = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
        records = np.concatenate(batches) if batches else np.empty(0, np.int64)
        touched = np.searchsorted(self._ends, records, side="right")
        shards, place = np.unique(touched, return_index=True)
        first = steps[place]
        last = steps[len(touched) - 1 - np.unique(touched[::-1], return_index=True)[1]]
        self._check_room(shards, first, last, len(batches))
        for shard, begin, end in zip(shards.tolist(), first.tolist(), last.tolist(), strict=True):
            self._first.setdefault(begin, []).append(shard)
            self._last.setdefault(end, []).append(shard)
        self._cache.plan(shards[np.argsort(place)].tolist(), self._in_order(then))

    def _check_room(self, shards: Int64Array, first: Int64Array, last: Int64Array, steps: int) -> None:
        change = np.zeros(steps + 1, np.int64)
        np.add.at(change, np.maximum(0, first - self._ahead), self._sizes[shards])
        np.add.at(change, last + 1, -self._sizes[shards])
        most = int(np.cumsum(change).max(initial=0))
        if most > self._cache.limit:
            raise UsageError(
                f"the cache may hold {self._cache.limit:,} bytes, and an epoch in this order needs shards of {most:,} "
                "bytes at a time: raise cache_bytes (--cache-bytes), or pack smaller shards"
            )

    def _in_order(self, records: Int64Array) -> list[int]:
        shards, place = np.unique(np.searchsorted(self._ends, records, side="right"), return_index=True)
        return shards[np.argsort(place)].tolist()  # type: ignore[no-any-return]

    def before(self, number: int) -> None:
        """Wait for the shards that a batch is the first to need.

        Raises:
            UsageError, DamagedDataError, StorageError: one cannot be had; the text names it.
        """
        shards = self._first.pop(number, [])
        self._cache.wait(shards)
        self._held += shards

    def after(self, number: int) -> None:
        """A batch is handed out: let go what no later one needs."""
        shards = self._last.pop(number, [])
        self._cache.release(shards)
        self._held = [shard for shard in self._held if shard not in shards]

    def end(self) -> None:
        """Let all go."""
        held, self._held = self._held, []
        self._cache.release(held)
