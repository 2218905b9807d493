"""The fetch stage of a sweep: shards of a data set at a URL are fetched, timed, and become the sample that is swept."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..dataset import ShardCache, default_cache, read_dataset_info, seek_path, write_dataset_info
from ..errors import AlexNetFastError
from ..system import storage_errors
from .results import Fetch

_TELL_EVERY = 5.0  # seconds between two lines of progress


@contextmanager
def fetched_sample(
    url: str, split: str, *, cache: Path | str | None, cache_bytes: int, seconds: float, say: Callable[[str], None]
) -> Iterator[tuple[Path, Fetch]]:
    """Fetch shards for so many seconds, at least one; the data set of those that arrived, and how fast they came.

    They are fetched anew, whatever the cache holds, into a folder of their own within it, which is removed at the end.

    Raises:
        UsageError, DamagedDataError, StorageError: as `ShardCache` says.
    """
    base = Path(cache or default_cache())
    with storage_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=base))
    try:
        shards = ShardCache(url, split, folder, cache_bytes)
        try:
            arrived, took = _fetch(shards, seconds, say)
        finally:
            shards.close()
        yield _sample(shards, split, folder / "sample", arrived, took, cache_bytes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(cache: ShardCache, seconds: float, say: Callable[[str], None]) -> tuple[int, float]:
    """(bytes that arrived, seconds); whole shards or parts of them."""
    # No more than fit at a time: one that is let go for another would be missing in the sample.
    fitting, room = 0, cache.limit
    for shard in cache.shards:
        room -= shard.data_bytes
        if room < 0:
            break
        fitting += 1
    begin = told = time.monotonic()
    cache.plan(range(fitting))
    while True:
        time.sleep(0.02)
        now, arrived = time.monotonic(), cache.arrived_bytes
        whole = sum(cache.is_here(number) for number in range(fitting))
        if cache.failure is not None:
            raise cache.failure
        if whole == fitting or (whole and now - begin >= seconds):
            return arrived, now - begin
        if now - told >= _TELL_EVERY:
            told = now
            say(f"fetching shards: {arrived / 1e6:,.1f} MB, {arrived / 1e6 / (now - begin):,.1f} MB/s")


def _sample(
    cache: ShardCache, split: str, place: Path, arrived: int, took: float, cache_bytes: int
) -> tuple[Path, Fetch]:
    info = read_dataset_info(cache.dataset)
    whole = info.split(split)
    here = tuple(shard for number, shard in enumerate(cache.shards) if cache.is_here(number))
    if not here:
        raise AlexNetFastError(f"no shard of {cache.url} was left to measure: another program deleted them")
    place.mkdir()
    for shard in here:
        for name in (shard.path, shard.index_path, seek_path(shard)):
            if (cache.dataset / name).exists():
                (cache.dataset / name).rename(place / name)
    records = sum(shard.records for shard in here)
    part = replace(whole, records=records, bytes=sum(shard.bytes for shard in here), shards=here)
    write_dataset_info(place, replace(info, splits={split: part}))
    rate = arrived / took
    stored = sum(shard.data_bytes for shard in cache.shards)
    return place, Fetch(
        url=cache.url, shards=len(here), of_shards=len(cache.shards), records=whole.records, bytes=whole.bytes,
        stored_bytes=stored, cache_bytes=cache_bytes, bytes_per_s=rate, images_per_s=rate * whole.records / stored,
    )  # fmt: skip
