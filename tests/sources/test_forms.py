"""Archives and tables as people have them: read right, or named for what they are, with what to do."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from source_files import jpeg, look, tar_bytes, tree_files, write_files, write_zip

from alexnet_fast.errors import AlexNetFastError, DamagedDataError, MissingDependencyError, UsageError
from alexnet_fast.packing import pack

BOTH = {"cat": 2, "dog": 2}
ONE = {"cat": 1, "dog": 1}


def samples(count=6, start=0, label="cls", value=lambda c: str(c).encode()):
    """Members of so many samples, of classes 0 and 1 in turn: image, then label."""
    return {
        name: data
        for i in range(start, start + count)
        for name, data in ((f"{i:06d}.jpg", jpeg(i)), (f"{i:06d}.{label}", value(i % 2)))
    }


def npy(value):
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


SIX = {"0": 3, "1": 3}
READ = {
    "plain": samples(),
    "labels first": dict(sorted(samples().items(), key=lambda item: item[0].endswith("jpg"))),
    "labels far behind": {**{k: v for k, v in samples(40).items() if k.endswith("jpg")}, **samples(40)},
    "json 1.0": samples(label="json", value=lambda c: json.dumps({"label": float(c)}).encode()),
    "json [1]": samples(label="json", value=lambda c: json.dumps({"label": [c]}).encode()),
    "json number": samples(label="json", value=lambda c: json.dumps(c).encode()),
    "cls 1.0": samples(value=lambda c: f"{c}.0\n".encode()),
    "cls as npy": samples(value=lambda c: npy(np.int64(c))),
    "cls.npy": samples(label="cls.npy", value=lambda c: npy(np.array([c]))),
    "byte order mark": samples(value=lambda c: b"\xef\xbb\xbf" + str(c).encode()),
    "depth beside the image": {f"{k}": v for name, data in samples().items() for k, v in (
        [(name, data), (name.replace(".jpg", ".depth.png"), b"x"), (name.replace(".jpg", ".seg.png"), b"x")]
        if name.endswith("jpg") else [(name, data)])},
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_web_dataset_is_read(tmp_path, name):
    files = {"train-0.tar": tar_bytes(READ[name])}
    found, source = look(write_files(tmp_path / "f", files))
    many = len([k for k in READ[name] if k.endswith(".jpg")]) // 2
    assert found == {"train": {"0": many, "1": many}}
    labels = dict(
        zip(source.splits["train"].images["key"].tolist(), source.splits["train"].images["label"].tolist(), strict=True)
    )
    assert labels == {f"{i:06d}.jpg".encode(): i % 2 for i in range(2 * many)}


REFUSED = {
    "two images": ({**samples(), "000001.png": b"x"}, "sample 000001 of train-0.tar has several images or labels"),
    "two stems": ({"a.1.jpg": jpeg(1), "a.1.cls": b"0", "a.2.jpg": jpeg(2), "a.2.cls": b"1"},
                  "sample a of .* its first dot"),
    "two labels": ({"a.jpg": jpeg(1), "a.1.cls": b"0", "a.2.cls": b"1"}, "sample a of .* several images or labels"),
    "json [1, 0]": (samples(label="json", value=lambda c: b'{"label": [0, 1]}'),
                    r"has label: \[0, 1\], which is not one class"),
    "json true": (samples(label="json", value=lambda c: b'{"label": true}'), "has label: true, which is not one class"),
    "json 0.5": (samples(label="json", value=lambda c: b'{"label": 0.5}'), "which is not one class"),
    "pickle": (samples(label="cls.pyd", value=pickle.dumps), "is a pickled label, which is never read"),
    "pickle in cls": (samples(value=pickle.dumps), r"000000.cls in train-0.tar is no text with a label"),
    "one-hot npy": (samples(label="cls.npy", value=lambda c: npy(np.eye(2)[c])), r"has an array of shape \(2,\)"),
    "some without": ({**samples(), "x.jpg": jpeg(9)}, "sample x of train-0.tar has no label"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_web_dataset_is_refused_with_the_reason(tmp_path, name):
    files, text = REFUSED[name]
    with pytest.raises(UsageError, match=text) as caught:
        look(write_files(tmp_path / "f", {"train-0.tar": tar_bytes(files)}))
    assert "\n" not in str(caught.value)


def test_web_dataset_of_captions_has_no_labels_and_says_so(tmp_path):
    files = samples(label="json", value=lambda c: b'{"caption": "a cat", "url": "x"}') | {"000000.txt": b"a cat"}
    found, source = look(write_files(tmp_path / "f", {"00000.tar": tar_bytes(files)}))
    assert found == {"train": {"": 6}}
    assert source.account.notes == [
        "the .json of samples holds no label (label, cls, class, class_id, target, wnid, synset); it has caption, url"
    ]


def test_where_shards_lie(tmp_path):
    four = {"0": 2, "1": 2}
    empty = {
        "train-000000.tar": tar_bytes({}),
        "train-000001.tar": tar_bytes(samples()),
        "val-000000.tar": tar_bytes(samples(4)),
    }
    assert look(write_files(tmp_path / "empty", empty))[0] == {"train": SIX, "val": four}
    clip = {
        "train/0.tar": tar_bytes(samples()),
        "test/0.tar": tar_bytes(samples(4)),
        "classnames.txt": b"tench\ngoldfish\n",
    }
    folder = write_files(tmp_path / "clip", clip)
    assert look(folder)[0] == {"train": {"tench": 3, "goldfish": 3}, "test": {"tench": 2, "goldfish": 2}}
    assert look(folder / "test")[0] == look(folder / "test" / "0.tar")[0] == {"test": {"tench": 2, "goldfish": 2}}
    mixed = write_files(tmp_path / "mixed", {"train-0.tar": tar_bytes(samples()), "extra-0.tar": tar_bytes(samples(4))})
    with pytest.raises(UsageError, match=r"extra-0.tar names no split.*--split NAME=extra-0.tar"):
        look(mixed)
    assert look(mixed, splits=["train=train-0.tar", "val=extra-0.tar"])[0] == {"train": SIX, "val": four}
    with pytest.raises(UsageError, match=r"shards lie in several folders \(large, small ...\)"):
        look(
            write_files(
                tmp_path / "two", {"small/train-0.tar": tar_bytes(samples()), "large/train-0.tar": tar_bytes(samples())}
            )
        )


# ---------------------------------------------------------------------------------------------------------------------
# Parquet


def write_parquet(path, labels, kind=None, *, names=None, column="label", extra=None, features=None, start=0):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": jpeg(start + i), "path": None} for i in range(len(labels))]
    columns = {
        **(extra or {}),
        column: pa.array(labels, kind),
        "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    }
    table = pa.table(columns)
    if names:
        features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}, **(features or {})}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_parquet_as_the_hub_lays_it(tmp_path):
    names = ["n01443537", "n01440764"]
    for place in ("hub/default/train/0000", "hub/default/partial-test/0000", "hub/default/validation/0000",
                  "dirs/full/train-00000-of-1",
                  "dirs/full/validation-00000-of-1"):  # fmt: skip
        write_parquet(tmp_path / f"{place}.parquet", [0, 1, 1], names=names)
    write_files(tmp_path / "hub", {"README.md": b"x", "preview.png": jpeg(1)})
    one = {"n01440764": 2, "n01443537": 1}
    found, source = look(tmp_path / "hub")
    assert found == {"train": one, "val": one, "test": one}
    assert (source.account.files, source.account.packed) == (11, 9)
    assert look(tmp_path / "dirs")[0] == {"train": one, "val": one}
    assert (
        look(tmp_path / "hub/default/validation")[0]
        == look(tmp_path / "hub/default/validation/0000.parquet")[0]
        == {"val": one}
    )
    write_parquet(tmp_path / "hub/other/train/0000.parquet", [0, 1, 1], names=names)
    with pytest.raises(UsageError, match=r"parquet files lie in several folders \(default, other ...\)"):
        look(tmp_path / "hub")


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (["dog", "cat", "dog"], "string", ["cat", "dog"]), ([1.0, 0.0, 1.0], "float64", ["0", "1"]),
        ([1, 0, 1], "uint8", ["0", "1"]), (["dog", "cat", "dog"], "dictionary", ["cat", "dog"]),
        ([[1], [0], [1]], "list", ["0", "1"]),
    ],
)  # fmt: skip
def test_kinds_of_labels_in_parquet(tmp_path, labels, kind, classes):
    pa = pytest.importorskip("pyarrow")
    types = {"dictionary": pa.dictionary(pa.int32(), pa.string()), "list": pa.list_(pa.int64())}
    path = write_parquet(tmp_path / "f" / "train.parquet", labels, types.get(kind) or getattr(pa, kind)())
    _found, source = look(path)
    assert [wnid for wnid, _ in source.classes] == classes
    images = source.splits["train"].images
    by_key = dict(zip(images["key"].tolist(), images["label"].tolist(), strict=True))
    assert [by_key[f"{classes[label]}/train-{i:08d}".encode()] for i, label in enumerate((1, 0, 1))] == [1, 0, 1]


def test_columns_of_labels_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match=r"no column that is called label, .*; it has label_idx, image: call the one"):
        look(write_parquet(tmp_path / "a" / "train.parquet", [0, 1], column="label_idx"))
    coarse = {"coarse_label": pa.array([4, 5])}
    path = write_parquet(tmp_path / "b" / "train.parquet", [0, 1], column="fine_label", extra=coarse,
                         names=["apple", "bee"],
                         features={"coarse_label": {"names": list("abcdef"), "_type": "ClassLabel"}})  # fmt: skip
    found, source = look(path)
    assert found == {"train": {"apple": 1, "bee": 1}}
    assert source.account.notes == ["labels are from column fine_label (there is coarse_label as well)"]
    path = write_parquet(tmp_path / "c" / "train.parquet", ["a", "b"], column="caption")
    found, source = look(path)
    assert found == {"train": {"": 2}}
    assert source.account.notes == ["no labels: the columns beside image are caption"]
    for labels, text in (([0.5, 1.0], "row 0 of .* has label '0.5', which is not one class"),
                         ([True, False], "has label 'True'"),
                         ([[0, 1], [1]], r"has label '\[0, 1\]'")):  # fmt: skip
        with pytest.raises(UsageError, match=text):
            look(write_parquet(tmp_path / "d" / "train.parquet", labels))


# ---------------------------------------------------------------------------------------------------------------------
# Tars and zips


def test_tars_joined_by_cat(tmp_path):
    first, second = tar_bytes(tree_files(splits={"train": 2})), tar_bytes(tree_files(splits={"val": 1}))
    for name, content in (
        ("joined", first + second),
        ("zeros", first + bytes(1 << 21) + second),
        ("one", first.rstrip(b"\0")),
    ):
        (tmp_path / f"{name}.tar").write_bytes(content + bytes(-len(content) % 512))
    for name in ("joined", "zeros"):
        found, source = look(tmp_path / f"{name}.tar")
        assert found == {"train": BOTH, "val": ONE}
        assert source.account.notes == []
    with pytest.raises(DamagedDataError, match="cut short"):
        look(tmp_path / "one.tar")
    (tmp_path / "rest.tar").write_bytes(first + b"not a tar" * 100)
    found, source = look(tmp_path / "rest.tar")
    assert found == {"train": BOTH}
    assert source.account.notes == ["900 bytes behind the end of rest.tar are no tar: they were not read"]
    (tmp_path / "short.tar").write_bytes(first + second[:3000])
    with pytest.raises(DamagedDataError, match="cut short"):
        look(tmp_path / "short.tar")


def as_v7(content):
    """A tar without the magic that later ones have."""
    out = bytearray(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        places = [member.offset for member in archive]
    for at in places:
        out[at + 257 : at + 500] = bytes(243)
        out[at + 148 : at + 156] = b" " * 8
        out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


@pytest.mark.parametrize("packed", [False, True])
def test_v7_tars(tmp_path, packed):
    content = as_v7(tar_bytes(tree_files()))
    path = tmp_path / ("f.tar.gz" if packed else "old")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert look(path)[0] == {"train": BOTH, "val": ONE}


def test_backslashes_in_zips(tmp_path):
    path = write_zip(tmp_path / "f.zip", {n.replace("/", "|"): d for n, d in tree_files().items()})
    path.write_bytes(path.read_bytes().replace(b"|", b"\\"))
    assert look(path)[0] == {"train": BOTH, "val": ONE}
    path.write_bytes(path.read_bytes().replace(b"train\\cat", b"train\\..\\"))
    with pytest.raises(DamagedDataError, match="unsafe name"):
        look(path)


def test_archives_in_archives(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", tree_files()).read_bytes()
    with pytest.raises(
        UsageError, match=r"f.zip holds no images, but an archive: give data/inner.zip in it as SOURCE, or unpack it"
    ):
        look(write_zip(tmp_path / "f.zip", {"data/inner.zip": inner}))
    found, source = look(write_zip(tmp_path / "g.zip", {**tree_files(), "more.zip": inner}))
    assert found == {"train": BOTH, "val": ONE}
    assert [str(e) for e in source.account.left_out] == ["1 archive inside, to be unpacked first (more.zip)"]
    folder = write_files(
        tmp_path / "two",
        {f"{split}.zip": write_zip(tmp_path / "x", {"cat/1.jpg": jpeg(1)}).read_bytes() for split in ("train", "test")},
    )
    assert look(folder)[0] == {"train": {"cat": 1}, "test": {"cat": 1}}


FILES = {
    "a.tar.zst": (b"\x28\xb5\x2f\xfd" + bytes(99), "compressed with Zstandard.*unzstd"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7-Zip archive.*7z x"),
    "a.rar": (b"Rar!\x1a\x07\x01\0" + bytes(99), "RAR archive.*unrar x"),
    "a.beton": (b"\2\0\2\0" + bytes(99), "FFCV"),
    "shard.00000.mds": (bytes(99), "MosaicML's MDS"),
    "data.arrow": (b"ARROW1\0\0" + bytes(99), "Arrow files?: write it as parquet"),
    "train-00000-of-01024": ((100).to_bytes(8, "little") + b"abcd" + b"\x0a" + bytes(200), "TFRecords.*WebDataset"),
    "x.npz": (None, "NumPy archive"),
    "x.npy": (npy(np.zeros((2, 3))), "NumPy array of pixels"),
    "x.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "data_batch_1": (pickle.dumps({"data": np.zeros(9)}), "a pickle, which is never read"),
    "tiny.zip": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                 "Git LFS pointer.*git lfs pull"),
    "train.tar": (b"<!DOCTYPE html>\n<html>sign in</html>", "web page.*download the file itself again"),
    "val.tar.gz": (b'{"error": "no"}', "JSON text.*download"),
    "empty.zip": (b"", r"empty \(0 bytes\)"),
    "one.jpg": (jpeg(1), "a single image: give the folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_source_is_named(tmp_path, name):
    content, text = FILES[name]
    if content is None:
        np.savez(tmp_path / name, a=np.zeros(3))
    else:
        (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, *([tmp_path] if name != "one.jpg" else [])):
        with pytest.raises(UsageError, match=text) as caught:
            look(source)
        assert name in str(caught.value) or source == tmp_path
        assert "\n" not in str(caught.value)


def test_folders_that_are_no_source_are_named(tmp_path):
    images = write_files(tmp_path / "images", tree_files())
    pack(images, tmp_path / "packed", workers=0)
    write_files(tmp_path / "run", {"config.json": b"{}", "metrics.jsonl": b"", "last.pt": b"x"})
    write_files(tmp_path / "mds", {"index.json": b'{"shards": [], "version": 2}', "shard.00000.mds": bytes(9)})
    write_files(tmp_path / "lit", {"index.json": b'{"chunks": []}', "chunk-0-0.bin": bytes(9)})
    write_files(tmp_path / "arrow", {"train/data-00000-of-00001.arrow": b"x", "dataset_dict.json": b"{}"})
    write_files(tmp_path / "lmdb", {"data.mdb": bytes(99), "lock.mdb": b""})
    for name, text in (("packed", "a data set that is packed already"), ("run", "a run folder"),
                       ("mds", "MosaicML's MDS"),
                       ("lit", "LitData's"), ("arrow", "Arrow files"), ("lmdb", "an LMDB database")):  # fmt: skip
        with pytest.raises(UsageError, match=text):
            look(tmp_path / name)


def test_images_that_are_lfs_pointers(tmp_path):
    files = {
        f"train/cat/{i}.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n" for i in range(3)
    }
    with pytest.raises(DamagedDataError, match=r"cat/\d.jpg .* cannot be packed: it is a Git LFS pointer"):
        pack(write_files(tmp_path / "f", files), tmp_path / "out", workers=0)


def test_parquet_needs_its_package_and_a_whole_file(tmp_path):
    write_files(tmp_path / "f", {"train.parquet": b"version https://git-lfs.github.com/spec/v1\n"})
    with pytest.raises((UsageError, MissingDependencyError), match=r"Git LFS pointer|pip install"):
        look(tmp_path / "f")
    assert issubclass(MissingDependencyError, AlexNetFastError)
    assert zipfile  # the layouts above are made with it
