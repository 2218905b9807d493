"""Views of records: what they hold, how long they last, and what they say of damage."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import make_samples, pack_images

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
    assert reader.read_many(records) == expected


def test_views_of_a_pickled_reader(packed: Path) -> None:
    reader = ShardReader(packed, "train")
    first = bytes(reader.view_many(np.array([5]))[0])
    copy = pickle.loads(pickle.dumps(reader))
    copy.close()
    assert bytes(reader.view_many(np.array([5]))[0]) == first
    reader.close()


def test_a_record_that_does_not_match_is_named(tmp_path: Path) -> None:
    dataset = pack_images(tmp_path / "data", {"train": make_samples("train", 12, 3)}, num_classes=3, shards=1)
    reader = ShardReader(dataset, "train")
    data = dataset / reader.split_info.shards[0].path / "data.mdb"
    content = bytearray(data.read_bytes())
    content[int(reader.index["offset"][3]) + int(reader.index["length"][3]) + 1] ^= 1  # its label
    data.write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"record 3 of .*does not match its index"):
        reader.view_many(np.arange(12)[3:])
    assert [bytes(view) for view in reader.view_many(np.array([2, 4]))] == reader.read_many([2, 4])
    reader.close()
