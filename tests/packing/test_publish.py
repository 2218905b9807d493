"""Packing to a URL: sent shard by shard, dataset.json last; an interrupted sending goes on."""

import subprocess
import sys

import pytest
from object_storage import BUCKET, Proxy, as_aws, rclone
from source_files import records, tiny_files, write_files

from alexnet_fast import UsageError, open_loader, pack

pytest.importorskip("obstore")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_files(tmp_path / "tiny", tiny_files())


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store" / BUCKET).mkdir(parents=True)
    with rclone(tmp_path / "store") as address:
        yield tmp_path / "store" / BUCKET, address


def test_what_is_sent_is_what_a_folder_would_hold(tmp_path, source, store):
    there, address = store
    near = pack(source, tmp_path / "near", shard_bytes=2000)
    with as_aws(address):
        far = pack(source, f"s3://{BUCKET}/data", shard_bytes=2000)
        with open_loader(f"s3://{BUCKET}/data", split="val", backend="torchvision", batch_size=3, image_size=32,
                         cache=tmp_path / "shards", device="cpu") as loader:  # fmt: skip
            assert len(next(iter(loader)).labels) == 3
    assert far == near and len(near.splits["train"].shards) > 1
    assert sorted(p.relative_to(there / "data") for p in (there / "data").rglob("*") if p.is_file()) == sorted(
        p.relative_to(tmp_path / "near") for p in (tmp_path / "near").rglob("*") if p.is_file()
    )
    assert records(there / "data", "train") == records(tmp_path / "near", "train")
    assert not list((tmp_path / "cache").rglob("data.mdb"))  # what was sent is not kept


def test_another_data_set_there_is_kept_until_it_is_to_be_replaced(tmp_path, source, store):
    there, address = store
    with as_aws(address):
        pack(source, f"s3://{BUCKET}/data")
        before = (there / "data" / "dataset.json").read_bytes()
        with pytest.raises(UsageError, match="holds another data set: add --overwrite"):
            pack(source, f"s3://{BUCKET}/data", seed=1)
        assert (there / "data" / "dataset.json").read_bytes() == before
        pack(source, f"s3://{BUCKET}/data", seed=1, overwrite=True)
    assert (there / "data" / "dataset.json").read_bytes() != before


def test_a_sending_that_failed_goes_on_where_it_was(tmp_path, source, store):
    there, address = store

    def refuse(path, count):
        return 403 if "val" in path and path.endswith("data.mdb") and "fail" in proxy.state else None

    with Proxy(address, refuse) as proxy, as_aws(proxy.address):
        proxy.state = {"fail"}
        command = [sys.executable, "-m", "alexnet_fast", "pack", str(source), f"s3://{BUCKET}/data"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "refuses who asks" in done.stderr and "Traceback" not in done.stderr
        assert not (there / "data" / "dataset.json").exists()
        proxy.state, before = set(), dict(proxy.counts)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        train = [path for path in proxy.counts if "train" in path and path.endswith("data.mdb")]
        assert train and all(proxy.counts[path] == before[path] for path in train)  # not sent twice
    assert (there / "data" / "dataset.json").exists()
