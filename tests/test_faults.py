"""What goes wrong around pack and train: disks, permissions, changing files, bad images and labels of every kind."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import functools
import io
import os
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_image, encode
from PIL import Image

from alexnet_fast import LoaderConfig, TrainConfig, open_loader, train
from alexnet_fast.dataset import ShardReader, read_dataset_info, verify
from alexnet_fast.errors import AlexNetFastError, DamagedDataError, StorageError, UsageError
from alexnet_fast.images import compiled_code
from alexnet_fast.inspection import inspect
from alexnet_fast.packing import pack
from alexnet_fast.system import NoProgress, write_file_atomically
from alexnet_fast.training.checkpoint import load_checkpoint, save_checkpoint
from alexnet_fast.training.run_folder import RunFolder

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
    assert "a fault in" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def make_source(folder: Path, count: int = 12, side: int = 64) -> Path:
    for label in range(2):
        place = folder / "train" / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(count // 2):
            (place / f"{number}.JPEG").write_bytes(encode(draw_image(label, number, (side, side))))
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

    def start(self, total: int, unit: str = "images") -> None:
        self.action()


# ---- disks


@linux_root
def test_a_full_disk_keeps_what_is_finished(tmp_path):
    source = make_source(tmp_path / "source", 60, 200)
    with small_disk(tmp_path / "disk", "400k") as disk:
        with pytest.raises((StorageError, DamagedDataError), match=r"free|make room"):
            pack(source, disk / "data", shard_bytes=60_000, workers=0)
        finished = sorted(p.name for p in (disk / "data").glob("*.lmdb"))
        assert finished
        assert not list((disk / "data").glob(".*.partial"))
        assert not (disk / "data" / "dataset.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        first = (disk / "data" / finished[0] / "data.mdb").stat().st_ino
        pack(source, disk / "data", shard_bytes=60_000, workers=0)
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
        assert "Read-only" in one_sentence(run("pack", source, disk / "data", "--overwrite", "--workers", "0"), 1, 2)
        assert verify(disk / "data", decode=True, workers=0).ok  # reading takes no write
        assert "train" in inspect(disk / "data")


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
        config = TrainConfig(
            dataset=packed_small, run_dir=disk / "run", recipe="notebook", batch_size=16, image_size=32, max_steps=1,
            overrides={"width": 0.0625}, device="cpu", num_workers=1,
        )  # fmt: skip
        with pytest.raises(AlexNetFastError, match=f"could not be written to {disk / 'run'}"):
            train(config)
        assert not list((disk / "run").glob(".*.tmp"))


@linux_root
def test_a_target_on_another_file_system(tmp_path):
    """DATASET is a link to another disk than the source and the temporary files; a run folder is so too."""
    source = make_source(tmp_path / "source")
    with small_disk(tmp_path / "disk", "8m") as disk:
        (disk / "data").mkdir()
        (tmp_path / "data").symlink_to(disk / "data")
        pack(source, tmp_path / "data", workers=0)
        assert verify(tmp_path / "data", decode=True, workers=0).records == 12
        seek = ["train-00000-of-00001.seek"] if compiled_code() is not None else []
        assert sorted(p.name for p in (disk / "data").iterdir()) == [
            "dataset.json", "train-00000-of-00001.index.npy", "train-00000-of-00001.lmdb", *seek,
        ]  # fmt: skip
        (disk / "run").mkdir()
        (tmp_path / "run").symlink_to(disk / "run")
        for step in (1, 2):
            save_checkpoint(tmp_path / "run", {"model": {}, "step": step}, best=True)
        assert load_checkpoint(disk / "run/best.pt")["step"] == 2
        assert load_checkpoint(disk / "run/previous.pt")["step"] == 1


def test_checkpoints_where_a_file_has_but_one_name(tmp_path, monkeypatch):
    """FAT, some network and container file systems know no hard links."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2):
        save_checkpoint(tmp_path, {"model": {}, "step": step}, best=step == 1)
    steps = {path.name: load_checkpoint(path)["step"] for path in tmp_path.iterdir()}
    assert steps == {"last.pt": 2, "previous.pt": 1, "best.pt": 1}


def test_a_folder_in_place_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for path in (Path(), Path(".."), Path("folder"), Path("/"), Path("no/file")):
        with pytest.raises(StorageError, match=f"^{path}: "):
            write_file_atomically(path, b"content")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# ---- what killed processes leave


