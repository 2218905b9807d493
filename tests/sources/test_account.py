"""Every file of a source is packed or left out for a reason that is said: the counts sum to what lies there."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
from PIL import Image
from source_files import jpeg, look, records, tar_bytes, tiny_files, tree_files, write_files, write_zip

from alexnet_fast.errors import UsageError
from alexnet_fast.packing import describe_pack, pack
from alexnet_fast.sources import list_images


def image(format, number=0):
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg(number))).convert("P" if format == "GIF" else "RGB").save(out, format)
    return out.getvalue()


HIDDEN = {
    "train/.ipynb_checkpoints/a-checkpoint.jpg": jpeg(90), "train/cat/.ipynb_checkpoints/0-checkpoint.jpg": jpeg(91),
    "__MACOSX/train/cat/._0.jpg": b"junk", "train/cat/._0.jpg": b"junk", "train/cat/Thumbs.db": b"junk",
    ".DS_Store": b"junk", "train/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg": jpeg(92), ".git/objects/ab/cd.jpg": jpeg(93),
    "train/dog/desktop.ini": b"junk",
}  # fmt: skip
ODD = {
    "train/gifs/0.gif": image("GIF"), "train/gifs/1.GIF": image("GIF", 1), "train/cat/C.JPE": jpeg(52),
    "train/cat/D.jfif": jpeg(53), "train/cat/F": jpeg(55), "train/cat/G.jpg_large": jpeg(56),
    "train/cat/T.tga": image("TGA"),
}  # fmt: skip
OTHERS = {"README.md": b"x", "train/cat/notes.txt": b"x", "train/cat/film.mp4": b"x", "train/dog/blob": b"\0" * 99}


def source_of(how, folder, files):
    if how == "folder":
        return write_files(folder / "f", files)
    if how == "zip":
        return write_zip(folder / "f.zip", files)
    (folder / "f.tar").write_bytes(tar_bytes(files))
    return folder / "f.tar"


@pytest.mark.parametrize("how", ["folder", "zip", "tar"])
def test_the_sum_is_what_lies_there(tmp_path, how):
    files = {**tree_files(), **HIDDEN, **ODD, **OTHERS}
    info = pack(source_of(how, tmp_path, files), tmp_path / "out", workers=0)
    assert [c.wnid for c in info.classes] == ["cat", "dog", "gifs"]
    assert info.splits["train"].records == 4 + len(ODD)
    account = info.packing["files"]
    assert account["found"] == len(files)
    assert account["packed"] == sum(split.records for split in info.splits.values()) == 6 + len(ODD)
    left = {entry["reason"]: entry["files"] for entry in account["left_out"]}
    assert left == {
        "hidden": len(HIDDEN), "not images by name (.md)": 1, "not images by name (.txt)": 1,
        "not images by name (.mp4)": 1, "not images by content (no ending)": 1,
    }  # fmt: skip
    assert all(1 <= len(entry["examples"]) <= 2 for entry in account["left_out"])
    text = describe_pack(info, tmp_path / "out")
    assert f"files in SOURCE: {len(files)}, of which {6 + len(ODD)} are packed; the others are" in text
    assert "  1 not an image by name (.mp4) (train/cat/film.mp4)" in text
    assert "encoded anew, not a JPEG (GIF): 2 (gifs/" in text
    assert "images by their contents, whatever their names end in: 2 (train/cat/" in text
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["packing"]["files"] == account


def test_limits_splits_and_bad_images_are_in_the_account(tmp_path):
    folder = write_files(tmp_path / "tiny", {**tiny_files(), "train/n01443537/images/bad.JPEG": b"no image"})
    total = sum(len(files) for _, _, files in os.walk(folder))
    info = pack(folder, tmp_path / "a", splits=["train"], on_bad_image="skip", workers=0)
    account = info.packing["files"]
    left = {entry["reason"]: entry["files"] for entry in account["left_out"]}
    assert account["found"] == total
    assert account["packed"] == info.splits["train"].records == 12
    assert left["that cannot be decoded"] == 1
    assert left["of split val, which is not asked for"] == 3
    assert left["of split test, which is not asked for"] == 2
    (folder / "train/n01443537/images/bad.JPEG").unlink()
    info = pack(folder, tmp_path / "b", limit=2, workers=0)
    account = info.packing["files"]
    assert (account["found"], account["packed"]) == (total - 1, 6)
    assert {e["reason"]: e["files"] for e in account["left_out"]}["beyond --limit (split train)"] == 10


def test_web_dataset_and_a_folder_of_it(tmp_path):
    members = {"a.jpg": jpeg(1), "a.cls": b"0", "a.txt": b"a cat", "b.jpg": jpeg(2), "b.cls": b"1", "b.txt": b"a dog"}
    members["._b.jpg"] = b"junk"
    files = {"train-0.tar": tar_bytes(members), "README.md": b"x", "sample.png": image("PNG"), ".cache/x": b""}
    found, source = look(write_files(tmp_path / "f", files))
    assert found == {"train": {"0": 1, "1": 1}}
    left = {entry.reason: entry.files for entry in source.account.left_out}
    assert left == {
        "not images by name (.md)": 1, "images beside WebDataset's shards": 1, "hidden": 2,
        "labels of samples": 2,
        "members of samples that are neither image nor label (.txt)": 2,
    }  # fmt: skip
    assert source.account.files == len(members) + 3
    assert source.account.packed == 2


def test_a_source_without_images_says_what_is_there(tmp_path):
    folder = write_files(tmp_path / "f", {"a/1.svg": b"x", "a/2.svg": b"x", ".x/1.jpg": jpeg(1), "a/b.txt": b"x"})
    with pytest.raises(UsageError, match=r"holds no images \(.*1 hidden \(.x/1.jpg\).*2 not images by name \(.svg\)"):
        look(folder)


def test_unreadable_and_special_files_in_hidden_folders_are_no_errors(tmp_path):
    folder = write_files(tmp_path / "f", tree_files())
    (folder / "lost+found").mkdir()
    (folder / "train" / "cat" / "link.txt").symlink_to("nowhere")
    os.mkfifo(folder / "train" / "pipe")
    _, source = look(folder)
    assert {e.reason: e.files for e in source.account.left_out} == {
        "links to nothing": 1,
        "pipes, sockets or devices": 1,
    }
    assert source.account.packed == 6


def test_the_same_rules_for_anyone_who_lists_a_folder(tmp_path):
    files = {**tree_files(), **HIDDEN, **ODD, **OTHERS}
    paths, account = list_images(write_files(tmp_path / "f", files))
    assert [p.relative_to(tmp_path / "f").as_posix() for p in paths] == sorted({**tree_files(), **ODD})
    assert account.files == len(files)


def test_a_data_set_that_is_packed_within_its_source(tmp_path):
    folder = write_files(tmp_path / "f", tree_files())
    info = pack(folder, folder / "packed", workers=0)
    assert (info.packing["files"]["found"], info.packing["files"]["packed"]) == (6, 6)
    assert len(records(folder / "packed", "train")) == 4


def test_names_that_are_not_utf8_are_refused(tmp_path):
    for at, text in (
        (b"train/\xe9t\xe9/1.jpg", r"train/\\xe9t\\xe9/, which is not UTF-8"),
        (b"train/a/\xe9.jpg", r"the name \\xe9.jpg"),
    ):
        write_files(tmp_path / f"f{len(at)}", {os.fsdecode(at): jpeg(1), "train/b/1.jpg": jpeg(1)})
        with pytest.raises(UsageError, match=text):
            look(tmp_path / f"f{len(at)}")


def odd_zip(path, names):
    """A zip of names that do not say their encoding."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(f"{number:03d}".ljust(len(name), "Q")), jpeg(number))
    content = path.read_bytes()
    for marker, length in ((b"PK\x03\x04", 30), (b"PK\x01\x02", 46)):
        at = 0
        for name in names:
            at = content.index(marker, at) + length
            content = content[:at] + name + content[at + len(name) :]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("encoding", "classes"),
    [("cp437", ["café", "naïve", "Ñandú"]), ("gbk", ["狗狗", "鸟鸟", "鱼鱼"]), ("utf-8", ["été", "狗"])],
)
def test_zips_whose_names_do_not_say_their_encoding(tmp_path, encoding, classes):
    names = [f"train/{name}/{i}.jpg".encode(encoding) for name in classes for i in range(2)]
    found, source = look(odd_zip(tmp_path / "f.zip", names))
    assert found == {"train": dict.fromkeys(sorted(classes), 2)}
    assert (source.account.notes == []) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("encoding", "text"), [("euc-kr", "강아지"), ("shift-jis", "いぬ"), ("cp866", "кот"), ("big5", "鳥")]
)
def test_an_encoding_that_cannot_be_told_is_refused(tmp_path, encoding, text):
    with pytest.raises(UsageError, match="names in an encoding that it does not tell"):
        look(odd_zip(tmp_path / "f.zip", [f"train/{text}/1.jpg".encode(encoding), b"train/cat/1.jpg"]))


def test_classes_that_differ_in_their_unicode_form_only(tmp_path):
    folder = write_files(tmp_path / "f", {f"train/{name}/1.jpg": jpeg(1) for name in ("caf\u00e9", "cafe\u0301")})
    with pytest.raises(UsageError, match=r"two classes called .*, whose names differ in their Unicode form only"):
        look(folder)


def test_the_command_line_says_it(tmp_path):
    folder = write_files(tmp_path / "f", {**tree_files(), "notes.txt": b"x"})
    command = [sys.executable, "-m", "alexnet_fast", "pack", str(folder), str(tmp_path / "out"), "--workers", "0"]
    done = subprocess.run([*command, "--split", "train=train", "--split", "test=val"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "test: 2 images, 0.0 MB in 1 shard\n" in done.stdout
    assert (
        "files in SOURCE: 7, of which 6 are packed; the others are\n  1 not an image by name (.txt) (notes.txt)\n"
        in done.stdout
    )
