"""The format on disk: its bytes, other programs' readers, and reading from many processes and threads."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lmdb
import numpy as np
import pytest
from conftest import draw_image, encode, make_samples, pack_images
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_fast.dataset import (
    MANIFEST,
    ClassInfo,
    DatasetInfo,
    ShardReader,
    ShardWriter,
    SplitInfo,
    read_dataset_info,
    shard_name,
    write_dataset_info,
)
from alexnet_fast.dataset.datum import datum_frame, decode_datum, encode_datum
from alexnet_fast.dataset.index import index_dtype
from alexnet_fast.dataset.lmdb_pages import value_places
from alexnet_fast.dataset.writer import describe_shard
from alexnet_fast.errors import DamagedDataError, StorageError, UsageError
from alexnet_fast.system import file_sha256, write_file_atomically

INT32 = st.integers(-(2**31), 2**31 - 1)


def write_shard(
    folder: Path, images: list[bytes], *, labels: list[int] | None = None, name: str = "train-00000-of-00001"
):
    with ShardWriter(folder, name) as writer:
        for number, image in enumerate(images):
            writer.add(image, label=labels[number] if labels else 0, width=3, height=2, key=f"key {number}")
        return writer.finish()


def write_dataset(folder: Path, shards, *, classes: int = 1, labelled: bool = True) -> Path:
    split = SplitInfo(
        records=sum(s.records for s in shards),
        bytes=sum(s.bytes for s in shards),
        labelled=labelled,
        shards=tuple(shards),
    )
    names = tuple(ClassInfo(index=i, wnid=f"n{i}", name=f"class {i}") for i in range(classes))
    write_dataset_info(folder, DatasetInfo(classes=names, splits={"train": split}))
    return folder


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


# ---- the codec


def test_golden_records():
    assert encode_datum(b"\xff\xd8jpeg\xff\xd9", 7).hex() == "2208ffd86a706567ffd928073801"
    assert encode_datum(b"", 0).hex() == "220028003801"
    assert encode_datum(b"x", 128).hex() == "2201782880013801"
    assert encode_datum(b"x", -1).hex() == "22017828ffffffffffffffffff013801"
    assert encode_datum(b"y" * 300, 999).hex() == "22ac02" + "79" * 300 + "28e7073801"


@given(st.binary(max_size=400), INT32)
def test_records_come_back(data, label):
    record = encode_datum(data, label)
    found, found_label = decode_datum(record)
    assert (bytes(found), found_label) == (data, label)
    head, tail = datum_frame(len(data), label)
    assert head + data + tail == record


@pytest.fixture(scope="module")
def protobuf_datum():
    """Caffe's message, as protobuf itself builds it from a description."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="datum.proto", package="caffe", syntax="proto2")
    message = file.message_type.add(name="Datum")
    for name, number, kind, label in (
        ("channels", 1, field.TYPE_INT32, field.LABEL_OPTIONAL), ("height", 2, field.TYPE_INT32, field.LABEL_OPTIONAL),
        ("width", 3, field.TYPE_INT32, field.LABEL_OPTIONAL), ("data", 4, field.TYPE_BYTES, field.LABEL_OPTIONAL),
        ("label", 5, field.TYPE_INT32, field.LABEL_OPTIONAL), ("float_data", 6, field.TYPE_FLOAT, field.LABEL_REPEATED),
        ("encoded", 7, field.TYPE_BOOL, field.LABEL_OPTIONAL),
    ):  # fmt: skip
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.Datum"))


@given(data=st.binary(max_size=300), label=INT32)
def test_protobuf_writes_the_same_bytes(protobuf_datum, data, label):
    assert protobuf_datum(data=data, label=label, encoded=True).SerializeToString() == encode_datum(data, label)


@given(data=st.binary(max_size=50), label=INT32, size=st.integers(0, 2**31 - 1), floats=st.lists(st.floats(width=32)))
def test_records_that_caffe_wrote_are_read(protobuf_datum, data, label, size, floats):
    datum = protobuf_datum(channels=3, height=size, width=size, data=data, label=label, float_data=floats)
    found, found_label = decode_datum(datum.SerializeToString())
    assert (bytes(found), found_label) == (data, label)


