"""What goes wrong around pack and train: disks, permissions, changing files, bad pictures and labels of every kind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_picture, encode
from PIL import Image

from alexnet_fast.errors import AlexNetFastError, DamagedDataError, UsageError
from alexnet_fast.pack import pack
from alexnet_fast.progress import NoProgress
from alexnet_fast.shards import ShardReader, read_dataset_info
from alexnet_fast.verify import verify

linux_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small file system, which takes root on Linux"
)


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """One command line, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "alexnet_fast", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def one_sentence(done: subprocess.CompletedProcess[str], *codes: int) -> str:
    """The error that a command ended with, made sure to be of one line and to come with one of `codes`."""
    assert done.returncode in codes, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def make_source(folder: Path, count: int = 12, side: int = 64) -> Path:
    for label in range(2):
        place = folder / "train" / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(count // 2):
            (place / f"{number}.JPEG").write_bytes(encode(draw_picture(label, number, (side, side))))
    return folder


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class AtStart(NoProgress):
    """Does something when the plan is made and the work begins."""

    def __init__(self, action) -> None:
        self.action = action

    def start(self, total: int, unit: str = "pictures") -> None:
        self.action()


# ---- disks


@linux_root
def test_a_full_disk_keeps_what_is_finished(tmp_path):
    source = make_source(tmp_path / "source", 60, 200)
    with small_disk(tmp_path / "disk", "400k") as disk:
        arguments = ("pack", source, disk / "data", "--shard-bytes", "60kB", "--workers", "0")
        assert "free" in (text := one_sentence(run(*arguments), 1)) or "make room" in text
        finished = sorted(p.name for p in (disk / "data").glob("*.lmdb"))
        assert finished
        assert not list((disk / "data").glob(".*.partial"))
        assert not (disk / "data" / "dataset.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        first = (disk / "data" / finished[0] / "data.mdb").stat().st_ino
        assert run(*arguments).returncode == 0
        assert (disk / "data" / finished[0] / "data.mdb").stat().st_ino == first
        assert verify(disk / "data", decode=True, workers=0).records == 60
        assert not [p for p in (disk / "data").iterdir() if p.name.startswith(".")]


def test_a_limit_on_file_sizes(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    source = make_source(tmp_path / "source", 60, 200)
    text = one_sentence(run("pack", source, tmp_path / "data", "--workers", "0", preexec_fn=limit), 1)
    assert str(tmp_path / "data") in text
    assert not list(tmp_path.glob("data/*.lmdb"))


@linux_root
def test_a_read_only_disk(tmp_path):
    source = make_source(tmp_path / "source")
    with small_disk(tmp_path / "disk", "8m") as disk:
        assert run("pack", source, disk / "data", "--workers", "0").returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "Read-only" in one_sentence(run("pack", source, disk / "other", "--workers", "0"), 1, 2)
        assert "Read-only" in one_sentence(run("pack", source, disk / "data", "--overwrite"), 1, 2)
        assert run("verify", disk / "data", "--decode").returncode == 0  # reading takes no write
        assert run("inspect", disk / "data").returncode == 0


@linux_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes from root what lets it pass permissions")
def test_what_an_ordinary_user_may_not_do(tmp_path):
    def run_bound(*arguments: object) -> subprocess.CompletedProcess[str]:
        bound = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "alexnet_fast"]
        return subprocess.run([*bound, *map(str, arguments)], capture_output=True, text=True, timeout=120)

    source, closed = make_source(tmp_path / "source"), tmp_path / "closed"
    closed.mkdir(mode=0o555)
    text = one_sentence(run_bound("pack", source, closed / "data", "--workers", "0"), 1, 2)
    assert "Permission denied" in text
    assert str(closed / "data") in text
    hidden = source / "train/n00000000/1.JPEG"
    hidden.chmod(0)
    text = one_sentence(run_bound("pack", source, tmp_path / "data", "--workers", "0"), 1, 2)
    assert "1.JPEG" in text
    hidden.chmod(0o644)
    assert run_bound("pack", source, tmp_path / "data", "--workers", "0").returncode == 0
    manifest, index = tmp_path / "data/dataset.json", next((tmp_path / "data").glob("*.npy"))
    manifest.chmod(0)
    assert "Permission denied" in one_sentence(run_bound("verify", tmp_path / "data"), 1, 2)
    manifest.chmod(0o644)
    index.chmod(0)
    assert "Permission denied" in run_bound("verify", tmp_path / "data").stderr


@linux_root
def test_a_checkpoint_on_a_full_disk(tmp_path, packed_small):
    with small_disk(tmp_path / "disk", "300k") as disk:
        done = run(
            "train", packed_small, "--run-dir", disk / "run", "--epochs", "1", "--batch-size", "16", "--image-size",
            "32", "--set", "width=0.0625", "--device", "cpu", "--num-workers", "1", "--recipe", "notebook",
        )  # fmt: skip
        assert str(disk / "run") in one_sentence(done, 1)
        assert not list((disk / "run").glob(".*.tmp"))


# ---- sources that change


def spoilt(tmp_path: Path, action, **options):
    """Pack a folder to which `action` is done between planning and reading."""
    source = make_source(tmp_path / "source")
    victim = source / "train/n00000001/2.JPEG"
    return pack(source, tmp_path / "data", workers=0, progress=AtStart(lambda: action(victim)), **options)


@pytest.mark.parametrize(
    "action",
    [
        lambda victim: victim.unlink(),
        lambda victim: os.truncate(victim, 300),
        lambda victim: os.truncate(victim, 0),
        lambda victim: shutil.rmtree(victim.parent),
        lambda victim: victim.write_bytes(b"text that is longer than any picture here was " * 400),
    ],
    ids=["deleted", "truncated", "emptied", "folder deleted", "overwritten"],
)
def test_a_source_that_changes_while_it_is_packed(tmp_path, action):
    with pytest.raises(AlexNetFastError, match=r"2\.JPEG|n00000001"):
        spoilt(tmp_path, action)
    assert not (tmp_path / "data" / "dataset.json").exists()
    assert not list((tmp_path / "data").glob(".*.partial")) if (tmp_path / "data").exists() else True


def test_an_archive_cut_while_it_is_packed(tmp_path):
    source = make_source(tmp_path / "source", 40)
    archive = tmp_path / "source.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(source.rglob("*.JPEG")):
            file.write(path, path.relative_to(source))
    size = archive.stat().st_size
    with pytest.raises(AlexNetFastError):
        pack(archive, tmp_path / "data", workers=0, progress=AtStart(lambda: os.truncate(archive, size // 2)))
    assert not (tmp_path / "data" / "dataset.json").exists()


def test_two_packs_into_one_data_set(tmp_path):
    source = make_source(tmp_path / "source")
    refused = []

    def second() -> None:
        refused.append(one_sentence(run("pack", source, tmp_path / "data", "--workers", "0"), 2))

    info = pack(source, tmp_path / "data", workers=0, progress=AtStart(second))
    assert "another pack is writing to" in refused[0]
    assert info.splits["train"].records == 12
    assert verify(tmp_path / "data", decode=True, workers=0).ok


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    now = [2e9]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    source = make_source(tmp_path / "source")
    for path in source.rglob("*.JPEG"):
        os.utime(path, (4e9, 4e9))
    with pytest.raises(ZeroDivisionError):
        pack(source, tmp_path / "data", workers=0, shard_bytes=4000, progress=_DiesAfter(5))
    for path in (tmp_path / "data").rglob("*"):
        os.utime(path, (1, 1))
    pack(source, tmp_path / "data", workers=0, shard_bytes=4000)
    assert verify(tmp_path / "data", decode=True, workers=0).records == 12


class _DiesAfter(NoProgress):
    def __init__(self, count: int) -> None:
        self.left = count

    def advance(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise ZeroDivisionError


# ---- pictures


def _saved(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def zoo() -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, 'packed' as it is, 'encoded' anew, 'refused', or 'any' of these)."""
    rgb = draw_picture(1, 1, (80, 60))
    good = encode(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    cmyk = bytearray(_saved(rgb.convert("CMYK"), "JPEG"))
    ycck = bytearray(cmyk)
    adobe = ycck.index(b"Adobe")
    ycck[adobe + 11] = 2
    frame = good.index(b"\xff\xc0")
    twelve_bit, arithmetic, no_size = bytearray(good), bytearray(good), bytearray(good)
    twelve_bit[frame + 4] = 12
    arithmetic[frame + 1] = 0xC9
    no_size[frame + 5 : frame + 9] = bytes(4)
    return {
        "good": (good, "packed"),
        "grey": (encode(rgb.convert("L")), "packed"),
        "one": (encode(draw_picture(0, 0, (1, 1))), "packed"),
        "thin": (encode(draw_picture(0, 0, (1, 5000))), "packed"),
        "wide": (encode(draw_picture(0, 0, (5000, 1))), "packed"),
        "restart": (_saved(rgb, "JPEG", restart_marker_blocks=2), "any"),
        "exif": (_saved(rgb, "JPEG", exif=exif), "any"),
        "progressive": (_saved(rgb, "JPEG", progressive=True), "any"),
        "icc": (_saved(rgb, "JPEG", icc_profile=bytes(10_000_000)), "any"),
        "garbage": (good + os.urandom(5000), "any"),
        "png": (_saved(rgb, "PNG"), "encoded"),
        "gif": (_saved(rgb.convert("P"), "GIF"), "encoded"),
        "webp": (_saved(rgb, "WEBP"), "encoded"),
        "bmp": (_saved(rgb, "BMP"), "encoded"),
        "palette": (_saved(rgb.convert("P"), "PNG"), "encoded"),
        "alpha": (_saved(rgb.convert("RGBA"), "PNG"), "encoded"),
        "deep": (_saved(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13), "PNG"), "encoded"),
        "cmyk": (bytes(cmyk), "encoded"),
        "ycck": (bytes(ycck), "any"),
        "empty": (b"", "refused"),
        "text": (b"<html>404 not found</html>", "refused"),
        "zeros": (bytes(5000), "refused"),
        "truncated": (good[: len(good) // 2], "any"),
        "header": (good[:frame], "refused"),
        "twelve": (bytes(twelve_bit), "refused"),
        "arithmetic": (bytes(arithmetic), "any"),
        "no-size": (bytes(no_size), "refused"),
        "bomb": (_saved(Image.new("L", (20_000, 20_000)), "PNG"), "any"),
    }


def test_every_kind_of_bad_picture(tmp_path):
    """What can be decoded is packed, in a form that every backend decodes; what cannot is named and left out."""
    pictures = zoo()
    place = tmp_path / "source/train/n00000000"
    place.mkdir(parents=True)
    for name, (content, _) in pictures.items():
        (place / f"{name}.JPEG").write_bytes(content)
    done = run("pack", tmp_path / "source", tmp_path / "data", "--on-bad-image", "skip", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert verify(tmp_path / "data", decode=True, workers=0).ok
    reader = ShardReader(tmp_path / "data", "train")
    stored = {Path(reader.key(i)).stem: reader.read(i) for i in range(len(reader))}
    left_out = {Path(entry["key"]).stem for entry in read_dataset_info(tmp_path / "data").packing["left_out"]}
    assert stored.keys() | left_out == pictures.keys()
    assert not stored.keys() & left_out
    for name, (content, fate) in pictures.items():
        if fate == "packed":
            assert stored[name] == content, name
        elif fate == "encoded":
            assert stored[name] != content, name
        elif fate == "refused":
            assert name in left_out, name
    for name, jpeg in stored.items():
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert picture.format == "JPEG", name
            assert picture.mode in ("RGB", "L"), name
            picture.load()


@pytest.mark.parametrize("name", ["empty", "text", "twelve"])
def test_a_bad_picture_is_named(tmp_path, name):
    place = tmp_path / "source/train/n00000000"
    place.mkdir(parents=True)
    (place / "fine.JPEG").write_bytes(zoo()["good"][0])
    (place / f"{name}.JPEG").write_bytes(zoo()[name][0])
    text = one_sentence(run("pack", tmp_path / "source", tmp_path / "data", "--workers", "0"), 1)
    assert f"{name}.JPEG" in text
    assert "--on-bad-image skip" in text


# ---- labels


def tiny(folder: Path, annotations: bytes, *, words: bytes = b"n00000000\tcat\nn00000001\tdog\n") -> Path:
    """A Tiny ImageNet of two classes, with these val_annotations."""
    for label in range(2):
        place = folder / f"train/n{label:08d}/images"
        place.mkdir(parents=True)
        for number in range(2):
            (place / f"n{label:08d}_{number}.JPEG").write_bytes(encode(draw_picture(label, number, (64, 64))))
    (folder / "val/images").mkdir(parents=True)
    for number in range(2):
        (folder / f"val/images/val_{number}.JPEG").write_bytes(encode(draw_picture(number, 9, (64, 64))))
    (folder / "val/val_annotations.txt").write_bytes(annotations)
    (folder / "wnids.txt").write_bytes(b"n00000001\nn00000000\n")
    (folder / "words.txt").write_bytes(words)
    return folder


@pytest.mark.parametrize(
    "annotations",
    [
        b"val_0.JPEG\tn00000000\nval_1.JPEG\tn00000001\na b.JPEG\tn00000001\na c.JPEG\tn00000000\n",
        b"val_0.JPEG\tn00000000\t0\t0\t1\t1\nval_1.JPEG\tn00000001\t0\t0\t1\t1\n",
        b"val_0.JPEG\tn00000000\t0\t0\t1\t1\r\nval_1.JPEG\tn00000001\t0\t0\t1\t1\r\n",
        b"\xef\xbb\xbfval_0.JPEG\tn00000000\t0\t0\t1\t1\nval_1.JPEG\tn00000001\t0\t0\t1\t1",
        b"\nval_0.JPEG\tn00000000\n\nval_1.JPEG\tn00000001\n\n",
        b"val_0.JPEG\tn00000000\nval_1.JPEG\tn00000001\nval_1.JPEG\tn00000001\n",
    ],
    ids=["names with spaces", "as it is", "CRLF", "BOM", "empty lines", "the same twice"],
)
def test_labels_that_can_be_read(tmp_path, annotations):
    try:
        pack(tiny(tmp_path / "tiny", annotations), tmp_path / "data", workers=0)
    except AlexNetFastError as error:
        assert b"\nval_1.JPEG\tn00000001\nval_1" in annotations  # a duplicate may be refused, by name
        assert "val_1.JPEG" in str(error)
        return
    reader = ShardReader(tmp_path / "data", "val")
    assert {Path(reader.key(i)).name: int(reader.labels[i]) for i in range(2)} == {"val_0.JPEG": 0, "val_1.JPEG": 1}


@pytest.mark.parametrize(
    ("annotations", "named"),
    [
        (b"val_0.JPEG\tn00000000\nval_1.JPEG\n", "val_1.JPEG|line 2|val_annotations"),
        (b"val_0.JPEG\tn00000000\nval_1.JPEG\tn99999999\n", "n99999999"),
        (b"val_0.JPEG\tn00000000\n", r"val_1\.JPEG|val_annotations"),
        (b"val_0.JPEG\tn00000000\nval_1.JPEG\tn00000001\nval_1.JPEG\tn00000000\n", r"val_1\.JPEG"),
        (b"\xff\xfe\x00\x00", "val_annotations"),
        (b"", "val_annotations|val_"),
    ],
    ids=["no class", "unknown wnid", "picture without line", "two classes", "binary", "empty"],
)
def test_labels_that_cannot(tmp_path, annotations, named):
    with pytest.raises((UsageError, DamagedDataError), match=named):
        pack(tiny(tmp_path / "tiny", annotations), tmp_path / "data", workers=0)
    assert not (tmp_path / "data/dataset.json").exists()


def test_names_in_chinese_and_with_spaces(tmp_path):
    for name in ("猫 和 狗", "a b"):
        place = tmp_path / "图片 源/train" / name
        place.mkdir(parents=True)
        (place / "图 1.JPEG").write_bytes(encode(draw_picture(0, 0, (64, 64))))
    done = run("pack", tmp_path / "图片 源", tmp_path / "数据 集", env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    info = read_dataset_info(tmp_path / "数据 集")
    assert [c.wnid for c in info.classes] == ["a b", "猫 和 狗"]
    assert run("verify", tmp_path / "数据 集").returncode == 0
    assert run("inspect", tmp_path / "数据 集", env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}).returncode == 0


def test_words_of_any_kind(tmp_path):
    annotations = b"val_0.JPEG\tn00000000\nval_1.JPEG\tn00000001\n"
    words = "\ufeffn00000000\t猫, cat\r\nn00000000\nn00000001\r\n\r\nrubbish\n".encode() + b"n00000001\t\xff\xfe\n"
    try:
        info = pack(tiny(tmp_path / "tiny", annotations, words=words), tmp_path / "data", workers=0)
    except AlexNetFastError as error:
        assert "words.txt" in str(error)
    else:
        assert info.num_classes == 2


# ---- hostile archives


def test_a_parquet_file_built_to_hurt(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    picture = {"bytes": encode(draw_picture(0, 0)), "path": "../../../etc/x\x00.jpg"}
    for number, labels in enumerate(([2**31 - 2, 0], [2**60, 0], ["a", "b"], [-(2**63), 0], [1e9, 0.5])):
        path = tmp_path / f"train-{number}.parquet"
        pq.write_table(pa.table({"image": [picture, picture], "label": labels}), path)
        with contextlib.suppress(AlexNetFastError):
            pack(path, tmp_path / f"data{number}", workers=0)
    assert not (tmp_path.parent / "etc").exists()


def test_a_mat_file_built_to_hurt():
    """Matrices nested ten thousand deep, deflated: each level would hold another copy of the rest."""
    import struct
    import zlib

    from alexnet_fast.sources.matfile import read_structs

    head = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1) + struct.pack("<II", 1, 0)
    body = b""
    for _ in range(10_000):
        body = struct.pack("<II", 14, len(head) + len(body)) + head + body
    deflated = zlib.compress(body)
    content = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(deflated)) + deflated
    for hostile in (content, content[:126] + b"MI" + content[128:], content[:200], content.replace(b"\x0e", b"\x01")):
        with pytest.raises(DamagedDataError):
            read_structs(hostile, "synsets")


# ---- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ("pack", "nowhere", "out"), ("pack", ".", "out"), ("pack", "x.txt", "out"), ("pack", "", ""),
        ("pack", ".", "out", "--shard-bytes", "-1"), ("pack", ".", "out", "--shard-bytes", "x"),
        ("pack", ".", "out", "--workers", "-3"), ("pack", ".", "out", "--engine", "gpu"),
        ("pack", ".", "out", "--on-bad-image", "keep"), ("pack", ".", "out", "--format", "rar"),
        ("pack", ".", "out", "--quality", "101"), ("pack", ".", "/proc/out"), ("pack", "/dev/null", "out"),
        ("pack", "x\ny", "out"), ("pack", "https://", "out"),
        ("verify", "nowhere"), ("verify", "x.txt"), ("verify",), ("inspect", "."), ("inspect", "x.txt", "--split", "q"),
        ("nonsense",), ("pack",), ("train",), ("--nonsense",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_mistake_ends_with_two_and_without_a_traceback(tmp_path, arguments):
    (tmp_path / "x.txt").write_text("no archive")
    done = run(*arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)})
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert not (tmp_path / "out").exists()


def test_the_kinds_of_source_are_told_apart_whatever_they_hold(tmp_path):
    """Files of random bytes and of the beginnings of archives, under every ending: a sentence each time."""
    random = np.random.default_rng(0)
    starts = [
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x1f\x8b\x08",
        b"BZh9",
        b"\xfd7zXZ\x00",
        b"PAR1",
        b"MATLAB 5.0 MAT-file",
        b"",
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("train/n00000000/a.JPEG", encode(draw_picture(0, 0)))
    archive = buffer.getvalue()
    for number in range(120):
        content = starts[number % 8] + random.bytes(int(random.integers(0, 3000)))
        if number % 3 == 0:
            damaged = bytearray(archive)
            for at in random.integers(0, len(damaged), 3):
                damaged[at] ^= int(random.integers(1, 256))
            content = bytes(damaged)
        ending = [".zip", ".tar", ".tar.gz", ".parquet", ".tgz", ".bin", ".tar.xz", ".mat"][int(random.integers(8))]
        path = tmp_path / f"s{number}{ending}"
        path.write_bytes(content)
        with contextlib.suppress(AlexNetFastError):
            pack(path, tmp_path / f"d{number}", workers=0)
        path.unlink()
        shutil.rmtree(tmp_path / f"d{number}", ignore_errors=True)


def test_json_of_a_data_set_is_what_it_says(tmp_path):
    pack(make_source(tmp_path / "source"), tmp_path / "data", workers=0)
    content = json.loads((tmp_path / "data/dataset.json").read_text())
    assert content["splits"]["train"]["records"] == 12
