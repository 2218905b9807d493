"""Shards in object storage behind a folder of bounded size: what to fetch, when, and what to let go.

The folder holds a folder for each data set that was read. That is a packed data set itself, of which some shards are
missing, so everything that reads shards reads it. A shard lands beside its place, is checked against dataset.json, and
is renamed. Whoever reads a shard holds a shared lock on its file, and only a file that nobody holds is deleted. So
several trainers may share a cache, and what a killed one held is free at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from ..errors import AlexNetFastError, DamagedDataError, StorageError, UsageError
from ..system import ObjectStore, open_store, read_object, storage_error, storage_errors, write_file_atomically
from .index import load_index
from .manifest import MANIFEST, DatasetInfo, ShardInfo, read_dataset_info
from .seek import seek_path

try:
    import fcntl
except ImportError:  # Windows: one trainer a cache
    fcntl = None  # type: ignore[assignment]

# Transfers at once: one carries 100 to 150 MB/s on a loopback, and storage far away answers late. They are of whole
# shards: with 30 ms to each answer, whole ones of 64 MiB came at 68 to 119 MB/s, and ranges of 4 to 16 MiB, eight at a
# time, at 42 to 66 (docs/remote.md). Ranges bring the first shard sooner, but an order begins with a window of eight.
FETCHERS = 4
# Pauses between tries of a shard, seconds; the library has tried each request itself before one of these counts.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_DATA = "data.mdb"
# So long without a byte, and without room, means that other programs hold all that is here.
_FULL_SECONDS = 60.0
_TELL_SECONDS = 10.0  # between two lines about a shard that is waited for
T = TypeVar("T")


def default_cache() -> Path:
    """Where shards are kept if no folder is named: alexnet-fast/shards in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "alexnet-fast" / "shards"