@given(st.binary(max_size=60))
@settings(max_examples=400)
def test_any_bytes_are_a_record_or_refused(content):
    try:
        data, label = decode_datum(content)
    except DamagedDataError:
        return
    assert bytes(data) in content
    assert -(2**31) <= label < 2**31


@pytest.mark.parametrize(
    "content", [b"", b"\x28\x01", b"\x22\x05abc", b"\x22" + b"\xff" * 11, b"\x23\x00", b"\x22\xff"]
)
def test_what_is_no_record(content):
    with pytest.raises(DamagedDataError, match="not a Datum message"):
        decode_datum(content)


# ---- golden files


def test_golden_index_row(tmp_path):
    info = write_shard(tmp_path, [b"ab", b"cde"], labels=[0, -1])
    index = np.load(tmp_path / info.index_path)
    assert index.dtype == np.dtype(
        [("crc32", "<u4"), ("length", "<u4"), ("width", "<u4"), ("height", "<u4"), ("label", "<i4"), ("offset", "<u8"),
         ("key", "S5")]
    )  # fmt: skip
    first, second = (index[i].tobytes() for i in range(2))
    content = (tmp_path / info.path / "data.mdb").read_bytes()
    at = [content.index(b"\x22\x02ab") + 2, content.index(b"\x22\x03cde") + 2]
    assert first.hex() == "6d48839e02000000030000000200000000000000" + at[0].to_bytes(8, "little").hex() + (
        b"key 0".hex()
    )
    assert second[:20].hex() == zlib.crc32(b"cde").to_bytes(4, "little").hex() + "030000000300000002000000ffffffff"
    assert second[20:] == at[1].to_bytes(8, "little") + b"key 1"


def test_golden_entries(tmp_path):
    """Every entry of the database is a record, in order, under its position; nothing else lies in the folder."""
    info = write_shard(tmp_path, [b"ab", b"", b"z" * 5000], labels=[3, 300, -1])
    with lmdb.open(str(tmp_path / info.path), readonly=True, lock=False) as env, env.begin() as transaction:
        entries = list(transaction.cursor())
    assert entries == [
        (b"00000000", b"\x22\x02ab\x28\x03\x38\x01"),
        (b"00000001", b"\x22\x00\x28\xac\x02\x38\x01"),
        (b"00000002", b"\x22\x88\x27" + b"z" * 5000 + b"\x28" + b"\xff" * 9 + b"\x01\x38\x01"),
    ]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "train-00000-of-00001.index.npy", "train-00000-of-00001.lmdb", "train-00000-of-00001.lmdb/data.mdb",
    ]  # fmt: skip
    assert info.records == 3
    assert info.bytes == 5002
    assert info.data_bytes == (tmp_path / info.path / "data.mdb").stat().st_size
    assert info.data_sha256 == file_sha256(tmp_path / info.path / "data.mdb")
    assert describe_shard(tmp_path, "train-00000-of-00001") == info
    assert describe_shard(tmp_path, "train-00001-of-00002") is None


def test_golden_manifest(tmp_path):
    info = DatasetInfo(classes=(ClassInfo(index=0, wnid="n01", name="鱼"),), splits={}, packing={"seed": 0})
    assert info.to_json() == textwrap.dedent(
        """\
        {
          "checksum": "8a8b0d891e6c2784add1bece69934f524f02af50d1926391f2d48e178bbf338b",
          "classes": [
            {
              "index": 0,
              "name": "鱼",
              "wnid": "n01"
            }
          ],
          "format": 1,
          "packing": {
            "seed": 0
          },
          "splits": {}
        }
        """
    )
    write_dataset_info(tmp_path, info)
    assert read_dataset_info(tmp_path) == info


# ---- other programs


