"""bench-loader on a data set in object storage: the fetch stage, and a verdict that names a slow network."""

import json
import subprocess
import sys
import time

import pytest
from conftest import make_samples, pack_images
from object_storage import BUCKET, Proxy, as_aws, rclone

from alexnet_fast.bench import bench_loader
from alexnet_fast.config import BenchConfig
from alexnet_fast.errors import StorageError

pytest.importorskip("obstore")
RECORDS, SHARDS, DELAY = 160, 8, 1.0
# Four shards are asked for at once, and each comes a while late.
MOST = 4 * RECORDS / SHARDS / DELAY


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    samples = {"train": make_samples("train", RECORDS, 3, size=(96, 80))}
    pack_images(root / BUCKET / "data", samples, num_classes=3, shards=SHARDS)

    def wait(path: str, count: int) -> None:
        if path.endswith("data.mdb"):
            time.sleep(DELAY)

    with rclone(root) as address, Proxy(address, wait) as proxy, as_aws(proxy.address):
        yield root / BUCKET / "data"


def bench(tmp_path, *more):
    arguments = [
        sys.executable, "-m", "alexnet_fast", "bench-loader", f"s3://{BUCKET}/data", "--num-workers", "0",
        "--batch-size", "8", "--image-size", "32", "--seconds", "1", "--model", "none", "--device", "cpu", "--backend",
        "torchvision", "--cache", tmp_path / "cache", "--out", tmp_path / "out", *more,
    ]  # fmt: skip
    return subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, timeout=300)


def test_a_network_slower_than_the_loader_is_the_limit(tmp_path, slow_server):
    done = bench(tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "bench-loader.json").read_text())
    fetch, (row,) = report["fetch"], report["rows"]
    assert 0 < fetch["images_per_s"] <= 1.02 * MOST
    assert 1 <= fetch["shards"] < fetch["of_shards"] == SHARDS
    assert fetch["records"] == RECORDS and report["environment"]["records"] == fetch["shards"] * RECORDS // SHARDS
    assert report["environment"]["dataset"] == f"s3://{BUCKET}/data"
    assert fetch["images_per_s"] < row["images_per_s"]
    assert report["stages"]["fetch"] == pytest.approx(1000 / fetch["images_per_s"], rel=0.01)
    (sentence,) = [line for line in report["explanation"] if "network" in line]
    assert sentence.startswith("The network is the limit while shards are fetched")
    assert f"{fetch['shards']} of the {SHARDS} shards" in sentence
    assert sentence in " ".join(done.stderr.split()) + " ".join(done.stdout.split())
    assert list((tmp_path / "cache").iterdir()) == []  # what was fetched for the measurement is gone


def test_a_cache_that_does_not_hold_the_split_is_named(tmp_path, slow_server):
    largest = max(path.stat().st_size for path in slow_server.glob("train*/data.mdb"))
    done = bench(tmp_path, "--cache-bytes", 3 * largest)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "bench-loader.json").read_text())
    assert any("fetched in every epoch" in line for line in report["explanation"])
    assert report["fetch"]["shards"] <= 3


def test_a_url_without_a_data_set_is_one_sentence(tmp_path, slow_server):
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "bench-loader", f"s3://{BUCKET}/nothing", "--cache", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "is not a packed data set" in done.stderr and "Traceback" not in done.stderr


def test_a_cache_that_cannot_be_made_is_named(tmp_path, slow_server):
    (tmp_path / "cache").write_text("a file")
    asked = BenchConfig(
        dataset=f"s3://{BUCKET}/data", batch_sizes=(8,), device="cpu", model="none", cache=tmp_path / "cache"
    )
    with pytest.raises(StorageError, match=str(tmp_path / "cache")):
        bench_loader(asked)
