"""Labels from files, however they are written; numbers as classes; labels and images that lack each other."""

import re

import pytest
from source_files import jpeg, look, records, tree_files, write_files

from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.packing import pack
from alexnet_fast.sources import open_source, select_classes

TRAIN = {
    f"train/{name}/{i}.jpg": jpeg(i) for name in ("great grey owl", "great white shark", "tench, Tinca") for i in (1, 2)
}
VAL = {f"val/{name}": jpeg(9) for name in ("a.jpg", "b.jpg", "my c.jpg")}
LABELS = {"a.jpg": "great white shark", "b.jpg": "great grey owl", "my c.jpg": "tench, Tinca"}


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def lines(delimiter, *, header="", quote=False, order=(0, 1), extra=()):
    put = quoted if quote else (lambda text: quoted(text) if delimiter in text and delimiter != " " else text)
    rows = [[put(pair[i]) for i in order] + list(extra) for pair in LABELS.items()]
    return "\n".join([*([header] if header else []), *(delimiter.join(row) for row in rows)]) + "\n"


FILES = {
    "tab": ("val_labels.txt", lines("\t").encode(), "column 2"),
    "tab with more": ("val_annotations.txt", lines("\t", extra=("0", "0", "62", "62")).encode(), "column 2"),
    "comma and header": ("val_labels.csv", lines(",", header="filename,label").encode(), r"column 2 \(label\)"),
    "quoted": ("val_labels.csv", lines(",", header='"filename","label"', quote=True).encode(), r"column 2 \(label\)"),
    "semicolon": ("labels.csv", lines(";", header="image;class").encode(), r"column 2 \(class\)"),
    "byte order mark": ("val_labels.csv", b"\xef\xbb\xbf" + lines(",", header="file,label").encode(), "column 2"),
    "UTF-16": ("val_labels.csv", lines("\t", header="file\tlabel").encode("utf-16"), "column 2"),
    "UTF-16 without a mark": ("val_labels.txt", lines("\t").encode("utf-16-le"), "column 2"),
    "CRLF": ("val_labels.csv", lines(",", header="file,label").replace("\n", "\r\n").encode(), "column 2"),
    "old Mac": ("val_labels.txt", lines("\t").replace("\n", "\r").encode(), "column 2"),
    "class first": ("val_labels.csv", lines(",", order=(1, 0)).encode(), "column 1"),
    "an index column": (
        "metadata.csv",
        "\n".join(
            [",file_name,width,category", *(f"{i},{f},9,{quoted(c)}" for i, (f, c) in enumerate(LABELS.items()))]
        ).encode(),
        r"column 4 \(category\)",
    ),
    "folders in it": ("val.csv", lines("\t").replace("a.jpg", "./data/val/a.jpg").encode(), "column 2"),
    "without endings": ("val_labels.csv", lines(",").replace(".jpg", "").encode(), "column 2"),
    "empty lines": ("val_labels.txt", ("\n\n" + lines("\t") + "\n \n").encode(), "column 2"),
}  # fmt: skip


@pytest.mark.parametrize("where", ["", "val/"])
@pytest.mark.parametrize("name", FILES)
def test_label_files(tmp_path, name, where):
    file, text, column = FILES[name]
    found, source = look(write_files(tmp_path / "f", {**TRAIN, **VAL, where + file: text}))
    keys = [bytes(key).decode() for key in source.splits["val"].images["key"]]
    assert keys == sorted(f"{label}/{image}" for image, label in LABELS.items())
    assert found["val"] == dict.fromkeys(sorted(LABELS.values()), 1)
    (note,) = source.account.notes
    assert note.startswith(f"labels of val are from {where}{file}, ")
    assert re.search(column, note)


def test_space_between_file_and_class(tmp_path):
    text = "".join(f"{image} {label}\n" for image, label in LABELS.items()).encode()
    found, _source = look(write_files(tmp_path / "f", {**TRAIN, **VAL, "val/val_labels.txt": text}))
    assert found["val"] == dict.fromkeys(sorted(LABELS.values()), 1)
    only = {
        "val/a.jpg": jpeg(1),
        "val/b.jpg": jpeg(2),
        "val/val_labels.txt": b"a.jpg great grey owl\nb.jpg great white shark",
    }
    found, _ = look(write_files(tmp_path / "g", only))
    assert found == {"val": {"great grey owl": 1, "great white shark": 1}}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"a.jpg,great grey owl\nb.jpg\n", "line 2 of val_labels.csv names no file and class"),
        (
            b"a.jpg,great grey owl\na.jpg,great white shark\n",
            "line 2 of val_labels.csv gives a.jpg no class or a second one",
        ),
        (b"a.jpg,great grey owl\nb.jpg,\n", "line 2 of val_labels.csv gives b.jpg no class"),
        (b'a.jpg,"great grey\n', r"line \d of val_labels.csv cannot be read"),
        (b"a.jpg,caf\xe9\n", "val_labels.csv is neither UTF-8 nor UTF-16 text: save it as UTF-8"),
        (
            b"image,great grey owl,great white shark\na.jpg,1,0\nb.jpg,0,1\n",
            "none of them is called label, class or the like",
        ),
        (b"x.jpg,great grey owl\n", r"no label for a.jpg of split val, nor for any other image \(it names x.jpg\)"),
    ],
)
def test_label_files_that_are_wrong(tmp_path, text, error):
    with pytest.raises((DamagedDataError, UsageError), match=error):
        look(write_files(tmp_path / "f", {**TRAIN, **VAL, "val/val_labels.csv": text}))


