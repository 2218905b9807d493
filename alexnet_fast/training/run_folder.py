"""The folder that a training run leaves, and the rules on who may write into it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DamagedDataError, UsageError
from ..system import FileLock, LockedError, write_file_atomically
from .checkpoint import BEST, LAST, PREVIOUS

CONFIG, METRICS, CURVES, SUMMARY = "config.json", "metrics.jsonl", "curves.png", "summary.json"
_LOCK = ".lock"
# What a process leaves that was killed while it wrote one of its files.
_LEFTOVERS = re.compile(r"\.(config\.json|metrics\.jsonl|summary\.json)\.\d+\.tmp|\.(last|previous|best)\.pt\.tmp")


class RunFolder:
    """An open run folder; one process at a time may hold it. The lock goes with the process, however it ends.

    Raises:
        UsageError: it is in use, or holds something else than what was asked for.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise UsageError(f"the run folder {path} is a file: give another --run-dir")
        if not resume and self.has_checkpoint():
            raise UsageError(f"{path} already holds a run: go on with it by --resume, or give another --run-dir")
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / _LOCK)
        except OSError as error:
            raise UsageError(f"the run folder {path} cannot be written: {error.strerror}") from None
        except LockedError as error:
            raise UsageError(
                f"{path} is in use by another training process ({error.holder}): wait for it, or give another --run-dir"
            ) from None
        for entry in path.iterdir():
            if _LEFTOVERS.fullmatch(entry.name):
                entry.unlink()
        self._tensorboard: Any = None

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.close()

    def discard(self) -> None:
        """Close it, and take back what opening it left on disk: for a run that is refused before its first step."""
        ours = {CONFIG, _LOCK}
        if self._made and {entry.name for entry in self.path.iterdir()} <= ours:
            for name in ours:
                (self.path / name).unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something there meanwhile
                for folder in self._made:
                    folder.rmdir()
        self.close()

    def read_config(self) -> dict[str, Any] | None:
        """The config.json that is there, None where there is none."""
        return read_config(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        _write_json(self.path / CONFIG, config)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make metrics.jsonl hold exactly these lines."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_file_atomically(self.path / METRICS, text.encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        _write_json(self.path / SUMMARY, summary)

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was ever written here."""
        return any((self.path / name).exists() for name in (LAST, PREVIOUS, BEST))

    def log_to_tensorboard(self, row: Mapping[str, Any], *, first: bool) -> None:
        """Write one epoch's numbers for TensorBoard, where it is installed.

        Raises:
            Exception: of any kind, where TensorBoard cannot be imported or the file cannot be written.
        """
        if self._tensorboard is None:
            try:
                from .tensorboard import EventFile
            except ModuleNotFoundError:
                return
            self._tensorboard = EventFile(self.path / "tensorboard", goes_on_at=None if first else int(row["epoch"]))
        numbers = {name.replace("_", "/", 1): value for name, value in row.items() if isinstance(value, (int, float))}
        self._tensorboard.add(int(numbers.pop("epoch")), numbers)


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a run folder, None where there is none."""
    try:
        content = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedDataError(f"{folder / CONFIG} is damaged ({error}): give another --run-dir") from None
    if not isinstance(content, dict):
        raise DamagedDataError(f"{folder / CONFIG} is damaged (not an object): give another --run-dir")
    return content


def default_run_dir(model: str, recipe: str) -> Path:
    """runs/MODEL-RECIPE-DATE, with a number behind it where that is taken."""
    base = Path("runs") / f"{model}-{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_file_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
