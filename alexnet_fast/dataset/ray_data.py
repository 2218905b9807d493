"""Packed splits for Ray Data, so that a cluster can read and preprocess them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingDependencyError
from ..options import is_url
from .manifest import SplitInfo
from .reader import ShardReader

_BLOCK = 256  # records of a block: 28 MB of full-size images


def ray_datasource(dataset: Path | str, split: str = "train") -> Any:
    """A ``ray.data.Datasource`` of a split: ``ray.data.read_datasource(af.ray_datasource("data/tiny", "train"))``.

    A row is {"record": its number, "key": its name at the source, "label": -1 for none, "height", "width": pixels,
    "image": the encoded JPEG}. The folder must be there on every node that reads; of a URL each node keeps the shards
    that it reads in its default cache.

    Raises:
        MissingDependencyError: Ray Data is not installed.
        UsageError, DamagedDataError: as `ShardReader`.
    """
    try:
        import pyarrow
        import ray.data
        from ray.data.block import BlockMetadata
    except ImportError:
        raise MissingDependencyError("Ray Data is not installed: pip install 'ray[data]'") from None
    reader = ShardReader(dataset, split)
    # Absolute: a task may run in another folder.
    read = partial(_read, str(dataset) if is_url(dataset) else str(reader.dataset), split, reader.split_info)

    class PackedSplit(ray.data.Datasource):  # type: ignore[misc]
        """The records of a split, a range of them a task."""

        def get_name(self) -> str:
            return f"{reader.dataset.name}/{split}"

        def estimate_inmemory_data_size(self) -> int:
            return reader.split_info.bytes

        def get_read_tasks(self, parallelism: int, *more: Any, **named: Any) -> list[Any]:
            count = max(1, min(parallelism, len(reader)))
            cuts = np.linspace(0, len(reader), count + 1).astype(int).tolist()
            return [
                _task(ray.data.ReadTask, BlockMetadata, partial(read, begin, end), reader, begin, end)
                for begin, end in pairwise(cuts)
            ]

    del pyarrow
    return PackedSplit()


def _task(
    task: Any, metadata: Any, read: Callable[[], Iterator[Any]], reader: ShardReader, begin: int, end: int
) -> Any:
    known = inspect.signature(metadata).parameters
    about = {"num_rows": end - begin, "size_bytes": int(reader.lengths[begin:end].sum()), "input_files": None}
    # Ray has dropped `schema` from what a task says of itself, and once wanted it.
    about |= {name: None for name in ("schema", "exec_stats") if name in known}
    return task(read, metadata(**about))


@lru_cache(maxsize=2)
def _reader(place: str, split: str, packed: SplitInfo) -> ShardReader:
    """Opened in the process that reads, once: sent with every task, ImageNet's columns would be 36 MB each time.

    With `packed`, a data set that was packed anew in the same place is another.
    """
    return ShardReader(place, split)


def _read(place: str, split: str, packed: SplitInfo, begin: int, end: int) -> Iterator[Any]:
    """In a task: the blocks of a range of records."""
    import pyarrow

    reader = _reader(place, split, packed)
    for first in range(begin, end, _BLOCK):
        records = np.arange(first, min(first + _BLOCK, end))
        yield pyarrow.table(
            {
                "record": records,
                "key": reader.keys(records),
                "label": reader.labels[records],
                "height": reader.heights[records],
                "width": reader.widths[records],
                "image": pyarrow.array(reader.read_many(records), pyarrow.binary()),
            }
        )
