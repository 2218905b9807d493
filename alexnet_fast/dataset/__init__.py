"""The packed data set on disk: manifest, index, records; how it is read, written and verified."""

from __future__ import annotations

from .cache import ShardCache, default_cache
from .manifest import (
    MANIFEST,
    MAX_RECORDS_PER_SHARD,
    ClassInfo,
    DatasetInfo,
    ShardInfo,
    SplitInfo,
    read_dataset_info,
    shard_name,
    write_dataset_info,
)
from .ray_data import ray_datasource
from .reader import ShardReader
from .seek import seek_path
from .verify import verify
from .writer import ShardWriter

__all__ = [
    "MANIFEST",
    "MAX_RECORDS_PER_SHARD",
    "ClassInfo",
    "DatasetInfo",
    "ShardCache",
    "ShardInfo",
    "ShardReader",
    "ShardWriter",
    "SplitInfo",
    "default_cache",
    "ray_datasource",
    "read_dataset_info",
    "seek_path",
    "shard_name",
    "verify",
    "write_dataset_info",
]