@pytest.mark.parametrize(
    ("labels", "error", "packed", "left"),
    [
        ({**LABELS, "d.jpg": "great grey owl"}, r"val_labels.csv names 1 image that SOURCE has not \(d.jpg", 3, 0),
        ({k: v for k, v in LABELS.items() if k != "b.jpg"}, "val_labels.csv has no label for b.jpg of split val", 2, 1),
    ],
)
def test_what_the_labels_or_the_images_lack(tmp_path, labels, error, packed, left):
    text = "".join(f"{quoted(image)},{quoted(label)}\n" for image, label in labels.items()).encode()
    folder = write_files(tmp_path / "f", {**TRAIN, **VAL, "val/val_labels.csv": text})
    with pytest.raises(UsageError, match=f"{error}.*--on-missing skip"):
        pack(folder, tmp_path / "out", workers=0)
    info = pack(folder, tmp_path / "out", workers=0, on_missing="skip")
    assert info.splits["val"].records == packed
    reasons = {entry["reason"]: entry["files"] for entry in info.packing["files"]["left_out"]}
    assert reasons.get("without a label in val/val_labels.csv", 0) == left
    assert left or any("names 1 image that SOURCE has not (d.jpg" in note for note in info.packing["notes"])
    with pytest.raises(UsageError, match="on_missing must be one of error, skip, got 'no'"):
        pack(folder, tmp_path / "out", on_missing="no")


def test_labels_of_train_and_none_of_test(tmp_path):
    files = {
        "train/1.jpg": jpeg(1),
        "train/2.jpg": jpeg(2),
        "test/3.jpg": jpeg(3),
        "sample_submission.csv": b"id,breed\n3,pug\n",
    }
    files["labels.csv"] = b"id,breed\n1,pug\n2,boxer\n"
    found, _ = look(write_files(tmp_path / "f", files))
    assert found == {"train": {"boxer": 1, "pug": 1}, "test": {"": 1}}
    (tmp_path / "f" / "labels.csv").rename(tmp_path / "f" / "trainLabels.csv")
    assert look(tmp_path / "f")[0] == found


def test_numbers_in_a_label_file_are_labels(tmp_path):
    count = 12
    files = {f"val/ILSVRC2012_val_{i:08d}.JPEG": jpeg(i) for i in range(count)}
    order = [5, 0, 11, 10, 2, 1, 3, 4, 6, 7, 8, 9]
    text = "".join(f"ILSVRC2012_val_{i:08d}.JPEG {label}\n" for i, label in enumerate(order))
    pack(write_files(tmp_path / "f", {**files, "val.txt": text.encode()}), tmp_path / "out", workers=0)
    assert sorted((key.rpartition("/")[2], label) for key, label, _ in records(tmp_path / "out", "val")) == [
        (f"ILSVRC2012_val_{i:08d}.JPEG", label) for i, label in enumerate(order)
    ]
    # Some of a thousand classes: 970 is label 970, not the third.
    some = {**dict(list(files.items())[:3]), "val_labels.csv": b"\n".join(
        b"ILSVRC2012_val_%08d.JPEG,%d" % pair for pair in ((0, 970), (1, 65), (2, 2)))}  # fmt: skip
    _found, source = look(write_files(tmp_path / "g", some))
    assert source.splits["val"].images["label"].tolist() == [2, 65, 970]
    assert len(source.classes) == 971
    with pytest.raises(UsageError, match="split val has class 0, which train has not"):
        look(write_files(tmp_path / "f", {"train/n01440764/1.JPEG": jpeg(1)}))