def test_dali_reads_our_shards(tmp_path):
    """DALI's own Caffe reader, on the CPU: every byte and every label, of small and large records."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    random = np.random.default_rng(0)
    images = [encode(draw_image(i, i, (8 + 40 * (i % 5), 8))) + random.bytes(i * 37 % 3000) for i in range(40)]
    labels = [[0, 1, 127, 128, 255, 999, 20000, -1][i % 8] for i in range(40)]
    infos = [
        write_shard(tmp_path, images[i : i + 20], labels=labels[i : i + 20], name=shard_name("train", i // 20, 2))
        for i in (0, 20)
    ]

    @pipeline_def(batch_size=5, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        data, label = fn.readers.caffe(path=[str(tmp_path / info.path) for info in infos], name="reader")
        return data, label

    reading = pipeline()
    reading.build()
    assert reading.epoch_size("reader") == 40
    seen = []
    for _ in range(8):
        data, label = reading.run()
        seen += [(bytes(np.array(data[i])), int(np.array(label[i]).item())) for i in range(5)]
    assert seen == list(zip(images, labels, strict=True))


@given(st.lists(st.sampled_from([0, 1, 30, 1990, 2010, 2030, 2040, 4060, 4096, 9000]), max_size=120), st.booleans())
@settings(max_examples=25, deadline=None)
def test_places_are_those_that_liblmdb_finds(tmp_path_factory, sizes, other_first):
    """Small values lie in leaf pages, large ones in pages of their own; both at the offsets that the walk gives."""
    folder = tmp_path_factory.mktemp("places")
    images = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    info = write_shard(folder, images)
    path = folder / info.path / "data.mdb"
    offsets, lengths = value_places(path)
    content = path.read_bytes()
    with lmdb.open(str(folder / info.path), readonly=True, lock=False) as env, env.begin() as transaction:
        entries = list(transaction.cursor())
    assert [content[o : o + n] for o, n in zip(offsets, lengths, strict=True)] == [value for _, value in entries]


def test_a_tree_of_three_levels(tmp_path):
    images = [number.to_bytes(4, "big") * 100 for number in range(20_000)]
    info = write_shard(tmp_path, images)
    reader = ShardReader(write_dataset(tmp_path, [info]), "train")
    with lmdb.open(str(tmp_path / info.path), readonly=True, lock=False) as env:
        assert env.stat()["depth"] == 3
    assert reader.read_many(range(20_000)) == images
    reader.close()


# ---- writing


def test_the_map_grows(tmp_path):
    """Far more than the map holds at first, in one commit and over several: nothing is lost or doubled."""
    random = np.random.default_rng(1)
    images = [random.bytes(400_000) for _ in range(120)]  # 48 MB in a map that begins at 16 MiB
    reader = ShardReader(write_dataset(tmp_path, [write_shard(tmp_path, images)]), "train")
    assert reader.read_many(range(120)) == images
    assert (tmp_path / "train-00000-of-00001.lmdb/data.mdb").stat().st_size < 1.02 * sum(map(len, images))
    reader.close()


def test_nothing_is_there_before_it_is_finished(tmp_path):
    with ShardWriter(tmp_path, "train-00000-of-00001") as writer:
        writer.add(b"x", label=0, width=1, height=1, key="k")
        assert [p.name for p in tmp_path.iterdir()] == [".train-00000-of-00001.partial"]
        assert describe_shard(tmp_path, "train-00000-of-00001") is None
    assert list(tmp_path.iterdir()) == []  # left without finish: as if it had not been


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path, "train-00000-of-00001") as writer:
        writer.add(b"x", label=0, width=1, height=1, key="k")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writers_leftover_is_replaced(tmp_path):
    script = """
        import os, sys, pathlib
        from alexnet_fast.dataset import ShardWriter
        writer = ShardWriter(pathlib.Path(sys.argv[1]), "train-00000-of-00001")
        for i in range(1000):
            writer.add(os.urandom(40_000), label=0, width=1, height=1, key="k")
        os.kill(os.getpid(), 9)
    """
    assert run_python(script, tmp_path).returncode == -9
    assert [p.name for p in tmp_path.iterdir()] == [".train-00000-of-00001.partial"]
    info = write_shard(tmp_path, [b"new"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [info.index_path, info.path]
    assert ShardReader(write_dataset(tmp_path, [info]), "train").read(0) == b"new"


def test_a_shard_of_that_name_is_replaced_whole(tmp_path):
    old = ShardReader(write_dataset(tmp_path, [write_shard(tmp_path, [b"old", b"old too"])]), "train")
    assert old.read(0) == b"old"
    new = ShardReader(write_dataset(tmp_path, [write_shard(tmp_path, [b"new"])]), "train")
    assert new.read(0) == b"new"
    assert old.read(1) == b"old too"  # the file it opened, though it has lost its name
    old.close()
    new.close()


def test_keys_may_be_any_bytes(tmp_path):
    names = ["猫/图 1.jpg", "a b.jpg", "é" * 60, b"\xff\xfe.jpg", "bad\udcff.jpg"]
    with ShardWriter(tmp_path, "train-00000-of-00001") as writer:
        for name in names:
            writer.add(b"x", label=0, width=1, height=1, key=name)
        info = writer.finish()
    reader = ShardReader(write_dataset(tmp_path, [info]), "train")
    assert [reader.key(i) for i in range(3)] == names[:3]
    assert bytes(reader.index["key"][3]) == b"\xff\xfe.jpg"
    assert bytes(reader.index["key"][4]) == b"bad\xff.jpg"
    reader.close()


def test_an_empty_shard_and_an_empty_split(tmp_path):
    reader = ShardReader(write_dataset(tmp_path, [write_shard(tmp_path, [])]), "train")
    assert len(reader) == 0
    assert reader.read_many([]) == []
    with pytest.raises(IndexError, match="records 0 to 0 of 0"):
        reader.read(0)
    assert len(ShardReader(write_dataset(tmp_path, []), "train").index) == 0


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "-x", "a b", "ä"])
def test_split_names_are_safe_file_names(name):
    with pytest.raises(UsageError, match="a split's name may hold"):
        shard_name(name, 0, 1)


def test_a_file_is_replaced_at_once_or_not(tmp_path):
    path = tmp_path / "x.json"
    write_file_atomically(path, b"one")
    write_file_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(StorageError, match="check the path"):
        write_file_atomically(tmp_path / "none" / "x.json", b"three")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# ---- reading


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A split of 7 shards of different lengths, one of them empty, and its samples."""
    folder = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(2)
    samples = [(random.bytes(int(random.integers(1, 9000))), i % 5) for i in range(200)]
    cuts = [0, 1, 40, 40, 90, 150, 151, 200]
    infos = [
        write_shard(
            folder,
            [data for data, _ in samples[a:b]],
            labels=[label for _, label in samples[a:b]],
            name=shard_name("train", i, 7),
        )
        for i, (a, b) in enumerate(pairwise(cuts))
    ]
    return write_dataset(folder, infos, classes=5), samples


