"""A packed data set at a URL: packed into a folder of the user's cache, then sent shard by shard, dataset.json last."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..dataset import MANIFEST, default_cache, read_dataset_info, seek_path
from ..errors import UsageError
from ..system import ObjectStore, Progress, open_store, read_object


@contextmanager
def published(url: str, overwrite: bool, report: Progress) -> Iterator[Path]:
    """The folder to pack into; at the end of the block, its data set is sent to `url` and the folder is removed.

    What fails leaves the folder, so that the same command goes on with it; what was sent is not sent again.

    Raises:
        UsageError: there is a data set at `url`, and it is not to be replaced; or the server refuses who asks.
        StorageError: the server fails or cannot be reached.
    """
    store = open_store(url)
    there = _manifest(store)
    local = default_cache().parent / "packing" / hashlib.sha256(store.url.encode()).hexdigest()[:16]
    yield local
    ours = (local / MANIFEST).read_bytes()
    if there is not None and there != ours and not overwrite:
        raise UsageError(f"{url} holds another data set: add --overwrite, or give another URL")
    if there != ours:
        _send(local, store, report)
    shutil.rmtree(local, ignore_errors=True)
    _sent_list(local).unlink(missing_ok=True)


def _manifest(store: ObjectStore) -> bytes | None:
    try:
        return read_object(store, MANIFEST)
    except FileNotFoundError:
        return None


def _sent_list(local: Path) -> Path:
    return local.with_suffix(".sent")


def _send(local: Path, store: ObjectStore, report: Progress) -> None:
    info = read_dataset_info(local)
    store.delete(MANIFEST)  # nobody takes what is there now for a whole data set
    record = _sent_list(local)
    ours = hashlib.sha256((local / MANIFEST).read_bytes()).hexdigest()
    lines = record.read_text().splitlines() if record.exists() else []
    sent = set(lines[1:]) if lines[:1] == [ours] else set()
    record.write_text("\n".join([ours, *sorted(sent)]) + "\n")
    names = [
        name
        for split in info.splits.values()
        for shard in split.shards
        for name in (f"{shard.path}/data.mdb", shard.index_path, seek_path(shard))
        if (local / name).exists()
    ]
    report.start(sum((local / name).stat().st_size for name in names) >> 20, "MiB")
    for name in names:
        report.note(name)
        if name not in sent:
            store.put(name, local / name)
            with open(record, "a") as file:
                file.write(name + "\n")
        report.advance((local / name).stat().st_size >> 20)
    store.put(MANIFEST, (local / MANIFEST).read_bytes())
