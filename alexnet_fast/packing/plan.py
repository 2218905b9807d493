"""What packing will do, decided before it begins: which image becomes which record of which shard.

A plan is a pure function of the source's contents, the options and the seed. The number of workers, the engine and
the order of work are no part of it, so they cannot change the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..commands import PackConfig
from ..dataset import MAX_RECORDS_PER_SHARD, shard_name
from ..errors import UsageError
from ..options import options_of
from ..sources import Source, Split

_SHARDS, _LEAST_BYTES, _MOST_BYTES = 128, 8 << 20, 1 << 30
# What tells one pack from another, besides its source: what may change the records.
_SAME = tuple(entry.name for entry, known in options_of(PackConfig) if known.same_run)


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write: records `start` to `stop` of its split's table."""

    name: str
    split: str
    start: int
    stop: int
    source_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All shards to write, and the tables of images in record order that they are cut from."""

    source: Source
    config: PackConfig
    tables: Mapping[str, npt.NDArray[np.void]]
    shards: tuple[ShardPlan, ...]

    @property
    def records(self) -> int:
        return sum(shard.stop - shard.start for shard in self.shards)

    def identity(self) -> dict[str, Any]:
        """What must be equal for two runs to give the same records; JSON values."""
        options = {name: getattr(self.config, name) for name in _SAME}
        return {"fingerprint": self.source.fingerprint(self.tables), "options": options | {"splits": list(self.tables)}}


def plan_shards(source: Source, config: PackConfig, *, shard_bytes: int | None = None) -> Plan:
    """Shuffle each split over its whole length, and cut it into shards of nearly equal bytes.

    Args:
        shard_bytes: where the config leaves it to us: that of an earlier run in the same folder; None: there was none.

    Raises:
        UsageError: a split was asked for that the source has not.
    """
    wanted = [text.partition("=")[0] for text in config.splits or source.splits]
    for name in wanted:
        if name not in source.splits:
            raise UsageError(f"{source.name} has no split {name!r}; it has: {', '.join(source.splits)}")
    tables = {name: _shuffled(split, name, config) for name, split in source.splits.items() if name in wanted}
    if config.shard_bytes == "auto":
        config = replace(config, shard_bytes=shard_bytes or _shard_bytes(tables))
    shards = [shard for name, table in tables.items() for shard in _cut(table, name, int(config.shard_bytes))]
    return Plan(source=source, config=config, tables=tables, shards=tuple(shards))


def _shuffled(split: Split, name: str, config: PackConfig) -> npt.NDArray[np.void]:
    # The split's name is part of the seed, so that splits of one length are not shuffled alike.
    seed = np.random.SeedSequence([config.seed, *name.encode()])
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(split.images))
    return split.images[order[: config.limit]]


def _shard_bytes(tables: Mapping[str, npt.NDArray[np.void]]) -> int:
    """A 128th of all images' bytes, whole MiB, from 8 MiB to 1 GiB.

    A shard is what one worker writes, so there have to be many of them for any number of workers, and a function of the
    source alone. Shards of 8 MiB cost nothing: the train split of Tiny ImageNet takes 7.0 s of CPU in 24 of them, 7.2 s
    in one, whose images passed between processes (AMD EPYC, 2 cores, medians of 3).
    """
    total = sum(int(table["size"].sum(dtype=np.int64)) for table in tables.values())
    return min(max(-(-total // (_SHARDS << 20)) << 20, _LEAST_BYTES), _MOST_BYTES)


def _cut(table: npt.NDArray[np.void], split: str, shard_bytes: int) -> list[ShardPlan]:
    ends = np.cumsum(table["size"], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    count = max(1, -(-total // shard_bytes), -(-2 * len(table) // MAX_RECORDS_PER_SHARD))
    count = min(count, max(1, len(table)))
    if count > 99_999:
        raise UsageError(f"--shard-bytes {shard_bytes} would cut split {split} into {count:,} shards: choose more")
    # A shard ends with the first image at which it has its share.
    stops = np.searchsorted(ends, np.arange(1, count + 1) * (total / count), side="left") + 1
    stops[-1] = len(table)
    stops = np.unique(np.minimum(stops, len(table)))
    starts = np.concatenate([[0], stops[:-1]])
    return [
        ShardPlan(
            name=shard_name(split, number, len(stops)), split=split, start=int(start), stop=int(stop),
            source_bytes=int(table["size"][start:stop].sum(dtype=np.int64)),
        )
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]  # fmt: skip


def write_plan_files(plan: Plan, folder: Path) -> None:
    """Lay the tables down where workers, on this machine or others, map them into memory."""
    for split, table in plan.tables.items():
        np.save(folder / f"{split}.plan.npy", table, allow_pickle=False)