def test_a_run_folder_is_cleared_of_what_a_killed_process_left(tmp_path):
    left = [".config.json.71.tmp", ".metrics.jsonl.8.tmp", ".summary.json.9.tmp", ".last.pt.tmp", ".best.pt.tmp"]
    kept = [".git", ".last.pt.tmp.mine", "notes.tmp"]
    for name in [*left, *kept]:
        (tmp_path / name).write_text("x")
    RunFolder(tmp_path, resume=True).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, ".lock"])


# ---- many workers


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_sixty_four_loader_workers_finish(packed_small, kind):
    """More workers than cores, and than images in a batch."""
    config = LoaderConfig(
        dataset=packed_small, split="train", batch_size=4, image_size=32, num_workers=64, backend="torchvision",
        device="cpu", prefetch=1, options={"workers": kind},
    )  # fmt: skip
    with contextlib.closing(open_loader(config)) as loader:
        for _ in range(2):
            assert sum(len(labels) for _, labels in loader) == 52


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
        lambda victim: victim.write_bytes(b"text that is longer than any image here was " * 400),
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
        with pytest.raises(UsageError) as caught:
            pack(source, tmp_path / "data", workers=0)
        refused.append(str(caught.value))

    info = pack(source, tmp_path / "data", workers=0, progress=AtStart(second))
    assert "another pack is writing to" in refused[0]
    assert info.splits["train"].records == 12
    assert verify(tmp_path / "data", decode=True, workers=0).ok


def test_two_packs_of_which_one_ends_while_the_other_locks(tmp_path, monkeypatch):
    """The lock's file is tidied away between its opening and its locking: that lock would keep nobody out."""
    source = make_source(tmp_path / "source")
    lock, refused = fcntl.flock, []

    def after_the_other_has_ended(file, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        shutil.rmtree(tmp_path / "data" / ".pack")
        lock(file, how)

    def third() -> None:
        with pytest.raises(UsageError) as caught:
            pack(source, tmp_path / "data", workers=0)
        refused.append(str(caught.value))

    monkeypatch.setattr(fcntl, "flock", after_the_other_has_ended)
    assert pack(source, tmp_path / "data", workers=0, progress=AtStart(third)).splits["train"].records == 12
    assert "another pack is writing to" in refused[0]


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


# ---- images


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` grey pixels, all black, in some 0.1% of their bytes; made without its pixels."""
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = block.compress(bytes(side)) + block.flush(zlib.Z_FULL_FLUSH)  # one row; after a full flush it may repeat
    row = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = row.compress(bytes(1)) + row.flush(zlib.Z_FULL_FLUSH)
    sums = (side * (side + 1)) % 65521 << 16 | 1  # Adler-32 of nothing but zeros
    pixels = b"\x78\xda" + (head + zeros) * side + b"\x03\x00" + struct.pack(">I", sums)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png


# 24 x 16 pixels by libjpeg with arith_code set; Pillow writes no such file.
ARITHMETIC = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02>k%7Zed27Zw*D92+1gLMtdGB`8rkJupIGRb^yfRb5+Zc$tA}agcLcU4^xVke;Kft*d8%"
    "yve$z$C;?Br2pFhLjfEf9w;LyPAe-;q;6eqq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@@4J"
    "01*fP5C9kh0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf!*ssr){CrYASc5A`{Q!ecIgGgF?2xH1lh(sb0qxEbLDuJt"
    "3vw&gI1FgS=1g1cIzDOFJK#s~GMJ42*#"
)
# 24 x 16 pixels of 12 bits a sample, which neither Pillow nor libjpeg-turbo's 8-bit interface reads.
TWELVE_BITS = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02>k%7Zed27Zw*D92+1gLMtdGB`8rkJupIGRb^yfRb5+Zc$tA}agcLcU4^xVke;Kft*d8%"
    "yve$z$C;?Br2pFhLjfEf9w;LyPAe-;q;6eqq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@<*zq@@4B"
    "01*rT5C9kh0U`hb5di}c0sq7R7XSbQ0RR910000000000000032nzqi02mMe0s{a50000000000000000taKE|HJ?k0RaF200000"
    "00000000000095Q02C1c00000000000000000000|Jncy0|5X65d#qbKLF2iN3`Jdk7>fBNcNl_k?lAHwvp{P1y+&mH~@eD*#"
)


