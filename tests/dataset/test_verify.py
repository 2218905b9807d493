"""verify finds every kind of damage, names the record, and survives pages that would end the process reading them."""

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from source_files import jpeg, write_files

from alexnet_fast.dataset import ShardReader, read_dataset_info, verify, write_dataset_info
from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.packing import pack
from alexnet_fast.system import file_sha256


@pytest.fixture
def packed(tmp_path):
    files = {f"train/{c}/{i}.jpg": jpeg(10 * ord(c) + i, (64, 48)) for c in "ab" for i in range(8)}
    pack(write_files(tmp_path / "source", files), tmp_path / "out", shard_bytes=9000, workers=0)
    return tmp_path / "out"


def run_verify(dataset, *options):
    return subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "verify", str(dataset), *options], capture_output=True, text=True
    )


def flip(path, byte, bit):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_sound(packed):
    for workers in (0, 2):
        report = verify(packed, decode=True, workers=workers)
        assert report.ok
        assert report.records == 16
    done = run_verify(packed)
    assert done.returncode == 0
    assert "sound: 16 records" in done.stdout


def test_a_flipped_bit_anywhere_is_found(packed):
    files = [p for p in sorted(packed.rglob("*")) if p.is_file() and p.name != "dataset.json"]
    assert len(files) >= 4
    chance = random.Random(5)
    for path in files:
        sound = path.read_bytes()
        for _ in range(2):
            flip(path, chance.randrange(len(sound)), chance.randrange(8))
            report = verify(packed, workers=0)
            assert not report.ok
            assert any(path.relative_to(packed).parts[0] in problem for problem in report.problems), report.problems
            path.write_bytes(sound)
    manifest = (packed / "dataset.json").read_bytes()
    for _ in range(60):
        flip(packed / "dataset.json", chance.randrange(len(manifest)), chance.randrange(8))
        with pytest.raises((DamagedDataError, UsageError)):
            verify(packed, workers=0)
        (packed / "dataset.json").write_bytes(manifest)
    assert verify(packed, workers=0).ok


def test_a_bad_record_is_named(packed):
    reader = ShardReader(packed, "train")
    image, key = reader.read(0), reader.key(0)
    shard = reader.split_info.shards[0]
    reader.close()
    data = packed / shard.path / "data.mdb"
    content = data.read_bytes()
    assert content.count(image) == 1
    flip(data, content.index(image) + len(image) // 2, 3)
    done = run_verify(packed)
    assert done.returncode == 1
    assert f"record 0 of {shard.path} (key '{key}'): its bytes differ" in done.stderr
    assert "Traceback" not in done.stderr


def test_records_are_compared_even_where_all_checksums_agree(packed):
    for seek in packed.glob("*.seek"):  # of the index that is altered here
        seek.unlink()
    info = read_dataset_info(packed)
    split = info.splits["train"]
    shard = split.shards[0]
    path = packed / shard.index_path
    index = np.load(path)
    index["label"][0] ^= 1
    index["crc32"][1] ^= 1
    index["width"][2] += 1
    np.save(path, index)
    changed = replace(split, shards=(replace(shard, sha256=file_sha256(path)), *split.shards[1:]))
    write_dataset_info(packed, replace(info, splits={"train": changed}))
    assert [p.partition(" ")[2].partition(" ")[0] for p in verify(packed, workers=0).problems] == ["0", "1"]
    problems = verify(packed, decode=True, workers=0).problems
    assert [p.rpartition(": ")[2] for p in problems] == [
        f"its label is {index['label'][0] ^ 1}, the index says {index['label'][0]}",
        "its bytes differ from what was packed (CRC-32)",
        "it has 64 x 48 pixels, the index says 65 x 48",
    ]


def test_missing_and_cut_files(packed):
    shards = read_dataset_info(packed).splits["train"].shards
    (packed / shards[0].path / "data.mdb").unlink()
    data = packed / shards[1].path / "data.mdb"
    data.write_bytes(data.read_bytes()[:8192])
    (packed / shards[0].index_path).unlink()
    report = verify(packed)
    for text in (f"{shards[0].path}/data.mdb", f"{shards[1].path}/data.mdb has 8192 bytes", shards[0].index_path):
        assert any(text in problem for problem in report.problems), report.problems


def test_wrecked_pages_do_not_end_the_run(packed):
    shard = read_dataset_info(packed).splits["train"].shards[0]
    data = packed / shard.path / "data.mdb"
    content = bytearray(data.read_bytes())
    content[8192:] = np.random.default_rng(0).bytes(len(content) - 8192)
    data.write_bytes(content)
    done = run_verify(packed)
    assert done.returncode == 1
    assert shard.path in done.stderr
    assert "Traceback" not in done.stderr


def test_no_data_set(tmp_path):
    done = run_verify(tmp_path)
    assert done.returncode == 2
    assert "is not a packed data set" in done.stderr
