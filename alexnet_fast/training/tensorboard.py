"""A run's numbers in a file that TensorBoard reads.

TensorBoard's own records, written in this thread: `torch.utils.tensorboard` writes them in another, where a full disk
ends in a traceback on stderr.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """One event file of a run; each start of the run writes its own."""

    def __init__(self, folder: Path, *, goes_on_at: int | None) -> None:
        """
        Args:
            folder: made if missing.
            goes_on_at: the first epoch that this start writes, which takes the place of what an earlier one wrote from
                there on; None for the first start.
        """
        folder.mkdir(exist_ok=True)
        self._path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if goes_on_at is not None:
            self._write(Event(wall_time=time.time(), step=goes_on_at, session_log=SessionLog(status=SessionLog.START)))

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one epoch."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._write(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        with open(self._path, "ab") as file:
            RecordWriter(file).write(event.SerializeToString())
