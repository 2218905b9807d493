"""Every form that ImageNet is held in gives the same images, labels and keys, or an error that names the fault."""

import functools
import gzip
import http.server
import io
import json
import os
import struct
import tarfile
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest
from source_files import jpeg, records, tar_bytes, tiny_files, write_files, write_zip

from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.packing import pack
from alexnet_fast.sources import open_source

WNIDS = ["n01440764", "n01443537", "n02391049"]
WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "zebra"]
TRAIN = {f"{wnid}/{wnid}_{i}.JPEG": jpeg(10 * c + i) for c, wnid in enumerate(WNIDS) for i in range(3)}
VAL_WNIDS = ["n02391049", "n01440764", "n01443537", "n01440764"]
VAL = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(500 + i) for i in range(1, 5)}
EXPECTED = {
    "train": sorted((key, WNIDS.index(key[:9]), data) for key, data in TRAIN.items()),
    "val": sorted((f"{w}/{k}", WNIDS.index(w), d) for w, (k, d) in zip(VAL_WNIDS, VAL.items(), strict=True)),
}


def train_tar():
    return tar_bytes(
        {f"{w}.tar": tar_bytes({k.split("/")[1]: d for k, d in TRAIN.items() if k.startswith(w)}) for w in WNIDS}
    )


def devkit():
    scipy_io = pytest.importorskip("scipy.io")
    synsets = np.zeros(
        4, dtype=[(n, object) for n in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")]
    )
    order = [2, 0, 1]  # the kit's ids are not in the order of wnids
    for i, c in enumerate(order):
        synsets[i] = (float(i + 1), WNIDS[c], WORDS[c], "a fish or not", 0.0, np.zeros((0, 0)))
    synsets[3] = (4.0, "n00001740", "entity", "", 3.0, np.array([[1.0, 2.0, 3.0]]))
    meta = io.BytesIO()
    scipy_io.savemat(meta, {"synsets": synsets.reshape(-1, 1)}, do_compression=True)
    truth = "".join(f"{order.index(WNIDS.index(w)) + 1}\n" for w in VAL_WNIDS)
    top = "ILSVRC2012_devkit_t12"
    files = {
        f"{top}/readme.txt": b"kit",
        f"{top}/data/meta.mat": meta.getvalue(),
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    return tar_bytes(files, "w:gz")


def val_csv():
    rows = [f"{k[:-5]},{w} 1 2 3 4" for k, w in zip(VAL, VAL_WNIDS, strict=True)]
    return "\n".join(["ImageId,PredictionString", *reversed(rows)]).encode()


def packed(source, out, **options):
    info = pack(source, out, **options)
    return info, {split: sorted(records(out, split)) for split in info.splits}


def names(info):
    return [(c.wnid, c.name) for c in info.classes]


def test_image_net_as_downloaded(tmp_path):
    folder = write_files(
        tmp_path / "imagenet",
        {
            "ILSVRC2012_img_train.tar": train_tar(),
            "ILSVRC2012_img_val.tar": tar_bytes(VAL),
            "ILSVRC2012_devkit_t12.tar.gz": devkit(),
            "ILSVRC2012_img_test_v10102019.tar": tar_bytes({"test/ILSVRC2012_test_00000001.JPEG": jpeg(9)}),
        },
    )
    info, found = packed(folder, tmp_path / "out")
    assert found.pop("test") == [("ILSVRC2012_test_00000001.JPEG", -1, jpeg(9))]
    assert found == EXPECTED
    assert names(info) == list(zip(WNIDS, WORDS, strict=True))
    assert info.packing["source_format"] == "ilsvrc2012"

    _, alone = packed(folder / "ILSVRC2012_img_train.tar", tmp_path / "train")
    assert alone == {"train": EXPECTED["train"]}
    _, alone = packed(folder / "ILSVRC2012_img_val.tar", tmp_path / "val")
    assert alone == {"val": EXPECTED["val"]}

    inner = {f"{w}.tar": tar_bytes({k[10:]: d for k, d in TRAIN.items() if k.startswith(w)}) for w in WNIDS}
    _, unpacked = packed(write_files(tmp_path / "unpacked", inner), tmp_path / "tars")
    assert unpacked == {"train": EXPECTED["train"]}

    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UsageError, match=r"ILSVRC2012_devkit_t12\.tar\.gz"):
        pack(folder, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (folder / "LOC_val_solution.csv").write_bytes(val_csv())
    _, found = packed(folder, tmp_path / "csv", splits=("train", "val"))
    assert found == EXPECTED


@pytest.mark.parametrize("how", ["folder", "zip", "tar"])
def test_kaggle(tmp_path, how):
    base = "ILSVRC/Data/CLS-LOC"
    files = {
        **{f"{base}/train/{k}": d for k, d in TRAIN.items()},
        **{f"{base}/val/{k}": d for k, d in VAL.items()},
        f"{base}/test/ILSVRC2012_test_00000001.JPEG": jpeg(9),
        "ILSVRC/Annotations/CLS-LOC/train/n01440764/n01440764_1.xml": b"<x/>",
        "LOC_synset_mapping.txt": "\n".join(f"{w} {n}" for w, n in zip(WNIDS, WORDS, strict=True)).encode(),
        "LOC_val_solution.csv": val_csv(),
    }
    if how == "folder":
        source = write_files(tmp_path / "kaggle", files)
    elif how == "zip":
        source = write_zip(tmp_path / "kaggle.zip", files)
    else:
        (tmp_path / "kaggle.tar").write_bytes(tar_bytes(files))
        source = tmp_path / "kaggle.tar"
    info, found = packed(source, tmp_path / "out")
    assert found.pop("test") == [("ILSVRC2012_test_00000001.JPEG", -1, jpeg(9))]
    assert found == EXPECTED
    assert info.packing["source_format"] == "kaggle"
    assert names(info) == list(zip(WNIDS, WORDS, strict=True))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_image_folder_in_tars(tmp_path, ending, format):
    long = "a-folder-with-a-long-name-" + "x" * 90
    files = {f"./{long}/train/{k}": d for k, d in TRAIN.items()}
    files |= {f"./{long}/valid/{w}/{k}": d for w, (k, d) in zip(VAL_WNIDS, VAL.items(), strict=True)}
    mode = "w:" + ending.partition(".")[2]
    (tmp_path / f"a.{ending}").write_bytes(tar_bytes(files, mode, format))
    _, found = packed(tmp_path / f"a.{ending}", tmp_path / "out")
    assert found == EXPECTED
    assert not (tmp_path / "out" / ".pack").exists()


def test_image_folder_of_one_split_and_nested_folders(tmp_path):
    files = {**TRAIN, "n02391049/more/deep.jpg": jpeg(77), "n02391049/._x.jpg": b"junk", "notes.txt": b""}
    info, found = packed(write_files(tmp_path / "images", files), tmp_path / "out")
    assert found == {"train": sorted([*EXPECTED["train"], ("n02391049/more/deep.jpg", 2, jpeg(77))])}
    assert info.packing["source_format"] == "imagefolder"
    torchvision = pytest.importorskip("torchvision")
    (tmp_path / "images" / "n02391049" / "._x.jpg").unlink()
    folder = torchvision.datasets.ImageFolder(tmp_path / "images")
    assert folder.classes == [c.wnid for c in info.classes]
    assert sorted(os.path.relpath(p, tmp_path / "images") for p, _ in folder.samples) == [
        k for k, _, _ in found["train"]
    ]


def test_one_class_and_one_split_keep_their_folders(tmp_path):
    one = {k: d for k, d in TRAIN.items() if k.startswith("n01440764")}
    info, found = packed(write_files(tmp_path / "one", {f"train/{k}": d for k, d in one.items()}), tmp_path / "a")
    assert [c.wnid for c in info.classes] == ["n01440764"]
    assert [key for key, _, _ in found["train"]] == sorted(one)
    info, found = packed(write_zip(tmp_path / "val.zip", {f"val/{k}": d for k, d in TRAIN.items()}), tmp_path / "b")
    assert list(found) == ["val"]
    assert found["val"] == EXPECTED["train"]


@pytest.mark.parametrize("labels", ["number", "wnid", "json"])
def test_web_dataset(tmp_path, labels):
    wds = pytest.importorskip("webdataset")
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, samples in EXPECTED.items():
        for part in range(2):
            with wds.TarWriter(str(folder / f"imagenet-{split}-{part:06d}.tar")) as writer:
                for key, label, data in samples[part::2]:
                    value = {"number": label, "wnid": WNIDS[label], "json": {"label": label, "filename": key}}[labels]
                    ending = {"number": "cls", "wnid": "cls", "json": "json"}[labels]
                    content = json.dumps(value).encode() if ending == "json" else str(value).encode()
                    writer.write({"__key__": key.removesuffix(".JPEG"), "jpg": data, ending: content})
    if labels != "wnid":
        (folder / "classes.txt").write_text("\n".join(f"{w} {n}" for w, n in zip(WNIDS, WORDS, strict=True)))
    info, found = packed(folder, tmp_path / "out")
    expected = {s: [(k.replace(".JPEG", ".jpg"), label, d) for k, label, d in v] for s, v in EXPECTED.items()}
    assert found == expected
    assert names(info) == list(zip(WNIDS, WNIDS if labels == "wnid" else WORDS, strict=True))
    _, one = packed(folder / "imagenet-val-000000.tar", tmp_path / "one")
    assert one["val"] == sorted(expected["val"][0::2]) or labels == "wnid"


def test_web_dataset_with_a_label_missing(tmp_path):
    files = {"a.jpg": jpeg(1), "a.cls": b"0", "b.jpg": jpeg(2)}
    (tmp_path / "x.tar").write_bytes(tar_bytes(files))
    with pytest.raises(UsageError, match=r"sample b of .* has no label"):
        pack(tmp_path / "x.tar", tmp_path / "out")


def write_parquet(path, samples, class_names, *, paths=True):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": d, "path": k.split("/")[-1] if paths else None} for k, _, d in samples]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array([label for _, label, _ in samples], pa.int64()),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": class_names, "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)


def test_hugging_face_parquet(tmp_path):
    # Class names in another order than sorted: labels follow the sorted wnids all the same.
    order = [2, 0, 1]
    for split, file in (("train", "train"), ("val", "validation")):
        samples = [(k, order.index(label), d) for k, label, d in EXPECTED[split]]
        for part in range(2):
            path = tmp_path / "hf" / "data" / f"{file}-{part:05d}-of-00002.parquet"
            write_parquet(path, samples[part::2], [WNIDS[c] for c in order])
    info, found = packed(tmp_path / "hf", tmp_path / "out")
    assert found == EXPECTED
    assert names(info) == list(zip(WNIDS, WNIDS, strict=True))
    words = "".join(f"{wnid}\t{name}\n" for wnid, name in zip(WNIDS, WORDS, strict=True))
    write_files(tmp_path / "hf", {"words.txt": words.encode()})
    assert names(pack(tmp_path / "hf", tmp_path / "named", limit=1)) == list(zip(WNIDS, WORDS, strict=True))
    folder = write_files(tmp_path / "tree", {f"{s}/{k}": d for s, v in EXPECTED.items() for k, _, d in v})
    pack(folder, tmp_path / "same")
    for split in ("train", "val"):
        assert records(tmp_path / "out", split) == records(tmp_path / "same", split)


def test_parquet_without_paths_or_wnids(tmp_path):
    samples = EXPECTED["val"]
    write_parquet(tmp_path / "one.parquet", [(k, -1, d) for k, _, d in samples], ["tench", "fish"], paths=False)
    info, found = packed(tmp_path / "one.parquet", tmp_path / "out")
    assert [(label, data) for _, label, data in found["train"]] == [(-1, d) for _, _, d in samples]
    assert not info.splits["train"].labelled
    assert [c.name for c in info.classes] == ["tench", "fish"]


def test_url(tmp_path):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    (tmp_path / "served").mkdir()
    write_zip(tmp_path / "served" / "tiny.zip", tiny_files())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        pack(f"{url}/tiny.zip", tmp_path / "out")
        with pytest.raises(UsageError, match="there is nothing at"):
            pack(f"{url}/none.zip", tmp_path / "none")
        server.shutdown()
    pack(tmp_path / "served" / "tiny.zip", tmp_path / "same")
    for split in ("train", "val", "test"):
        assert records(tmp_path / "out", split) == records(tmp_path / "same", split)
    assert not (tmp_path / "none").exists()


def hostile(name, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for key, data in TRAIN.items():
            good = tarfile.TarInfo(key)
            good.size = len(data)
            archive.addfile(good, io.BytesIO(data))
        if kind == tarfile.REGTYPE:
            member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        hostile("/etc/x.jpg"),
        hostile("a/../../x.jpg"),
        hostile("a\\..\\x.jpg"),
        hostile("a/x.jpg", tarfile.SYMTYPE),
        hostile("a/x.jpg", tarfile.LNKTYPE),
        hostile("a/x.jpg", tarfile.CHRTYPE),
        hostile("a/x.jpg", tarfile.FIFOTYPE),
        tar_bytes({"n01440764.tar": hostile("../x.jpg")}),
    ],
    ids=["absolute", "parent", "backslash", "symlink", "hardlink", "device", "fifo", "nested"],
)
def test_hostile_tars_are_refused(tmp_path, content):
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"bad\.tar holds a"):
        pack(tmp_path / "bad.tar", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar"]


@pytest.mark.parametrize("name", ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "C:/x.jpg"])
def test_hostile_zips_are_refused(tmp_path, name):
    write_zip(tmp_path / "bad.zip", {"a/1.jpg": jpeg(1), name: jpeg(2)})
    with pytest.raises(DamagedDataError, match="unsafe name"):
        pack(tmp_path / "bad.zip", tmp_path / "out")
    link = zipfile.ZipInfo("a/l.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DamagedDataError, match="holds a link"):
        pack(tmp_path / "bad.zip", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


def write_bomb(path, inflated, told=None):
    """A zip of an image and of `inflated` zeros that call themselves one, whose directory says `told` bytes."""
    info = zipfile.ZipInfo("a/big.jpg")
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.jpg", jpeg(1))
        with archive.open(info, "w") as member:
            for _ in range(0, inflated, 1 << 20):
                member.write(bytes(1 << 20))
    content = bytearray(path.read_bytes())
    if told is not None:
        struct.pack_into("<L", content, content.rindex(b"PK\x01\x02") + 24, told)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("mebibytes", "told", "text"),
    [(129, None, "it has 135,266,304 bytes, more than 134,217,728"), (64, 5000, "its checksum in the zip differs")],
    ids=["told", "denied"],
)
def test_a_zip_that_inflates_without_end(tmp_path, mebibytes, told, text):
    bomb = write_bomb(tmp_path / "bomb.zip", mebibytes << 20, told)
    tracemalloc.start()
    try:
        info = pack(bomb, tmp_path / "out", workers=0, on_bad_image="skip")
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert info.splits["train"].records == 1
    assert [(e["key"], e["reason"]) for e in info.packing["left_out"]] == [("a/big.jpg", text)]


def test_a_zip_whose_members_share_their_bytes(tmp_path):
    content = write_zip(tmp_path / "one.zip", {"a/1.jpg": jpeg(1, (300, 200)), "a/2.jpg": jpeg(2)}).read_bytes()
    at = content.index(b"PK\x01\x02")
    entries = content[at : content.index(b"PK\x05\x06")] * 3
    end = struct.pack("<4s4xHHLLH", b"PK\x05\x06", 6, 6, len(entries), at, 0)
    (tmp_path / "six.zip").write_bytes(content[:at] + entries + end)
    with pytest.raises(DamagedDataError, match="more bytes than it has itself"):
        pack(tmp_path / "six.zip", tmp_path / "out")


def test_compressed_tars_that_unpack_without_end(tmp_path):
    (tmp_path / "bomb.tar.gz").write_bytes(
        gzip.compress(tar_bytes({"a/1.jpg": jpeg(1), "a/2.jpg": bytes(80 << 20)}), 1)
    )
    with pytest.raises(DamagedDataError, match="unpacks to more than 200 times its size"):
        pack(tmp_path / "bomb.tar.gz", tmp_path / "out")
    (tmp_path / "zeros.tar.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(UsageError, match="is not a tar of images"):
        pack(tmp_path / "zeros.tar.gz", tmp_path / "out")
    folder = tmp_path / "imagenet"
    write_files(folder, {"ILSVRC2012_img_val.tar": tar_bytes(VAL)})
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(bytes(65 << 20), 1))
    with pytest.raises(DamagedDataError, match="unpacks to more than 64 MiB"):
        pack(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bomb.tar.gz", "imagenet", "zeros.tar.gz"]


def test_parquet_that_unpacks_without_end(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    # Indices into a dictionary of one value: 8 MiB in it, 128 as rows.
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 16, pa.int32()), pa.array([bytes(8 << 20)], pa.binary()))
    table = pa.table({"image": same, "label": [0] * 16})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert (tmp_path / "train.parquet").stat().st_size < 1 << 20
    with pytest.raises(DamagedDataError, match="unpacks to more than 200 times its size"):
        pack(tmp_path / "train.parquet", tmp_path / "out")
    plain = {"use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"image": [bytes(129 << 20)], "label": [0]}), tmp_path / "train.parquet", **plain)
    with pytest.raises(DamagedDataError, match=r"has 135,266,3.. bytes, more than 134,217,728"):
        pack(tmp_path / "train.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_with_a_pipe_or_a_broken_link(tmp_path):
    folder = write_files(tmp_path / "f", {"a/1.jpg": jpeg(1), "a/2.jpg": jpeg(2)})
    os.mkfifo(folder / "a" / "3.jpg")
    with pytest.raises(UsageError, match="is a pipe"):
        open_source(folder)
    (folder / "a" / "3.jpg").unlink()
    (folder / "a" / "4.jpg").symlink_to("nowhere")
    with pytest.raises(UsageError, match="is a link to nothing"):
        open_source(folder)
    (folder / "a" / "4.jpg").unlink()
    (folder / "a" / "loop").symlink_to(folder)
    assert len(open_source(folder).splits["train"].images) >= 2


def test_torn_archives(tmp_path):
    whole = train_tar()
    path = tmp_path / "t.tar"
    for cut in range(1000, len(whole) - 20_000, 997):
        path.write_bytes(whole[:cut])
        with pytest.raises((DamagedDataError, UsageError)):
            open_source(path)
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress(whole)[:-3000])
    with pytest.raises(DamagedDataError, match="cut short"):
        open_source(tmp_path / "t.tar.gz", staging=tmp_path / "staging")
    good = write_zip(tmp_path / "z.zip", TRAIN).read_bytes()
    chance = np.random.default_rng(1)
    for _ in range(300):
        content = bytearray(good)
        for at in chance.integers(0, len(good), 3):
            content[at] = chance.integers(256)
        (tmp_path / "z.zip").write_bytes(content[: chance.integers(len(good) // 2, len(good) + 1)])
        try:
            open_source(tmp_path / "z.zip")
        except (DamagedDataError, UsageError) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"readme.txt": b"x"}, "give the folder or archive they are in"),
        ({"readme.txt": b"x", "tiny.zip": b"PK"}, r"give tiny\.zip in it"),
        ({"train/a/1.jpg": b"x", "val/1.jpg": b"x"}, "split val has images that lie in no class folder"),
        ({"train/a/1.jpg": b"x", "val/b/1.jpg": b"x"}, "has class b, which train has not"),
        ({"train/a/1.jpg": b"x", "train/2.jpg": b"x"}, "images beside them"),
        ({"train/a/1.jpg": b"x", "val/2.jpg": b"x", "val/val_annotations.txt": b"3.jpg a"}, "no label for 2.jpg of"),
        ({"train/a/1.jpg": b"x", "val/2.jpg": b"x", "val/val_annotations.txt": b"3.jpg"}, "line 1 of val_annotations"),
    ],
)
def test_what_is_missing_is_named(tmp_path, files, text):
    with pytest.raises((UsageError, DamagedDataError), match=text):
        open_source(write_files(tmp_path / "f", files))


KAGGLE = "ILSVRC/Data/CLS-LOC"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"ILSVRC2012_img_train.tar": train_tar(), "ILSVRC2012_img_val.tar": tar_bytes(VAL)},
         r"put ILSVRC2012_devkit_t12\.tar\.gz beside the tar, which image-net\.org has"),
        ({f"{KAGGLE}/{n}": d for n, d in {**{f"train/{k}": d for k, d in TRAIN.items()},
                                          **{f"val/{k}": d for k, d in VAL.items()}}.items()},
         r"put LOC_val_solution\.csv, which Kaggle's download holds beside the folder ILSVRC"),
        ({k: d for k, d in tiny_files().items() if "annotations" not in k},
         r"put val_annotations\.txt, which tiny-imagenet-200\.zip holds in the folder val"),
    ],
    ids=["ilsvrc2012", "kaggle", "tiny-imagenet"],
)  # fmt: skip
def test_missing_labels_are_asked_for_by_name_and_only_where_needed(tmp_path, files, text):
    folder = write_files(tmp_path / "f", files)
    with pytest.raises(UsageError, match=text) as caught:
        pack(folder, tmp_path / "out")
    assert str(caught.value).endswith("or pack without it: --split train")
    info = pack(folder, tmp_path / "out", splits=["train"], workers=0)
    assert info.splits["train"].records == len([k for k in files if "train/" in k and ".JPEG" in k] or TRAIN)
    with pytest.raises(UsageError, match=text):
        pack(folder, tmp_path / "val", splits=["val"])


