"""Bit rot and hostile files: any bit flipped and any cut is found or harmless; nothing crashes, no label changes."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from alexnet_fast.dataset import (
    MANIFEST,
    ClassInfo,
    DatasetInfo,
    ShardReader,
    ShardWriter,
    SplitInfo,
    read_dataset_info,
    verify,
    write_dataset_info,
)
from alexnet_fast.dataset.lmdb_pages import value_places
from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.training import load_run
from alexnet_fast.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint

RECORDS = 60
LABELS = [i % 4 for i in range(RECORDS)]
# Small ones lie within LMDB's leaf pages, large ones in pages of their own.
IMAGES = [bytes([65 + i % 26]) * [30, 700, 1900, 2600, 9000][i % 5] for i in range(RECORDS)]
FLIPS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rot")
    with ShardWriter(folder, "train-00000-of-00001") as writer:
        for number, image in enumerate(IMAGES):
            writer.add(image, label=LABELS[number], width=4, height=4, key=f"k{number}")
        info = writer.finish()
    split = SplitInfo(records=RECORDS, bytes=info.bytes, labelled=True, shards=(info,))
    classes = tuple(ClassInfo(index=i, wnid=f"n{i}", name=f"c{i}") for i in range(4))
    write_dataset_info(folder, DatasetInfo(classes=classes, splits={"train": split}))
    return folder


def classes_of_bytes(content: bytes, page: int = 4096) -> dict[str, list[int]]:
    """Every byte of data.mdb that means something, by what it means."""
    found: dict[str, list[int]] = {"meta": [*range(160), *range(page, page + 160)], "unused": []}
    for start in range(2 * page, len(content), page):
        flags = int.from_bytes(content[start + 10 : start + 12], "little")
        own = int.from_bytes(content[start : start + 8], "little") == start // page
        if not own or flags not in (1, 2):
            found.setdefault("pages of large images", []).extend(range(start, start + page, 7))
            found.setdefault("headers of large images", []).extend(range(start, start + 24))
            continue
        kind = "branch" if flags == 1 else "leaf"
        lower = int.from_bytes(content[start + 12 : start + 14], "little")
        found.setdefault(f"{kind} header", []).extend(range(start, start + 16))
        found.setdefault(f"{kind} pointers", []).extend(range(start + 16, start + lower))
        for at in range(start + 16, start + lower, 2):
            node = start + int.from_bytes(content[at : at + 2], "little")
            found.setdefault(f"{kind} node header", []).extend(range(node, node + 8))
            found.setdefault(f"{kind} node key", []).extend(range(node + 8, node + 16))
            found.setdefault(f"{kind} node data", []).extend(range(node + 16, min(node + 40, start + page)))
    return found


def read_everything(folder: Path) -> list[str]:
    """What each record gives: 'right', 'refused', 'changed' (its bytes; the label comes from the index)."""
    reader = ShardReader(folder, "train")
    assert reader.labels.tolist() == LABELS
    results = []
    for record, image in enumerate(IMAGES):
        try:
            found = reader.read(record)
        except DamagedDataError:
            results.append("refused")
            continue
        assert len(found) == len(image)
        results.append("right" if found == image else "changed")
    reader.close()
    return results


def test_any_flipped_bit_of_a_shard_is_harmless_and_found(dataset):
    path = dataset / "train-00000-of-00001.lmdb/data.mdb"
    sound = path.read_bytes()
    kinds = {kind: where for kind, where in classes_of_bytes(sound).items() if where}
    assert {"meta", "leaf header", "leaf pointers", "leaf node header", "leaf node key", "branch node header"} <= set(
        kinds
    )

    @FLIPS
    @given(st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.sampled_from(kinds[kind])), st.integers(0, 7))
    def flipped(byte, bit):
        content = bytearray(sound)
        content[byte] ^= 1 << bit
        path.write_bytes(content)
        results = read_everything(dataset)
        assert results.count("right") >= RECORDS - 1  # one bit spoils one image at most
        report = verify(dataset, workers=0)
        assert not report.ok
        if "right" not in (worst := min(results)):
            spoilt = results.index(worst)
            assert any(f"record {spoilt} of" in problem for problem in report.problems)

    try:
        flipped()
    finally:
        path.write_bytes(sound)
    assert verify(dataset, workers=0).ok


@FLIPS
@given(st.data())
def test_lmdb_pages_full_of_anything_cannot_crash_the_walk(dataset, tmp_path, data):
    """Many bytes wrong at once, in pages that mean something: an exception or an answer within the file."""
    content = bytearray((dataset / "train-00000-of-00001.lmdb/data.mdb").read_bytes())
    where = [at for kind, places in classes_of_bytes(bytes(content)).items() if "large" not in kind for at in places]
    for at, value in data.draw(st.lists(st.tuples(st.sampled_from(where), st.integers(0, 255)), max_size=12)):
        content[at] = value
    path = tmp_path / "data.mdb"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content), 4096, 8192, 5000, 10, 0]))])
    try:
        offsets, sizes = value_places(path)
    except DamagedDataError:
        return
    assert (offsets >= 0).all()
    assert (offsets + sizes <= len(content)).all()


@pytest.mark.parametrize("name", ["train-00000-of-00001.index.npy", MANIFEST])
def test_any_flipped_bit_or_cut_of_index_and_manifest_is_refused(dataset, name):
    path = dataset / name
    sound = path.read_bytes()

    @FLIPS
    @given(st.integers(0, len(sound) - 2), st.integers(0, 7), st.booleans())  # all but the manifest's last newline
    def rotten(byte, bit, cut):
        content = bytearray(sound)
        content[byte] ^= 1 << bit
        path.write_bytes(sound[:byte] if cut else content)
        with pytest.raises((DamagedDataError, UsageError)) as caught:
            ShardReader(dataset, "train")
        assert str(path) in str(caught.value)

    try:
        rotten()
    finally:
        path.write_bytes(sound)
    ShardReader(dataset, "train")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200_000))
def test_a_shard_cut_anywhere_is_refused(dataset, tmp_path, length):
    copy = tmp_path / "copy"
    if not copy.exists():
        shutil.copytree(dataset, copy)
    path, sound = copy / "train-00000-of-00001.lmdb/data.mdb", dataset / "train-00000-of-00001.lmdb/data.mdb"
    content = sound.read_bytes()
    path.write_bytes(content[: length % len(content)])
    reader = ShardReader(copy, "train")
    with pytest.raises(DamagedDataError, match=r"dataset\.json says"):
        reader.read(0)
    assert not verify(copy, workers=0).ok


NAMES = st.sampled_from(["format", "checksum", "classes", "splits", "packing", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@settings(FLIPS, max_examples=60)
@given(st.binary(max_size=60) | JSON)
def test_any_manifest_is_read_or_refused(tmp_path, content):
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises((DamagedDataError, UsageError)):
        read_dataset_info(tmp_path)


# ---- checkpoints


def checkpoint_state() -> dict[str, object]:
    weights = torch.arange(3000, dtype=torch.float32).reshape(30, 100)
    return {
        "model": {"a.weight": weights, "a.bias": torch.ones(30)},
        "step": 7,
        "epoch": 1,
        "rows": [],
        "note": "x" * 90,
    }


def same(state: dict[str, object]) -> bool:
    expected = checkpoint_state()
    return all(torch.equal(state["model"][k], v) for k, v in expected["model"].items()) and all(
        state[k] == v for k, v in expected.items() if k != "model"
    )


def test_any_flipped_bit_or_cut_of_a_checkpoint_is_refused_or_harmless(tmp_path):
    save_checkpoint(tmp_path, checkpoint_state())
    path = tmp_path / "last.pt"
    sound = path.read_bytes()
    listed = sound.rindex(b"PK\x01\x02")  # the last entry of the zip's list of files

    @example(byte=listed + 46, bit=7, cut=False)  # its name is then no UTF-8
    @example(byte=listed + 6, bit=7, cut=False)  # the version that it needs
    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, len(sound) - 1), st.integers(0, 7), st.sampled_from([False, False, False, True]))
    def rotten(byte, bit, cut):
        content = bytearray(sound)
        content[byte] ^= 1 << bit
        path.write_bytes(sound[:byte] if cut else content)
        try:
            state = load_checkpoint(path)
        except (DamagedDataError, UsageError) as error:
            assert str(path) in str(error)
        else:
            assert same(state), f"byte {byte} bit {bit} changed what was loaded"

    rotten()


def test_a_rotten_checkpoint_gives_way_to_the_one_before(tmp_path):
    save_checkpoint(tmp_path, {**checkpoint_state(), "step": 1})
    save_checkpoint(tmp_path, {**checkpoint_state(), "step": 2})
    path = tmp_path / "last.pt"
    content = bytearray(path.read_bytes())
    at = content.index(np.arange(40, 44, dtype=np.float32).tobytes())
    content[at] ^= 64
    path.unlink()  # previous.pt is another file, but best.pt may be another name of this one
    path.write_bytes(content)
    state, used = newest_checkpoint(tmp_path)
    assert (state["step"], used.name) == (1, "previous.pt")


class Payload:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (os.mkdir, (str(self.witness),))


@pytest.mark.parametrize("how", ["pickle", "zip", "inside"])
def test_a_payload_in_a_checkpoint_does_not_run(tmp_path, how):
    witness, path = tmp_path / "ran", tmp_path / "last.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Payload(witness), protocol=2))
    elif how == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"format": 1, "model": Payload(witness)}, protocol=2))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
    else:
        torch.save({"format": 1, "model": {}, "config": Payload(witness)}, path)
    for load in (load_checkpoint, load_run, lambda p: newest_checkpoint(p.parent)):
        with pytest.raises(DamagedDataError):
            load(path)
    assert not witness.exists()
