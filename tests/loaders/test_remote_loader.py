"""Loaders over shards in object storage: the same batches as from a folder, each record once, resumed and shared."""

import shutil

import numpy as np
import pytest
import torch
from conftest import make_samples, pack_images
from object_storage import BUCKET, as_aws, rclone

from alexnet_fast import LoaderConfig, UsageError, open_loader

pytest.importorskip("obstore")
RECORDS, SHARDS, BATCH = 120, 8, 10


@pytest.fixture(scope="module")
def server(tmp_path_factory, packed_small):
    root = tmp_path_factory.mktemp("store")
    samples = {"train": make_samples("train", RECORDS, 3), "val": make_samples("val", 25, 3)}
    pack_images(root / BUCKET / "data", samples, num_classes=3, shards=SHARDS)
    shutil.copytree(packed_small, root / BUCKET / "small")
    with rclone(root) as address, as_aws(address):
        yield root / BUCKET / "data"


def config(dataset, cache, **changes):
    settings = {"dataset": dataset, "backend": "torchvision", "batch_size": BATCH, "image_size": 32, "device": "cpu",
                "dtype": "uint8", "num_workers": 1, "cache": cache}  # fmt: skip
    return LoaderConfig(**{**settings, **changes})


def url():
    return f"s3://{BUCKET}/data"


def read(loader):
    return [(images.clone(), labels.clone()) for images, labels in loader]


@pytest.mark.parametrize("changes", [{}, {"num_workers": 0}, {"split": "val"}, {"options": {"workers": "thread"}}])
def test_batches_are_those_of_a_folder(tmp_path, server, changes):
    near = config(server, None, shuffle="window", **changes)
    with open_loader(config(url(), tmp_path, **changes)) as far, open_loader(near) as same:
        for _ in range(2):
            for (a, x), (b, y) in zip(read(far), read(same), strict=True):
                assert torch.equal(a, b) and torch.equal(x, y)


def test_a_small_cache_is_kept_to_and_one_that_is_too_small_is_refused(tmp_path, server):
    largest = max(p.stat().st_size for p in server.glob("train*/data.mdb"))
    held = []
    with open_loader(config(url(), tmp_path / "a", cache_bytes=SHARDS * largest)) as loader:
        for _ in loader:
            held.append(sum(p.stat().st_size for p in (tmp_path / "a").rglob("data.mdb")))
    assert max(held) <= SHARDS * largest
    small = config(url(), tmp_path / "b", cache_bytes=2 * largest)
    with open_loader(small) as loader, pytest.raises(UsageError, match="at a time: raise cache_bytes"):
        next(iter(loader))


def test_resident_reads_each_shard_once(tmp_path, server, packed_small):
    near = config(packed_small, None, backend="resident", shuffle="window")
    with open_loader(config(f"s3://{BUCKET}/small", tmp_path, backend="resident")) as far, open_loader(near) as same:
        for (a, x), (b, y) in zip(read(far), read(same), strict=True):
            assert torch.equal(a, b) and torch.equal(x, y)


def test_a_run_goes_on_where_it_was(tmp_path, server):
    with open_loader(config(url(), tmp_path)) as loader:
        whole = read(loader)
    with open_loader(config(url(), tmp_path)) as loader:
        batches = iter(loader)
        for _ in range(4):
            next(batches)
        state = loader.state()
    with open_loader(config(url(), tmp_path)) as loader:
        loader.load_state(state)
        rest = read(loader)
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(rest, whole[4:], strict=True))


def test_other_numbers_of_ranks_go_on_without_loss(server):
    """Four ranks read 2 batches of 5 each, then two ranks 3 of 10, then one the rest."""

    def records(loader, steps):
        order = loader._order(loader.epoch, loader._done)[: steps * loader.config.batch_size]
        return order.tolist()

    seen, state = [], None
    for ranks, batch, steps in ((4, 5, 2), (2, 10, 3), (1, 20, 10)):
        after = None
        for rank in range(ranks):
            mine = {"rank": rank, "world_size": ranks, "batch_size": batch, "num_workers": 0}
            with open_loader(config(server, None, shuffle="window", **mine)) as loader:
                if state is not None:
                    loader.load_state(state)
                assert loader.epoch == 0
                seen += records(loader, steps)
                batches = iter(loader)
                for _ in range(min(steps, 1 if ranks == 1 else steps)):
                    next(batches)
                after = loader.state()
        state = after
    assert len(seen) == len(set(seen)) and set(seen) <= set(range(RECORDS))
    assert len(seen) == RECORDS


def test_batches_of_the_window_order_are_as_mixed_as_the_full_ones(server):
    """Labels of a batch, against a full shuffle: the mean distance of their histograms from the split's."""
    distance = {}
    for shuffle in ("full", "window"):
        with open_loader(config(server, None, shuffle=shuffle)) as loader:
            labels = np.concatenate([loader.reader.labels[loader.order(epoch)] for epoch in range(8)])
        counts = np.array([np.bincount(part, minlength=3) for part in labels.reshape(-1, BATCH)])
        distance[shuffle] = np.abs(counts / BATCH - 1 / 3).sum(1).mean()
    assert distance["window"] < 1.25 * distance["full"]