def test_a_test_list_of_zeros_labels_nothing(tmp_path):
    files = {**tree_files(), "test/1.jpg": jpeg(1), "test/2.jpg": jpeg(2), "test.txt": b"1.jpg 0\n2.jpg 0\n"}
    found, _ = look(write_files(tmp_path / "f", files))
    assert found["test"] == {"": 2}
    write_files(tmp_path / "f", {"test_labels.csv": b"1.jpg,dog\n2.jpg,cat\n"})
    assert look(tmp_path / "f")[0]["test"] == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    ("names", "order", "note"),
    [
        (["0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9"], [str(i) for i in range(11)], "stay in their order"),
        (["00", "01", "02"], ["00", "01", "02"], ""),
        (["1", "2", "10"], ["1", "10", "2"], "sorted as text, as ImageFolder has them, so label 1 is class 10"),
        (["1", "2", "3"], ["1", "2", "3"], ""),
        (["b10", "b2"], ["b10", "b2"], ""),
    ],
)
def test_folders_called_by_numbers(tmp_path, names, order, note):
    files = {f"train/{name}/1.jpg": jpeg(i) for i, name in enumerate(names)}
    _found, source = look(write_files(tmp_path / "f", files))
    assert [wnid for wnid, _ in source.classes] == order
    labels = dict(
        zip(
            (bytes(k).decode() for k in source.splits["train"].images["key"]),
            source.splits["train"].images["label"].tolist(),
            strict=True,
        )
    )
    assert labels == {f"{name}/1.jpg": order.index(name) for name in names}
    assert any(note in said for said in source.account.notes) if note else source.account.notes == []


def test_numbers_that_are_one_number(tmp_path):
    with pytest.raises(UsageError, match=r"classes 01 and 1 .*are one number"):
        look(write_files(tmp_path / "f", {"train/1/a.jpg": jpeg(1), "train/01/b.jpg": jpeg(2)}))


def test_wnids_in_the_names_of_images(tmp_path):
    wnids = ("n01443537", "n01440764")
    files = {f"train/{w}_{i}.JPEG": jpeg(i) for w in wnids for i in range(2)}
    files |= {f"val/ILSVRC2012_val_0000000{i}_{w}.JPEG": jpeg(i) for i, w in enumerate(wnids)}
    found, source = look(write_files(tmp_path / "f", files))
    assert found == {"train": {"n01440764": 2, "n01443537": 2}, "val": {"n01440764": 1, "n01443537": 1}}
    assert bytes(source.splits["val"].images["key"][0]) == b"n01440764/ILSVRC2012_val_00000001_n01440764.JPEG"
    assert any("labels of train are the wnids in the images' names" in note for note in source.account.notes)


def test_some_classes_alone(tmp_path):
    names = ["n01440764", "n01443537", "n01484850", "n01491361"]
    files = tree_files(*names, splits={"train": 2, "val": 1}) | {"test/1.jpg": jpeg(1)}
    files["words.txt"] = b"n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\nn01484850\tcrane\nn01491361\tcrane\n"
    folder = write_files(tmp_path / "f", files)
    (tmp_path / "list.txt").write_text("goldfish\nn01491361\n0\n")
    info = pack(folder, tmp_path / "a", classes=str(tmp_path / "list.txt"), workers=0)
    assert [(c.wnid, c.name) for c in info.classes] == [
        ("n01440764", "tench, Tinca tinca"), ("n01443537", "goldfish"), ("n01491361", "crane"),
    ]  # fmt: skip
    assert sorted((key, label) for key, label, _ in records(tmp_path / "a", "val")) == [
        ("n01440764/val0.jpg", 0), ("n01443537/val0.jpg", 1), ("n01491361/val0.jpg", 2),
    ]  # fmt: skip
    left = {entry["reason"]: entry["files"] for entry in info.packing["files"]["left_out"]}
    assert left["of classes that --classes leaves out (split train)"] == 2
    assert info.packing["files"]["packed"] == 6 + 3 + 1
    assert [c.wnid for c in pack(folder, tmp_path / "b", classes=2, workers=0).classes] == names[:2]
    with pytest.raises(UsageError, match="is complete and was packed from a source with other images or labels"):
        pack(folder, tmp_path / "b", classes=3, workers=0)
    source = open_source(folder)
    for text, error in (("n99999999\n", "n99999999 is no class of f"),
                        ("crane\n", "crane is the name of several classes"),
                        ("0\nn01440764\n", "names the class 0 twice"), ("\n", "names no class")):  # fmt: skip
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(UsageError, match=error):
            select_classes(source, tmp_path / "list.txt")
    for asked, error in ((5, "f has 4 classes"), (0, "f has 4 classes"), ("none.txt", "neither a number nor a file")):
        with pytest.raises(UsageError, match=error):
            select_classes(source, asked)
