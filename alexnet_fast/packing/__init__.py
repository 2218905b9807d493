"""From a source of images to shards: the plan, the work on a shard, the target folder, Ray."""

from __future__ import annotations

from .pack import describe_pack, pack, write_dataset

__all__ = ["describe_pack", "pack", "write_dataset"]
