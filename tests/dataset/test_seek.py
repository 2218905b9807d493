"""The seek index beside a shard: what is in it, that crops do not depend on it, and that damage to it is told."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_image, encode, make_samples

import alexnet_fast as af
from alexnet_fast import DamagedDataError, LoaderConfig, ShardReader, open_loader, pack, verify
from alexnet_fast.dataset import seek
from alexnet_fast.images import find_row_starts, native

pytestmark = pytest.mark.skipif(native.compiled_code() is None, reason="not compiled")
NAME = "train-00000-of-00001.seek"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for data, label, key in make_samples("train", 30, 3, size=(80, 70)):
        (folder / "train" / f"class{label}").mkdir(parents=True, exist_ok=True)
        (folder / "train" / f"class{label}" / Path(key).name).write_bytes(data)
    (folder / "train" / "class0" / "progressive.jpg").write_bytes(encode(draw_image(0, 0, (90, 80)), progressive=True))
    return folder


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    pack(source, tmp_path / "data", workers=0)
    return tmp_path / "data"


def images(dataset: Path, backend: str = "torchvision") -> torch.Tensor:
    config = LoaderConfig(
        dataset=dataset, backend=backend, batch_size=31, image_size=24, dtype="uint8", device="cpu", num_workers=0
    )
    with open_loader(config) as loader:
        return next(iter(loader)).images.clone()


def test_the_file_is_what_docs_format_says(packed: Path) -> None:
    content = (packed / NAME).read_bytes()
    reader = ShardReader(packed, "train")
    (shard,) = reader.split_info.shards
    head = 8 + 32 + 4 + 4 * 31
    assert content[:8] == b"AFSEEK\0\1" and content[8:40].hex() == shard.sha256
    assert struct.unpack_from("<I", content, 40) == (31,)
    assert struct.unpack_from("<I", content, head) == (zlib.crc32(content[:head]),)
    lengths = np.frombuffer(content, "<u4", 31, 44).tolist()
    entries = reader.seek_entries(range(31))
    assert entries is not None
    at = head + 4
    for record, length in enumerate(lengths):
        found = find_row_starts(reader.read(record))
        assert content[at : at + length] == (found[2] if found else b"")
        assert entries[record] == (content[at : at + length] or None)
        at += length
    assert at == len(content) and lengths.count(0) == 1, "the progressive one has none"


def test_images_and_records_do_not_depend_on_it(source: Path, packed: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "without", workers=0, seek_index=False)
    assert not list((tmp_path / "without").glob("*.seek"))
    for name in ("train-00000-of-00001.index.npy", "train-00000-of-00001.lmdb/data.mdb"):
        assert (packed / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert ShardReader(tmp_path / "without", "train").seek_entries([0]) is None
    assert torch.equal(images(packed), images(tmp_path / "without"))
    assert verify(packed, decode=True).ok and verify(tmp_path / "without", decode=True).ok


def test_entries_are_read_from_the_file_where_they_are_too_many_for_memory(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = images(packed)
    monkeypatch.setattr(seek, "_IN_MEMORY", 0)
    assert torch.equal(images(packed), want)
    assert ShardReader(packed, "train").seek_entries([3, 1]) == [
        ShardReader(packed, "train").seek_entries([i])[0]
        for i in (3, 1)  # type: ignore[index]
    ]


@pytest.mark.parametrize("where", [0, 9, 41, 50, 150, -1])
def test_damage_is_told_and_no_image_passes(packed: Path, where: int) -> None:
    content = bytearray((packed / NAME).read_bytes())
    content[where] ^= 4
    (packed / NAME).write_bytes(content)
    report = verify(packed)
    assert not report.ok and NAME in report.problems[0] and "delete it" in report.problems[0]
    with pytest.raises(DamagedDataError, match="seek"):
        images(packed)
    (packed / NAME).unlink()
    assert verify(packed).ok
    images(packed)


def test_a_file_cut_short_or_of_another_shard_is_told(packed: Path, source: Path, tmp_path: Path) -> None:
    content = (packed / NAME).read_bytes()
    for cut in (0, 20, 60, len(content) - 1):
        (packed / NAME).write_bytes(content[:cut])
        with pytest.raises(DamagedDataError, match="delete it to go without"):
            ShardReader(packed, "train")
    pack(source, tmp_path / "other", workers=0, seed=1)
    shutil.copy(tmp_path / "other" / NAME, packed / NAME)
    with pytest.raises(DamagedDataError, match="the seek index of another shard"):
        ShardReader(packed, "train")


def test_an_entry_of_another_image_is_told_by_verify(packed: Path) -> None:
    content = (packed / NAME).read_bytes()
    reader = ShardReader(packed, "train")
    entries = reader.seek_entries(range(31))
    assert entries is not None
    first, second = [e for e in entries if e is not None and len(e) == 44][:2]  # 4:2:0, five rows
    assert first != second
    (packed / NAME).write_bytes(content.replace(first, second, 1))
    assert verify(packed).ok, "its checksum is right"
    (problem,) = verify(packed, decode=True).problems
    assert "its entry in the seek index is of another image" in problem


@pytest.mark.parametrize(
    ("options", "compiled", "said"), [([], "off", True), (["--no-seek-index"], "off", False), ([], "", False)]
)
def test_an_index_that_cannot_be_written_is_said(
    source: Path, tmp_path: Path, options: list[str], compiled: str, said: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "pack", source, tmp_path / "data", *options],
        capture_output=True, text=True, env={**os.environ, "ALEXNET_FAST_NATIVE": compiled},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("no seek index was written") == 1) == said
    assert (tmp_path / "data" / NAME).exists() == (not options and not compiled)


def test_packing_anew_without_takes_an_old_one_away(source: Path, packed: Path) -> None:
    pack(source, packed, workers=0, seek_index=False, overwrite=True)
    assert not (packed / NAME).exists() and af.verify(packed).ok
