"""Views into mapped shards: what they hold, how long they last, and what they say of damage."""

from __future__ import annotations

import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import make_samples, pack_pictures

from alexnet_fast import DamagedDataError, ShardReader


def test_views_are_the_records(packed: Path) -> None:
    for split in ("train", "val", "test"):  # test is unlabelled: its labels take ten bytes
        reader = ShardReader(packed, split)
        records = np.random.default_rng(0).integers(0, len(reader), 40)
        assert [bytes(view) for view in reader.view_many(records)] == reader.read_many(records)
        assert all(view.readonly for view in reader.view_many(records))
        reader.close()


def test_views_outlive_the_closing_of_other_readers(packed: Path) -> None:
    reader, other = ShardReader(packed, "train"), ShardReader(packed, "train")
    records = np.arange(len(reader))
    expected = other.read_many(records)
    views = reader.view_many(records)
    other.view_many(records)
    other.close()
    other.close()
    assert [bytes(view) for view in views] == expected
    del views
    reader.close()
    assert reader.read_many(records) == expected  # and opened again where needed


def test_views_of_a_pickled_reader(packed: Path) -> None:
    reader = ShardReader(packed, "train")
    first = bytes(reader.view_many(np.array([5]))[0])
    copy = pickle.loads(pickle.dumps(reader))
    copy.close()  # holds nothing: the first reader's views are safe
    assert bytes(reader.view_many(np.array([5]))[0]) == first
    reader.close()


def test_more_shards_than_may_be_held_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_fast import shards

    dataset = pack_pictures(tmp_path / "data", {"train": make_samples("train", 12, 3)}, num_classes=3, shards=6)
    monkeypatch.setattr(shards._environments, "_most", 4)
    reader = ShardReader(dataset, "train")
    records = np.arange(12)[::-1]
    assert [bytes(view) for view in reader.view_many(records)] == reader.read_many(records)
    reader.close()


def test_a_record_that_does_not_match_is_named(tmp_path: Path) -> None:
    dataset = pack_pictures(tmp_path / "data", {"train": make_samples("train", 12, 3)}, num_classes=3, shards=1)
    reader = ShardReader(dataset, "train")
    folder = dataset / reader.split_info.shards[0].path
    with lmdb.open(str(folder), map_size=1 << 24, lock=False) as env, env.begin(write=True) as txn:
        txn.put(b"00000003", txn.get(b"00000004"))
        txn.delete(b"00000007")
    for record, text in ((3, "does not match its index"), (7, "is missing")):
        with pytest.raises(DamagedDataError, match=f"record {record} of .*{text}"):
            reader.view_many(np.arange(12)[record:])
    assert [bytes(view) for view in reader.view_many(np.array([2, 4]))] == reader.read_many([2, 4])
    reader.close()