def test_every_record_in_any_order(many):
    dataset, samples = many
    reader = ShardReader(dataset, "train")
    assert len(reader) == 200
    assert reader.labels.tolist() == [label for _, label in samples]
    assert [reader.read(i) for i in range(200)] == [data for data, _ in samples]
    order = np.random.default_rng(3).permutation(200)
    assert reader.read_many(order) == [samples[i][0] for i in order]
    assert reader.read_many([5, 5, 199]) == [samples[5][0], samples[5][0], samples[199][0]]
    assert reader.index["length"].tolist() == [len(data) for data, _ in samples]
    assert reader.locate(0) == ("train-00000-of-00007.lmdb", 0)
    assert reader.locate(40) == ("train-00003-of-00007.lmdb", 0)
    assert reader.locate(199) == ("train-00006-of-00007.lmdb", 48)
    assert reader.describe(41) == "record 1 of train-00003-of-00007.lmdb (key 'key 1')"
    for wrong in (-1, 200):
        with pytest.raises(IndexError):
            reader.read(wrong)
        with pytest.raises(IndexError):
            reader.read_many([0, wrong])
        with pytest.raises(IndexError):
            reader.locate(wrong)
    reader.close()
    assert reader.read(7) == samples[7][0]
    reader.close()


def test_pickled_and_small(many):
    dataset, samples = many
    reader = ShardReader(dataset, "train")
    assert len(reader.index) == 200
    reader.read(3)
    frozen = pickle.dumps(reader)
    assert len(frozen) < 200 * 24 + 5000  # places and labels, no keys and no files
    thawed = pickle.loads(frozen)
    assert thawed.read_many(range(200)) == [data for data, _ in samples]
    assert thawed.key(2) == reader.key(2)
    reader.close()