class ShardCache:
    """The local side of one split of a data set at a URL.

    Args:
        url: of the data set's folder.
        split: whose shards are fetched.
        folder: of the cache; made if missing.
        limit: bytes of shards that it may hold, over all data sets in it.

    Attributes:
        dataset: the local folder of this data set: dataset.json, the split's indexes, and the shards that are here.
        info: dataset.json.
        fetched_bytes: of shards that landed, so far; arrived_bytes: with those under way, and those that failed.
        failure: why the last shard that failed could not be had, until the next plan.

    Raises:
        UsageError: there is no packed data set there, the server refuses who asks, or `limit` is too small for it.
        DamagedDataError: dataset.json or an index is not what pack wrote.
        StorageError: the server or the cache's disk fails.
    """

    def __init__(self, url: str, split: str, folder: Path, limit: int) -> None:
        self.url, self.split, self.folder, self.limit = url.rstrip("/"), split, Path(folder), limit
        self._store: ObjectStore = open_store(self.url)
        try:
            manifest = read_object(self._store, MANIFEST)
        except FileNotFoundError:
            raise UsageError(
                f"{url} is not a packed data set (it has no {MANIFEST}): make one with `alexnet-fast pack SOURCE {url}`"
            ) from None
        name = self.url.rpartition("/")[2].partition("?")[0] or "dataset"
        self.dataset = self.folder / f"{name}-{hashlib.sha256(manifest).hexdigest()[:12]}"
        with storage_errors(self.dataset):
            self.dataset.mkdir(parents=True, exist_ok=True)
        if not (self.dataset / MANIFEST).exists():
            write_file_atomically(self.dataset / MANIFEST, manifest)
        self.info: DatasetInfo = read_dataset_info(self.dataset)
        self.shards: tuple[ShardInfo, ...] = self.info.split(split).shards
        largest = max((shard.data_bytes for shard in self.shards), default=0)
        if limit < 2 * largest:
            raise UsageError(
                f"the cache may hold {limit:,} bytes, and two shards of {url} have {2 * largest:,}: "
                "set cache_bytes (--cache-bytes) to that or more"
            )
        self.fetched_bytes = self.arrived_bytes = 0
        self._begun = time.perf_counter()
        self._changed = threading.Condition()
        self._held: dict[int, IO[bytes]] = {}  # shards that are here and locked for this reader
        self._holds: Counter[int] = Counter()  # how often each was waited for and not yet released
        self._due: dict[int, int] = {}  # shards that are to come or to stay, with their place in the plan
        self._then: dict[int, int] = {}  # the same of the next epoch
        self._coming: set[int] = set()
        self.failure: AlexNetFastError | None = None
        self._closed = False
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        with ThreadPoolExecutor(2 * FETCHERS) as threads:
            for task in [threads.submit(self._fetch_index, shard) for shard in self.shards]:
                task.result()

    def _fetch_index(self, shard: ShardInfo) -> None:
        path = self.dataset / shard.index_path
        if path.exists():
            with contextlib.suppress(DamagedDataError):
                load_index(path, sha256=shard.sha256)
                return
        content = self._try_often(lambda: read_object(self._store, shard.index_path), shard.index_path)
        if hashlib.sha256(content).hexdigest() != shard.sha256:
            raise DamagedDataError(
                f"{self.url}/{shard.index_path} is not the one of {MANIFEST}: upload the data set again"
            )
        with contextlib.suppress(FileNotFoundError):  # a data set without a seek index
            write_file_atomically(self.dataset / seek_path(shard), read_object(self._store, seek_path(shard)))
        write_file_atomically(path, content)

    # -- the plan ---------------------------------------------------------------------------------------------------

    def plan(self, shards: Sequence[int], then: Sequence[int] = ()) -> None:
        """Fetch these shards, by number, in this order, as far as the cache has room; forget an earlier plan.

        What is held stays held until `release`. `then` are those of the next epoch, which are fetched after these, and
        stay rather than others once they are released.
        """
        with self._changed:
            self._then = {int(shard): len(shards) + place for place, shard in enumerate(then)}
            self._due = {**self._then, **{int(shard): place for place, shard in enumerate(shards)}}
            self.failure = None
            self._changed.notify_all()
            self._start()

    def wait(self, shards: Sequence[int]) -> None:
        """Return when all of these shards are here and held, so that nobody deletes them until as many `release`.

        Raises:
            UsageError, DamagedDataError, StorageError: one cannot be fetched; the text names it.
        """
        moved = told = time.perf_counter()
        seen = self.fetched_bytes
        for shard in shards:
            while True:
                with self._changed:
                    if shard not in self._held:
                        file = _hold(self._path(shard), self.shards[shard].data_bytes)
                        if file is not None:
                            self._held[shard] = file
                    if shard in self._held:
                        self._holds[shard] += 1
                        break
                    if self.failure is not None:
                        raise self.failure
                    if self._closed:
                        raise StorageError("the loader was closed while it waited for a shard")
                    self._start()
                    self._due[shard] = -1  # before all that the plan names
                    self._changed.notify_all()
                    self._changed.wait(0.5)
                if time.perf_counter() - told > _TELL_SECONDS:
                    told = time.perf_counter()
                    self._tell(shard)
                if self.fetched_bytes != seen or self._coming:
                    seen, moved = self.fetched_bytes, time.perf_counter()
                elif time.perf_counter() - moved > _FULL_SECONDS:
                    raise StorageError(
                        f"{self.folder} holds {self.limit:,} bytes of shards that programs are reading, and "
                        f"{self.shards[shard].path} has no room: raise cache_bytes (--cache-bytes)"
                    )

    def _tell(self, shard: int) -> None:
        arrived, seconds = self.arrived_bytes / 1e6, time.perf_counter() - self._begun
        print(
            f"waiting for {self.shards[shard].path}: {arrived:,.1f} MB have arrived, {arrived / seconds:,.1f} MB/s in "
            "the mean",
            file=sys.stderr,
        )

    def is_ours(self) -> bool:
        """Whether this is the process that opened the cache; a forked one has neither its threads nor its locks."""
        return self._process == os.getpid()

    @contextlib.contextmanager
    def held(self, shards: Sequence[int]) -> Iterator[None]:
        """`wait`, and `release` at the end of the block."""
        self.wait(shards)
        try:
            yield
        finally:
            self.release(shards)

    def release(self, shards: Sequence[int]) -> None:
        """These are not needed for now: they stay here until room is needed."""
        with self._changed:
            for shard in shards:
                self._holds[shard] -= 1
                if self._holds[shard] > 0:
                    continue
                del self._holds[shard]
                file = self._held.pop(shard, None)
                self._due.pop(shard, None)
                if shard in self._then:
                    self._due[shard] = self._then[shard]
                if file is not None:
                    file.close()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop fetching and let all go."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)
        with self._changed:
            for file in self._held.values():
                file.close()
            self._held.clear()
            self._holds.clear()

    # -- fetching ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._threads and not self._closed:
            self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(FETCHERS)]
            for thread in self._threads:
                thread.start()

    def _serve(self) -> None:
        while (shard := self._next()) is not None:
            error: AlexNetFastError | None = None
            try:
                self._bring(self.shards[shard], self._path(shard))
            except AlexNetFastError as failure:
                error = failure
            with self._changed:
                self._coming.discard(shard)
                if self.failure is None and not self._closed:
                    self.failure = error
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The next shard to fetch, once there is room for it; None at the end."""
        with self._changed:
            while not self._closed:
                wanted = [s for s in self._due if s not in self._coming and not self.is_here(s)]
                if wanted and self.failure is None:
                    shard = min(wanted, key=lambda s: self._due[s])
                    if self._make_room(self.shards[shard].data_bytes, self._due[shard]):
                        self._coming.add(shard)
                        return shard
                self._changed.wait(0.5)
            return None

    def _path(self, shard: int) -> Path:
        return self.dataset / self.shards[shard].path / _DATA

    def is_here(self, shard: int) -> bool:
        """Whether the shard lies in the cache, whole."""
        return _size(self._path(shard)) == self.shards[shard].data_bytes

    def _make_room(self, size: int, place: int) -> bool:
        """Whether the cache has room for `size` bytes; deletes for it what nobody holds and this plan needs later.

        First what this plan does not name, the oldest first; then what it needs last.
        """
        files = []
        for path in self.folder.glob(f"*/*.lmdb/{_DATA}"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((path, stat.st_size, stat.st_mtime))
        coming = sum(self.shards[shard].data_bytes for shard in self._coming)
        free = self.limit - coming - sum(found for _, found, _ in files)
        due = {self._path(s): p for s, p in self._due.items()}
        unnamed = sorted((age, path, found) for path, found, age in files if path not in due)
        later = sorted(((-due[path], path, found) for path, found, _ in files if due.get(path, -1) > place))
        for _, path, found in [*unnamed, *later]:
            if free >= size:
                break
            if _delete_unheld(path):
                free += found
        return free >= size

    def _bring(self, shard: ShardInfo, path: Path) -> None:
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True)
            # One process fetches and others wait for it; the lock of one that is killed is free at once.
            with _exclusive(path.parent / ".fetching"):
                if _size(path) != shard.data_bytes:
                    self._try_often(lambda: self._land(shard, path), f"{shard.path}/{_DATA}")

    def _land(self, shard: ShardInfo, path: Path) -> None:
        aside, digest, size = path.with_name(f".{_DATA}.part"), hashlib.sha256(), 0
        try:
            with open(aside, "wb") as file:
                for piece in self._store.stream(f"{shard.path}/{_DATA}"):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    with self._changed:
                        self.arrived_bytes += len(piece)
                    if self._closed:
                        raise UsageError("the loader was closed while a shard was on its way")
            if size != shard.data_bytes or digest.hexdigest() != shard.data_sha256:
                what = f"{size:,} of {shard.data_bytes:,} bytes" if size != shard.data_bytes else "another checksum"
                raise DamagedDataError(
                    f"{self.url}/{shard.path}/{_DATA} is not what {MANIFEST} says ({what}): upload the data set again"
                )
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        with self._changed:
            self.fetched_bytes += size

    def _try_often(self, attempt: Callable[[], T], name: str) -> T:
        """The attempt's result; what may pass is tried again after growing pauses, then said."""
        for pause in (*_PAUSES, None):
            try:
                return attempt()
            except FileNotFoundError:
                raise DamagedDataError(f"{self.url}/{name} is missing: upload the data set again") from None
            except (StorageError, DamagedDataError) as error:
                if pause is None or self._closed:
                    raise
                print(f"{error}; trying again in {pause:g} s", file=sys.stderr)
                time.sleep(pause)
        raise AssertionError


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _hold(path: Path, size: int) -> IO[bytes] | None:
    """The file, open and locked against deletion; None where it is not here, whole."""
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - held until `release`
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, path) from None
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: whoever shares this cache may delete it
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    found = os.fstat(file.fileno())
    if found.st_nlink == 0 or found.st_size != size:  # deleted between its opening and its locking
        file.close()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return file


def _delete_unheld(path: Path) -> bool:
    """Delete the file unless somebody reads it; whether it is gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with open(path, "wb") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
