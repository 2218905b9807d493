"""Shards in object storage behind a cache: whole and checked, within its limit, whatever the server and others do."""

import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import make_samples, pack_images
from object_storage import BUCKET, Proxy, as_aws, moto, rclone

from alexnet_fast.dataset import ShardReader, cache
from alexnet_fast.dataset.cache import ShardCache
from alexnet_fast.errors import DamagedDataError, StorageError, UsageError
from alexnet_fast.system import open_store

SHARDS = 6
URL = f"s3://{BUCKET}/data"
pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder whose subfolder is the bucket, with a packed data set of six shards in it."""
    root = tmp_path_factory.mktemp("store")
    pack_images(root / BUCKET / "data", {"train": make_samples("train", 90, 3)}, num_classes=3, shards=SHARDS)
    return root


@pytest.fixture(scope="module")
def server(store):
    with rclone(store) as address:
        yield address


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cache, "_PAUSES", (0.1, 0.2))


def largest(store: Path) -> int:
    return max(p.stat().st_size for p in (store / BUCKET / "data").glob("*/data.mdb"))


def data_files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.strip(".").startswith("data.mdb")]


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where another reader of the cache has just let it go."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def read_all(folder: Path, limit: int, *, url: str = URL, window: int = 2) -> int:
    """Read every record of the split, two shards at a time; the most bytes that the cache held."""
    most, shards = 0, ShardCache(url, "train", folder, limit)
    try:
        shards.plan(range(SHARDS))
        reader = ShardReader(shards.dataset, "train")
        for begin in range(0, SHARDS, window):
            wanted = list(range(begin, begin + window))
            shards.wait(wanted)
            ends = [sum(s.records for s in shards.shards[:n]) for n in (begin, begin + window)]
            assert all(len(jpeg) > 100 for jpeg in reader.read_many(range(*ends)))
            most = max(most, sum(map(size_of, data_files(folder))))
            reader.close()
            shards.release(wanted)
    finally:
        shards.close()
    return most


def test_every_record_comes_and_the_cache_keeps_its_limit(tmp_path, store, server):
    limit = 3 * largest(store)
    with as_aws(server):
        for _ in range(2):
            assert 0 < read_all(tmp_path, limit) <= limit


def test_with_room_for_all_a_second_reader_fetches_nothing(tmp_path, server):
    with as_aws(server):
        read_all(tmp_path, 1 << 30)
        shards = ShardCache(URL, "train", tmp_path, 1 << 30)
        shards.plan(range(SHARDS))
        shards.wait(range(SHARDS))
        assert shards.fetched_bytes == 0
        shards.close()


def test_moto_serves_what_was_written_through_the_same_way(tmp_path, store):
    with moto() as address, as_aws(address):
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=10)
        there = open_store(URL)
        for path in sorted((store / BUCKET / "data").rglob("*")):
            if path.is_file():
                there.put(path.relative_to(store / BUCKET / "data").as_posix(), path)
        read_all(tmp_path, 1 << 30)


def test_http_serves_shards_too(tmp_path, store):
    with rclone(store, "http") as address:
        read_all(tmp_path, 1 << 30, url=f"{address}/{BUCKET}/data")


def test_no_data_set_there(tmp_path, server):
    with as_aws(server), pytest.raises(UsageError, match="is not a packed data set"):
        ShardCache(f"s3://{BUCKET}/nothing", "train", tmp_path, 1 << 30)


def test_wrong_keys_are_said_to_be_refused(tmp_path, server):
    with as_aws(server, secret="WRONG"), pytest.raises(UsageError, match="refuses who asks"):
        ShardCache(URL, "train", tmp_path, 1 << 30)


def test_a_limit_that_two_shards_do_not_fit_is_refused(tmp_path, store, server):
    with as_aws(server), pytest.raises(UsageError, match="cache_bytes"):
        ShardCache(URL, "train", tmp_path, largest(store))


@pytest.mark.parametrize("fault", ["cut", 503])
def test_replies_that_are_cut_or_busy_are_asked_for_again(tmp_path, server, fault):
    def once(path, count):
        return fault if path.endswith("data.mdb") and count < 2 else None

    with Proxy(server, once) as proxy, as_aws(proxy.address):
        read_all(tmp_path, 1 << 30)
        assert max(proxy.counts.values()) >= 2


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("cut", (StorageError, DamagedDataError), "train-00002"),
        (403, UsageError, "refuses"),
        (404, DamagedDataError, "missing"),
    ],
)
def test_a_shard_that_never_comes_is_named(tmp_path, server, fault, kind, words):
    def always(path, count):
        return fault if "train-00002" in path and path.endswith("data.mdb") else None

    with Proxy(server, always) as proxy, as_aws(proxy.address), pytest.raises(kind, match=words):
        read_all(tmp_path, 1 << 30)


def test_a_server_that_is_killed_is_an_error_and_no_hang(tmp_path, store):
    with rclone(store) as address, as_aws(address):
        shards = ShardCache(URL, "train", tmp_path, 1 << 30)
    with as_aws(address):
        shards.plan(range(SHARDS))
        with pytest.raises(StorageError, match=r"train-0000\d"):
            shards.wait(range(SHARDS))
        shards.close()


def test_a_shard_that_is_not_the_one_of_the_manifest_is_named(tmp_path, store):
    shutil.copytree(store, tmp_path / "other")
    path = sorted((tmp_path / "other" / BUCKET / "data").glob("*/data.mdb"))[3]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with rclone(tmp_path / "other") as address, as_aws(address):
        with pytest.raises(DamagedDataError, match=r"train-00003.*another checksum"):
            read_all(tmp_path / "cache", 1 << 30)
        assert not list((tmp_path / "cache").glob("*/train-00003*/data.mdb"))


READER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
from test_cache import read_all
for _ in range(3):
    read_all(Path({folder!r}), {limit})
print("read")
"""


def start_reader(folder: Path, limit: int) -> subprocess.Popen:
    here = Path(__file__).parent
    code = READER.format(tests=str(here.parent), here=str(here), folder=str(folder), limit=limit)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_readers_share_a_small_cache(tmp_path, store, server):
    with as_aws(server):
        readers = [start_reader(tmp_path, 4 * largest(store)) for _ in range(2)]
        for reader in readers:
            out, err = reader.communicate(timeout=120)
            assert (reader.returncode, out) == (0, "read\n"), err


def test_kill_9_while_a_shard_lands_leaves_no_torn_one(tmp_path, store):
    with rclone(store, "s3", "--bwlimit", "60k") as address, as_aws(address):
        reader = start_reader(tmp_path, 1 << 30)
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob(".data.mdb.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        reader.send_signal(signal.SIGKILL)
        reader.communicate()
    with rclone(store) as address, as_aws(address):
        read_all(tmp_path, 1 << 30)
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_takes_no_more_is_said_so(tmp_path, store, server):
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = [{str(Path(__file__).parent.parent)!r}, {str(Path(__file__).parent)!r}]\n"
        "import test_cache\nfrom alexnet_fast.errors import StorageError\nimport signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest(store) // 2},) * 2)\n"
        "try:\n"
        f"    test_cache.read_all(Path({str(tmp_path)!r}), 1 << 30)\n"
        "except StorageError as error:\n    print(error)\n"
    )
    with as_aws(server):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "raise the limit on file sizes" in done.stdout, done.stderr