def _read_all(reader, results):
    order = np.random.default_rng(os.getpid()).permutation(len(reader))
    results.put([zlib.crc32(data) for data in np.array(reader.read_many(order), dtype=object)[np.argsort(order)]])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes(many, method):
    """Opened before the fork and read at once in parent and children: nobody disturbs another's place in a file."""
    dataset, samples = many
    reader = ShardReader(dataset, "train")
    expected = [zlib.crc32(data) for data, _ in samples]
    reader.read_many(range(200))
    context = multiprocessing.get_context(method)
    results = context.Queue()
    children = [context.Process(target=_read_all, args=(reader, results)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(20):
        assert [zlib.crc32(data) for data in reader.read_many(range(200))] == expected
    for _ in children:
        assert results.get(timeout=60) == expected
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    reader.close()


def test_threads_while_others_close(many):
    dataset, samples = many
    reader = ShardReader(dataset, "train")
    wrong = []
    end = threading.Event()

    def read(seed):
        random = np.random.default_rng(seed)
        for _ in range(150):
            order = random.integers(0, 200, 32)
            if reader.read_many(order) != [samples[i][0] for i in order]:
                wrong.append(seed)

    def close():
        while not end.is_set():
            reader.close()
            gc.collect(0)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    closer = threading.Thread(target=close)
    for thread in [*threads, closer]:
        thread.start()
    for thread in threads:
        thread.join()
    end.set()
    closer.join()
    assert wrong == []
    reader.close()


def test_a_thousand_shards_and_few_file_descriptors(tmp_path):
    """1,000 shards read in random order where a process may have 64 files open, and all given back at the end."""
    one = write_shard(tmp_path, [b"0" * 50, b"1" * 50])
    infos = []
    for number in range(1000):
        name = shard_name("train", number, 1000)
        (tmp_path / f"{name}.lmdb").mkdir()
        os.link(tmp_path / one.path / "data.mdb", tmp_path / f"{name}.lmdb/data.mdb")
        os.link(tmp_path / one.index_path, tmp_path / f"{name}.index.npy")
        infos.append(replace(one, path=f"{name}.lmdb"))
    write_dataset(tmp_path, infos)
    script = """
        import os, resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        import numpy as np
        from alexnet_fast.dataset import ShardReader
        before = len(os.listdir("/proc/self/fd"))
        reader = ShardReader(sys.argv[1], "train")
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(2000)
            assert reader.read_many(order) == [b"%d" % (i % 2) * 50 for i in order]
        most = len(os.listdir("/proc/self/fd")) - before
        reader.close()
        print(most, len(os.listdir("/proc/self/fd")) - before)
    """
    done = run_python(script, tmp_path)
    assert done.stderr == ""
    assert done.stdout.split() == ["32", "0"]


def test_reading_needs_no_lmdb_environment(many):
    """py-lmdb refuses a second open in one process: whoever has a shard open must not disturb us, nor we them."""
    dataset, samples = many
    reader = ShardReader(dataset, "train")
    path = reader.split_info.shards[1].path
    with lmdb.open(str(dataset / path), readonly=True, lock=False) as env, env.begin() as transaction:
        assert transaction.get(b"00000000") is not None
        assert reader.read(1) == samples[1][0]
        reader.close()
        assert transaction.get(b"00000001") is not None


# ---- what is refused


def test_no_data_set(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="is not a packed data set"):
            ShardReader(path, "train")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is not a packed data set"):
        ShardReader(tmp_path / "file", "train")


def test_a_split_that_is_not_there(many):
    with pytest.raises(UsageError, match="no split 'val'; it has: train"):
        ShardReader(many[0], "val")


def _changed(path: Path, change) -> None:
    """Change dataset.json and give it a right checksum again, as somebody hostile would."""
    from alexnet_fast.dataset.manifest import _checksum

    content = json.loads(path.read_text())
    change(content)
    content["checksum"] = _checksum(content)
    path.write_text(json.dumps(content))


def _set(path: str, value):
    def change(content):
        *parents, last = path.split("/")
        for key in parents:
            content = content[int(key) if isinstance(content, list) else key]
        content[int(last) if isinstance(content, list) else last] = value

    return change


HOSTILE = [
    ("splits/train/shards/0/path", "../../etc-00000-of-00001.lmdb"),
    ("splits/train/shards/0/path", "/etc/x-00000-of-00001.lmdb"),
    ("splits/train/shards/0/path", "a/../x-00000-of-00001.lmdb"),
    ("splits/train/shards/0/path", "x-00000-of-00001.lmdb\n"),
    ("splits/train/shards/0/path", 7),
    ("splits/train/shards/0/path", None),
    ("splits/train/shards/0/records", -1),
    ("splits/train/shards/0/records", 2**80),
    ("splits/train/shards/0/records", 1e300),
    ("splits/train/shards/0/records", True),
    ("splits/train/shards/0/records", "2"),
    ("splits/train/shards/0/data_bytes", -4096),
    ("splits/train/records", 10**18),
    ("splits/train/bytes", -5),
    ("splits/train/shards", {}),
    ("splits/train/shards", None),
    ("splits/train", []),
    ("splits", []),
    ("splits", {"../../x": {}}),
    ("classes/0/index", 1),
    ("classes/0/index", -1),
    ("classes", None),
    ("classes", {"a": 1}),
    ("classes/0", 3),
    ("packing", None),
    ("packing", 5),
    ("format", "1"),
    ("format", None),
    ("format", True),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE)
def test_a_hostile_manifest_is_refused(tmp_path, path, value):
    write_dataset(tmp_path, [write_shard(tmp_path, [b"a", b"b"])])
    _changed(tmp_path / MANIFEST, _set(path, value))
    with pytest.raises(DamagedDataError, match=r"dataset\.json is damaged"):
        ShardReader(tmp_path, "train")


def test_the_same_shard_twice_is_refused(tmp_path):
    info = write_shard(tmp_path, [b"a"])
    with pytest.raises(DamagedDataError, match="lists a shard twice"):
        ShardReader(write_dataset(tmp_path, [info, info]), "train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1' + b"0" * 5000 + b"}",
        b"null",
        b'{"format": 1}',
        b'{"format": 1, "checksum": "\\ud800", "x": "\\ud800"}',
    ],
)
def test_what_is_no_manifest(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"dataset\.json is damaged"):
        read_dataset_info(tmp_path)