@functools.cache
def zoo() -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, 'packed' as it is, 'encoded' anew, 'refused', or 'any' of these)."""
    rgb = draw_image(1, 1, (80, 60))
    good = encode(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    cmyk = bytearray(_saved(rgb.convert("CMYK"), "JPEG"))
    ycck = bytearray(cmyk)
    adobe = ycck.index(b"Adobe")
    ycck[adobe + 11] = 2
    frame = good.index(b"\xff\xc0")
    no_size = bytearray(good)
    no_size[frame + 5 : frame + 9] = bytes(4)
    return {
        "good": (good, "packed"),
        "grey": (encode(rgb.convert("L")), "packed"),
        "one": (encode(draw_image(0, 0, (1, 1))), "packed"),
        "thin": (encode(draw_image(0, 0, (1, 5000))), "packed"),
        "wide": (encode(draw_image(0, 0, (5000, 1))), "packed"),
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
        "twelve": (TWELVE_BITS, "refused"),
        "arithmetic": (ARITHMETIC, "encoded"),
        "no-size": (bytes(no_size), "refused"),
        "bomb": (bomb(20_000), "refused"),
    }


def test_every_kind_of_bad_image(tmp_path):
    """Images that are empty, text, zeros, cut, PNG, GIF, WebP, BMP, palette, alpha, 16-bit, CMYK, YCCK, 12-bit,
    arithmetic-coded, progressive, with restart markers, 1x1, 1x5000, 5000x1, 20,000x20,000, grey, with EXIF, with
    trailing garbage or 10 MB of ICC profile, all of them named .JPEG.

    What can be decoded is packed, in a form that every backend decodes; what cannot is named and left out.
    """
    images = zoo()
    place = tmp_path / "source/train/n00000000"
    place.mkdir(parents=True)
    for name, (content, _) in images.items():
        (place / f"{name}.JPEG").write_bytes(content)
    done = run("pack", tmp_path / "source", tmp_path / "data", "--on-bad-image", "skip", "--workers", "0")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert verify(tmp_path / "data", decode=True, workers=0).ok
    reader = ShardReader(tmp_path / "data", "train")
    stored = {Path(reader.key(i)).stem: reader.read(i) for i in range(len(reader))}
    left_out = {Path(entry["key"]).stem for entry in read_dataset_info(tmp_path / "data").packing["left_out"]}
    assert stored.keys() | left_out == images.keys()
    assert not stored.keys() & left_out
    for name, (content, fate) in images.items():
        if fate == "packed":
            assert stored[name] == content, name
        elif fate == "encoded":
            assert stored[name] != content, name
        elif fate == "refused":
            assert name in left_out, name
    for name, jpeg in stored.items():
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.format == "JPEG", name
            assert image.mode in ("RGB", "L"), name
            image.load()


@pytest.mark.parametrize("name", ["empty", "text", "twelve"])
def test_a_bad_image_is_named(tmp_path, name):
    place = tmp_path / "source/train/n00000000"
    place.mkdir(parents=True)
    (place / "fine.JPEG").write_bytes(zoo()["good"][0])
    (place / f"{name}.JPEG").write_bytes(zoo()[name][0])
    with pytest.raises(DamagedDataError, match=rf"{name}\.JPEG.*--on-bad-image skip"):
        pack(tmp_path / "source", tmp_path / "data", workers=0)


# ---- labels


def tiny(folder: Path, annotations: bytes, *, words: bytes = b"n00000000\tcat\nn00000001\tdog\n") -> Path:
    """A Tiny ImageNet of two classes, with these val_annotations."""
    for label in range(2):
        place = folder / f"train/n{label:08d}/images"
        place.mkdir(parents=True)
        for number in range(2):
            (place / f"n{label:08d}_{number}.JPEG").write_bytes(encode(draw_image(label, number, (64, 64))))
    (folder / "val/images").mkdir(parents=True)
    for number in range(2):
        (folder / f"val/images/val_{number}.JPEG").write_bytes(encode(draw_image(number, 9, (64, 64))))
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
        # Two names of the first are of images that are not there.
        pack(tiny(tmp_path / "tiny", annotations), tmp_path / "data", workers=0, on_missing="skip")
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
    ids=["no class", "unknown wnid", "image without line", "two classes", "binary", "empty"],
)
def test_labels_that_cannot(tmp_path, annotations, named):
    with pytest.raises((UsageError, DamagedDataError), match=named):
        pack(tiny(tmp_path / "tiny", annotations), tmp_path / "data", workers=0)
    assert not (tmp_path / "data/dataset.json").exists()


def test_names_in_chinese_and_with_spaces(tmp_path):
    for name in ("猫 和 狗", "a b"):
        place = tmp_path / "图片 源/train" / name
        place.mkdir(parents=True)
        (place / "图 1.JPEG").write_bytes(encode(draw_image(0, 0, (64, 64))))
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


def tar_header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """512 bytes whose checksum fits, whatever they claim."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size.ljust(12, b"\0")
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax_size(value: bytes) -> bytes:
    """A pax header that gives the size of the member after it."""
    record = b" size=" + value + b"\n"
    record = b"%d" % (len(record) + 2) + record
    return tar_header("x", b"%o" % len(record), b"x") + record.ljust(512, b"\0") + tar_header("a/1.jpg", b"0")