@pytest.mark.parametrize("inside", ["ILSVRC", "ILSVRC/Data", KAGGLE])
def test_kaggle_given_from_further_inside(tmp_path, inside):
    files = {f"{KAGGLE}/train/{k}": d for k, d in TRAIN.items()} | {f"{KAGGLE}/val/{k}": d for k, d in VAL.items()}
    mapping = "\n".join(f"{w} {n}" for w, n in zip(WNIDS, WORDS, strict=True)).encode()
    folder = write_files(
        tmp_path / "k", {**files, "LOC_val_solution.csv": val_csv(), "LOC_synset_mapping.txt": mapping}
    )
    info, found = packed(folder / inside, tmp_path / "out", workers=0)
    assert found == EXPECTED
    assert names(info) == list(zip(WNIDS, WORDS, strict=True))


def test_parquet_of_one_split_reads_no_other(tmp_path):
    write_parquet(tmp_path / "hf" / "validation-00000.parquet", EXPECTED["val"], WNIDS)
    (tmp_path / "hf" / "train-00000.parquet").write_bytes(b"PAR1 is not all that it takes")
    _, found = packed(tmp_path / "hf", tmp_path / "out", splits=["val"])
    assert found == {"val": EXPECTED["val"]}
    with pytest.raises(DamagedDataError, match=r"train-00000\.parquet cannot be read"):
        pack(tmp_path / "hf", tmp_path / "all")


def test_wrong_sources_and_formats(tmp_path):
    for source, text in (
        (tmp_path / "none", "does not exist"),
        (write_files(tmp_path, {"a.bin": b"hello" * 200}) / "a.bin", "is not a folder, zip, tar or parquet"),
    ):
        with pytest.raises(UsageError, match=text):
            open_source(source)
    folder = write_files(tmp_path / "tiny", tiny_files())
    assert open_source(folder, format="tiny-imagenet").format == "tiny-imagenet"
    for format in ("kaggle", "ilsvrc2012", "webdataset", "parquet", "imagefolder"):
        with pytest.raises(UsageError, match="looks like tiny-imagenet"):
            open_source(folder, format=format)
    with pytest.raises(UsageError, match=r"format must be one of auto, .*, got 'lmdb'"):
        pack(folder, tmp_path / "out", format="lmdb")
