"""The folder that pack writes to: whose it is, who is writing to it, and how far an earlier run came."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..dataset import MANIFEST, DatasetInfo, read_dataset_info
from ..errors import UsageError
from ..system import FileLock, LockedError, write_file_atomically

WORK_FOLDER = ".pack"
_STATE = "state.json"
_LOCK = "lock"
STAGING = "staging"
_OURS = re.compile(r"\.?\w[\w.-]*-\d{5}-of-\d{5}\.(lmdb|index\.npy|partial)|\.dataset\.json\.\d+\.tmp", re.ASCII)


class Target:
    """DATASET while one run of pack holds it. Make with `open_target`."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.work = dataset / WORK_FOLDER
        self.staging = self.work / STAGING

    def complete(self) -> DatasetInfo | None:
        """What dataset.json says, where there is one."""
        if not (self.dataset / MANIFEST).exists():
            return None
        return read_dataset_info(self.dataset)

    def shard_bytes(self) -> int | None:
        """At how many bytes of images an earlier run in this folder cut shards; None where there was none."""
        for path, place in ((self.dataset / MANIFEST, "packing"), (self.work / _STATE, None)):
            try:
                content = json.loads(path.read_text())
                size = (content[place] if place else content)["options"]["shard_bytes"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if isinstance(size, int) and size > 0:
                return size
        return None

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Note what is being packed, or check that an earlier, unfinished run packed the same.

        Raises:
            UsageError: it packed something else; the text names the difference.
        """
        path = self.work / _STATE
        try:
            before = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            before = None
        if isinstance(before, dict):
            refuse_difference(before, identity, f"{self.dataset} holds a pack that was begun")
        write_file_atomically(path, json.dumps(identity).encode())

    def clear(self) -> None:
        """Remove what pack wrote here, the manifest first, and nothing else."""
        (self.dataset / MANIFEST).unlink(missing_ok=True)
        for entry in sorted(self.dataset.iterdir()):
            if _OURS.fullmatch(entry.name):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        self.clear_work()

    def clear_work(self) -> None:
        """Remove the notes of the run; not the lock that is held, nor the source's files that are laid down."""
        for entry in self.work.iterdir():
            if entry.name in (_LOCK, STAGING):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def drop_leftovers(self) -> None:
        """Remove half-written shards and temporary files that killed runs left."""
        for entry in self.dataset.iterdir():
            if _OURS.fullmatch(entry.name) and entry.name.startswith("."):
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def refuse_difference(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raise UsageError naming what differs between two plans' identities; do nothing where they are equal."""
    old = before.get("options", {})
    changed = [name for name, value in now["options"].items() if old.get(name) != value]
    # The fingerprint is of the splits that are packed, so other splits are named before it.
    if before.get("fingerprint") != now["fingerprint"] and "splits" not in changed:
        difference = "from a source with other images or labels"
    elif changed:
        name = "splits" if "splits" in changed else changed[0]
        option = {"splits": "--split"}.get(name, "--" + name.replace("_", "-"))
        difference = f"with {option} {_shown(old.get(name))}, not {_shown(now['options'][name])}"
    else:
        return
    raise UsageError(f"{what} {difference}: repeat that, choose another DATASET, or replace it with --overwrite")


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "unset" if value is None else str(value)


@contextlib.contextmanager
def open_target(dataset: Path) -> Iterator[Target]:
    """Hold DATASET for one run of pack: made if missing, locked against others, tidied at the end.

    Raises:
        UsageError: it cannot be made, is not pack's, or another pack is writing to it.
    """
    made = _make(dataset)
    target = Target(dataset)
    with _lock(target.work / _LOCK, dataset):
        try:
            yield target
        finally:
            _tidy(target, made)


def _make(dataset: Path) -> bool:
    """Make the folder, and the work folder in it; tells whether DATASET is new."""
    try:
        made = not dataset.exists()
        if not made and not dataset.is_dir():
            raise UsageError(f"DATASET {dataset} is a file: name a folder to write to")
        if not made:
            _check_ours(dataset)
        (dataset / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"DATASET {dataset} cannot be written to: {error.strerror}") from None
    return made


def _check_ours(dataset: Path) -> None:
    names = {entry.name for entry in dataset.iterdir()}
    if names and MANIFEST not in names and WORK_FOLDER not in names:
        raise UsageError(
            f"DATASET {dataset} holds other files ({min(names)}) and no packed data set: name a new or empty folder"
        )


def _lock(path: Path, dataset: Path) -> FileLock:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(path)
        except FileNotFoundError:
            continue  # a pack that ended just now has tidied the folder away
        except LockedError as error:
            raise UsageError(
                f"another pack is writing to {dataset} (process {error.holder}): wait for it, or name another DATASET"
            ) from None


def _tidy(target: Target, made: bool) -> None:
    """Leave no trace of a run that is complete, or that finished no shard in a folder of its own making."""
    with contextlib.suppress(OSError):
        if (target.dataset / MANIFEST).exists():
            shutil.rmtree(target.work)
            return
        shards = any(_OURS.fullmatch(entry.name) for entry in target.dataset.iterdir())
        kept = {entry.name for entry in target.work.iterdir() if not entry.name.endswith(".plan.npy")}
        if not any(entry.is_file() for entry in target.staging.rglob("*")):
            kept.discard(STAGING)
        if not shards and kept <= {_LOCK, _STATE}:
            shutil.rmtree(target.work)
            if made:
                target.dataset.rmdir()
