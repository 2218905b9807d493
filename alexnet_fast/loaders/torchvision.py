"""Decodes on the host, on any machine: workers decode and crop the records of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dataset import ShardReader
from ..system import choose_device, usable_cores
from ..words import counted
from .base import check_options, open_split
from .host import HostLoader
from .image_sources import ShardSource

if TYPE_CHECKING:
    from ..config import LoaderConfig


class TorchvisionLoader(HostLoader):
    """Reads a packed split with worker threads or processes; see `HostLoader`.

    Options: ``workers`` ('auto', 'thread', 'process'), ``context`` ('auto', 'fork', 'spawn': how worker processes
    start). On Linux 'auto' workers are forked processes, elsewhere threads.

    Raises:
        UsageError: the data set, the split or the device is not there, or an option is unknown.
        DamagedDataError: the data set, or (on iteration) a record, is damaged.
        WorkerError: a worker ended (on iteration).
    """

    backend = "torchvision"

    def __init__(self, config: LoaderConfig, reader: ShardReader | None = None) -> None:
        """
        Args:
            reader: of the split, where it is open already.
        """
        options = check_options(config, "torchvision", workers="auto", context="auto")
        device = choose_device(config.device)
        reader = reader or open_split(config)
        super().__init__(config, reader, ShardSource(reader), device, **options)
        cores = usable_cores()
        mebibytes = self._layout.batch_bytes / 2**20
        self.description = (
            f"torchvision: {self.workers_text} on {counted(cores, 'usable core')}, "
            f"{self._layout.count - 1} batches of {mebibytes:.0f} MiB in memory, for {self.device}"
        )