def test_another_format_is_named(tmp_path):
    write_dataset(tmp_path, [])
    _changed(tmp_path / MANIFEST, _set("format", 2))
    with pytest.raises(UsageError, match="has format 2 and this version of alexnet-fast reads format 1"):
        read_dataset_info(tmp_path)


def test_names_that_are_not_utf8_survive(tmp_path):
    info = DatasetInfo(classes=(ClassInfo(index=0, wnid="x\udcff", name="猫"),), splits={})
    write_dataset_info(tmp_path, info)
    assert read_dataset_info(tmp_path) == info


def _rewrite_index(folder: Path, change) -> None:
    """Change the first shard's index, with right checksums all the way up."""
    info = read_dataset_info(folder)
    split = info.splits["train"]
    path = folder / split.shards[0].index_path
    index = np.load(path)
    np.save(path, change(index))
    shard = replace(split.shards[0], sha256=file_sha256(path))
    write_dataset_info(folder, replace(info, splits={"train": replace(split, shards=(shard, *split.shards[1:]))}))


def _with(column, value):
    def change(index):
        index[column][-1] = value
        return index

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_with("label", 1), r"labels outside -1\.\.0"),
        (_with("label", -2), r"labels outside -1\.\.0"),
        (_with("label", 2**31 - 1), r"labels outside -1\.\.0"),
        (_with("offset", 2**63), "points outside"),
        (_with("offset", 2**40), "points outside"),
        (_with("length", 2**32 - 1), "points outside"),
        (lambda index: index[:1], "has 1 rows where dataset.json says 2"),
        (lambda index: index["label"], "is damaged"),
        (lambda index: index.reshape(2, 1), "is damaged"),
        (lambda index: index.astype(index_dtype(3).newbyteorder(">")), "is damaged"),
        (lambda index: np.array([{"a": 1}, None], dtype=object), "is damaged"),
    ],
)  # fmt: skip
def test_a_hostile_index_is_refused(tmp_path, change, text):
    write_dataset(tmp_path, [write_shard(tmp_path, [b"a", b"b"])])
    _rewrite_index(tmp_path, change)
    with pytest.raises(DamagedDataError, match=text):
        ShardReader(tmp_path, "train")