@pytest.mark.parametrize(
    "content",
    [
        tar_header("a/1.jpg", b"\x80" + b"\xff" * 11),
        tar_header("a/1.jpg", b"\xff" * 12),
        tar_header("a/1.jpg", b"-0000000007"),
        tar_header("a/1.jpg", b"77777777777"),
        tar_header("a/1.jpg", b"00000000000", b"S"),
        pax_size(b"-77777777777"),
        pax_size(b"9" * 25),
        pax_size(b"1e9"),
        tar_header("x", b"00000000005", b"x") + b"99999".ljust(512, b"\0") + tar_header("a/1.jpg", b"0"),
        tar_header("x", b"77777777777", b"L") + bytes(512),
        tar_header("a.tar", b"00000001000") + tar_header("b.tar", b"77777777777"),
    ],
    ids=[
        "2^88 bytes", "negative", "negative octal", "8 GiB in 1 KiB", "sparse", "negative in pax", "10^25 in pax",
        "no number in pax",
        "a pax record longer than its header", "a name of 8 GiB", "a tar within that reaches past it",
    ],
)  # fmt: skip
def test_a_tar_that_claims_what_it_does_not_hold(tmp_path, content):
    path = tmp_path / "bad.tar"
    path.write_bytes(content + bytes(1024))
    with pytest.raises((DamagedDataError, UsageError), match=r"bad\.tar"):
        pack(path, tmp_path / "data", workers=0)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar"]


def test_a_zip_that_claims_what_it_does_not_hold(tmp_path):
    """Sizes, offsets and counts of the directory, each made huge: refused, or of no consequence."""
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/n00000000/a.JPEG", image := encode(draw_image(0, 0)))
    sound = path.read_bytes()
    entry, end = sound.index(b"PK\x01\x02"), sound.rindex(b"PK\x05\x06")
    for at, width in (
        (entry + 20, 4), (entry + 24, 4), (entry + 28, 2), (entry + 30, 2), (entry + 32, 2), (entry + 42, 4),
        (end + 8, 2), (end + 10, 2), (end + 12, 4), (end + 16, 4), (end + 20, 2),
    ):  # fmt: skip
        for value in (b"\xff" * width, b"\xfe" + b"\xff" * (width - 1), b"\x00" * (width - 1) + b"\x7f"):
            path.write_bytes(sound[:at] + value + sound[at + width :])
            try:
                pack(path, tmp_path / "data", workers=0)
            except AlexNetFastError as error:
                assert "bad.zip" in str(error)
            else:
                assert ShardReader(tmp_path / "data", "train").read(0) == image
                shutil.rmtree(tmp_path / "data")
            assert [p.name for p in tmp_path.iterdir()] == ["bad.zip"]


def test_a_parquet_file_built_to_hurt(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    image = {"bytes": encode(draw_image(0, 0)), "path": "../../../etc/x\x00.jpg"}
    for number, labels in enumerate(([2**31 - 2, 0], [2**60, 0], ["a", "b"], [-(2**63), 0], [1e9, 0.5])):
        path = tmp_path / f"train-{number}.parquet"
        pq.write_table(pa.table({"image": [image, image], "label": labels}), path)
        with contextlib.suppress(AlexNetFastError):
            pack(path, tmp_path / f"data{number}", workers=0)
    assert not (tmp_path.parent / "etc").exists()


def test_a_mat_file_built_to_hurt():
    """Matrices nested ten thousand deep, deflated: each level would hold another copy of the rest."""
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
