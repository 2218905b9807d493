"""Which folder is which split, as people name them; what cannot be told is refused with the option that settles it."""

import pytest
from source_files import jpeg, look, tar_bytes, tree_files, write_files, write_zip

from alexnet_fast.errors import UsageError

BOTH = {"cat": 2, "dog": 2}
ONE = {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("Train", "Val", "val"), ("TRAIN", "TEST", "test"), ("Training", "Testing", "test"), ("train", "Val", "val"),
        ("train", "dev", "val"), ("train", "eval", "val"), ("train", "valid", "val"), ("train_set", "val_set", "val"),
        ("trainset", "testset", "test"), ("train2012", "val2012", "val"), ("train_images", "validation_images", "val"),
        ("TrainImages", "TestImages", "test"), ("ILSVRC2012_img_train", "ILSVRC2012_img_val", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"), ("train/images", "val/images", "val"),
        ("a/data/train", "a/data/val", "val"), ("images/train-256", "images/val-256", "val"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["folder", "zip"])
def test_spellings(tmp_path, first, second, split, how):
    files = tree_files(splits={first: 2, second: 1})
    source = write_files(tmp_path / "f", files) if how == "folder" else write_zip(tmp_path / "f.zip", files)
    found, opened = look(source)
    assert found == {"train": BOTH, split: ONE}
    assert {bytes(key).count(b"/") for key in opened.splits["train"].images["key"]} == {1}
    plain = first.lower() == "train" and second.lower() in ("val", "valid", "test")
    assert plain or any("taken for split" in note for note in opened.account.notes) or "/" in first


def test_parts_of_one_split(tmp_path):
    files = {**tree_files("n01440764", splits={"train.X1": 2}), **tree_files("n01443537", splits={"train.X2": 3})}
    files |= tree_files("n01440764", "n01443537", splits={"val.X": 1})
    files["Labels.json"] = b'{"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}'
    found, opened = look(write_files(tmp_path / "imagenet100", files))
    assert found == {"train": {"n01440764": 2, "n01443537": 3}, "val": {"n01440764": 1, "n01443537": 1}}
    assert opened.classes == (("n01440764", "tench, Tinca tinca"), ("n01443537", "goldfish"))
    assert "split train is in 2 folders: train.X1, train.X2" in opened.account.notes


@pytest.mark.parametrize("names", [("control", "test"), ("bus", "car", "train"), ("invalid", "valid"), ("dev", "ops")])
def test_classes_that_are_called_like_splits(tmp_path, names):
    files = {f"{name}/{i}.jpg": jpeg(i) for name in names for i in range(2)}
    folder = write_files(tmp_path / "f", files)
    with pytest.raises(
        UsageError, match=r"called like a split, and .* is not.*--split train=\.;.*--split \w+="
    ) as caught:
        look(folder)
    assert "\n" not in str(caught.value)
    found, opened = look(folder, splits=["train=."])
    assert found == {"train": dict.fromkeys(sorted(names), 2)}
    assert opened.account.packed == len(files)
    zipped = write_zip(tmp_path / "f.zip", {f"top/{name}": data for name, data in files.items()})
    for asked in ("train=.", "train=top"):
        assert look(zipped, splits=[asked])[0] == found


@pytest.mark.parametrize(
    ("splits", "text"),
    [
        ({"train": 2, "val": 1, "dev": 1}, r"folders dev and val would both be split val: .*--split val=dev"),
        ({"train": 2, "train2": 1, "training": 1}, "would both be split train"),
        (
            {"train_small": 2, "val_small": 1},
            r"look like splits: say --split train=train_small --split val=val_small, or",
        ),
        (
            {"trainA": 2, "trainB": 2, "testA": 1, "testB": 1},
            r"look like splits: say --split train=trainA --split test=testA",
        ),
        ({"a/train": 2, "a/test": 1, "b/train": 2, "b/test": 1}, r"2 folders hold splits each \(a/, b/ ...\)"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, splits, text):
    with pytest.raises(UsageError, match=text):
        look(write_files(tmp_path / "f", tree_files(splits=splits)))


def test_folders_beside_the_splits_are_named(tmp_path):
    files = {**tree_files(), **tree_files(splits={"holdout": 3}), "preview.png": jpeg(1)}
    found, opened = look(write_files(tmp_path / "f", files))
    assert found == {"train": BOTH, "val": ONE}
    left = {entry.reason: entry.files for entry in opened.account.left_out}
    assert left == {"in holdout, outside of the splits' folders": 6, "beside them, outside of the splits' folders": 1}
    assert opened.account.packed == 6


def test_a_split_is_named_with_its_folder(tmp_path):
    folder = write_files(tmp_path / "f", tree_files(splits={"first": 2, "second/deep": 1, "third": 1}))
    found, _ = look(folder, splits=["train=first", "val=second/deep"])
    assert found == {"train": BOTH, "val": ONE}
    zipped = write_zip(tmp_path / "f.zip", {f"top/{n}": d for n, d in tree_files(splits={"a": 2, "b": 1}).items()})
    found, _ = look(zipped, splits=["train=a", "val=top/b"])
    assert found == {"train": BOTH, "val": ONE}
    found, _ = look(write_files(tmp_path / "g", tree_files(splits={"train": 2, "holdout": 1})), splits=["train=train"])
    assert found == {"train": BOTH}
    mixed = write_files(tmp_path / "h", tree_files(splits={"train": 2, "val": 1, "dev": 2}))
    assert look(mixed, splits=["train", "val=dev"])[0] == {"train": BOTH, "val": BOTH}
    for asked, text in ((["train=none"], "has no such folder.*it has first/cat, first/dog, second/deep"),
                        (["train="], "names no"),
                        (["train", "train"], "given twice")):  # fmt: skip
        with pytest.raises(UsageError, match=text):
            look(folder, splits=asked)


@pytest.mark.parametrize(
    ("source", "split"),
    [("val", "val"), ("set/test", "test"), ("Validation", "val"), ("tiny/val/images", "val"), ("things", "train"),
     ("tests", "train")],
)  # fmt: skip
def test_a_split_folder_given_alone_keeps_its_name(tmp_path, source, split):
    files = {f"{name}/{i}.jpg": jpeg(i) for name in ("cat", "dog") for i in range(2)}
    write_files(tmp_path / "tiny" / "train", {"cat/1.jpg": jpeg(1)})
    found, opened = look(write_files(tmp_path / source, files))
    assert found == {split: BOTH}
    assert (split == "train") == (opened.account.notes == [])


def test_val_alone_takes_its_labels_from_one_folder_up(tmp_path):
    files = {"val/val_annotations.txt": b"a.JPEG\tn1\t0\t0\nb.JPEG\tn2\t0\t0\n", "train/n1/images/1.JPEG": jpeg(1)}
    files |= {"val/images/a.JPEG": jpeg(1), "val/images/b.JPEG": jpeg(2)}
    folder = write_files(tmp_path / "tiny", files)
    for inside in ("val", "val/images"):
        found, opened = look(folder / inside)
        assert found == {"val": {"n1": 1, "n2": 1}}
        assert [bytes(key) for key in opened.splits["val"].images["key"]] == [b"n1/a.JPEG", b"n2/b.JPEG"]


def test_an_archive_beside_an_unpacked_folder(tmp_path):
    inner = tar_bytes({"1.JPEG": jpeg(1), "2.JPEG": jpeg(2)})
    files = {"ILSVRC2012_img_train.tar": tar_bytes({"n01440764.tar": inner, "n01443537.tar": inner})}
    files |= {f"val/{wnid}/{i}.JPEG": jpeg(i) for wnid in ("n01440764", "n01443537") for i in (8, 9)}
    folder = write_files(tmp_path / "imagenet", files)
    expected = {"n01440764": 2, "n01443537": 2}
    found, opened = look(folder)
    assert found == {"train": expected, "val": expected}
    assert (opened.format, opened.account.files, opened.account.packed) == ("ilsvrc2012", 8, 8)
    inner_zip = write_zip(tmp_path / "v.zip", {"n01440764/5.JPEG": jpeg(5)}).read_bytes()
    write_files(folder, {"train/n01440764/7.JPEG": jpeg(7), "val.zip": inner_zip})
    found, opened = look(folder)
    assert found == {"train": expected, "val": {"n01440764": 1}}
    for split, archive in (("train", "ILSVRC2012_img_train.tar"), ("val", "val.zip")):
        text = f"split {split} is read from the archive {archive}; folder {split} beside it is left out"
        assert any(note.startswith(text) for note in opened.account.notes)
    assert (opened.account.files, opened.account.packed) == (10, 5)
    found, _ = look(folder, splits=["train=ILSVRC2012_img_train.tar", "val=val"])
    assert found == {"train": expected, "val": expected}