@pytest.mark.parametrize("wrong", [_with("offset", 100), _with("length", 5), _with("label", -1)])
def test_an_index_that_lies_about_a_record_is_noticed(tmp_path, wrong):
    write_dataset(tmp_path, [write_shard(tmp_path, [b"a" * 9, b"b" * 9])])
    _rewrite_index(tmp_path, wrong)
    reader = ShardReader(tmp_path, "train")
    assert reader.read(0) == b"a" * 9
    with pytest.raises(DamagedDataError, match=r"record 1 of train-00000-of-00001\.lmdb .* does not match its index"):
        reader.read(1)


def test_missing_cut_and_foreign_files(tmp_path):
    write_dataset(tmp_path, [write_shard(tmp_path, [os.urandom(3000) for _ in range(20)])])
    data, index = (tmp_path / f"train-00000-of-00001.{end}" for end in ("lmdb/data.mdb", "index.npy"))
    content = data.read_bytes()
    reader = ShardReader(tmp_path, "train")
    reader.read(0)
    os.truncate(data, 40_000)  # under an open reader: an error, where mapped memory would end the process
    with pytest.raises(DamagedDataError, match="does not match its index"):
        reader.read_many(range(20))
    reader.close()
    with pytest.raises(DamagedDataError, match=r"data\.mdb has 40000 bytes where dataset\.json says"):
        reader.read(0)
    data.unlink()
    with pytest.raises(DamagedDataError, match=r"data\.mdb is missing"):
        reader.read(0)
    data.write_bytes(os.urandom(len(content)))
    with pytest.raises(DamagedDataError, match="does not match its index"):
        reader.read(0)
    reader.close()
    data.unlink()
    data.mkdir()
    with pytest.raises((StorageError, DamagedDataError)):
        reader.read(0)
    index.unlink()
    with pytest.raises(DamagedDataError, match=r"index\.npy is missing"):
        ShardReader(tmp_path, "train")


def test_a_pickle_in_place_of_an_index_does_not_run(tmp_path):
    info = write_shard(tmp_path, [b"a"])
    path = tmp_path / info.index_path

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    for content in (pickle.dumps(Hostile()),):
        path.write_bytes(content)
        write_dataset(tmp_path, [replace(info, sha256=file_sha256(path))])
        with pytest.raises(DamagedDataError, match="is damaged"):
            ShardReader(tmp_path, "train")
    np.save(path, np.array([Hostile()], dtype=object), allow_pickle=True)
    write_dataset(tmp_path, [replace(info, sha256=file_sha256(path))])
    with pytest.raises(DamagedDataError, match="is damaged"):
        ShardReader(tmp_path, "train")
    assert not (tmp_path / "ran").exists()


def test_shared_fixture_is_sound(tmp_path):
    dataset = pack_images(tmp_path, {"train": make_samples("train", 6, 2)}, num_classes=2)
    assert len(ShardReader(dataset, "train")) == 6
