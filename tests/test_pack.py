"""Packing end to end: every picture once, byte for byte, with the right label, from any container."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.pack import pack
from alexnet_fast.shards import ShardReader

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "tiny-imagenet-10.zip"
WNIDS = ["n01443537", "n01629819", "n02124075"]


def jpeg(seed: int, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize(size).save(out, "JPEG", quality=80, **options)
    return out.getvalue()


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tiny_files(train: int = 4, val: int = 3, test: int = 2) -> dict[str, bytes]:
    """Tiny ImageNet's layout, small."""
    files = {"wnids.txt": "\n".join(reversed(WNIDS)).encode(), "words.txt": b"n01443537\tgoldfish, Carassius\n"}
    annotations = []
    for c, wnid in enumerate(WNIDS):
        for i in range(train):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(100 * c + i)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"x 0 0 1 1\n"
    for i in range(val):
        files[f"val/images/val_{i}.JPEG"] = jpeg(1000 + i)
        annotations.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t9\t9")
    files["val/val_annotations.txt"] = "\n".join(annotations).encode()
    for i in range(test):
        files[f"test/images/test_{i}.JPEG"] = jpeg(2000 + i)
    return files


def write_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def records(dataset: Path, split: str) -> list[tuple[str, int, bytes]]:
    reader = ShardReader(dataset, split)
    try:
        return [(reader.key(i), int(reader.labels[i]), reader.read(i)) for i in range(len(reader))]
    finally:
        reader.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_tiny_imagenet_folder(tmp_path):
    files = tiny_files()
    info = pack(write_files(tmp_path / "tiny", files), tmp_path / "out")
    assert [(c.index, c.wnid, c.name) for c in info.classes] == [
        (0, "n01443537", "goldfish, Carassius"), (1, "n01629819", "n01629819"), (2, "n02124075", "n02124075"),
    ]  # fmt: skip
    expected = {
        f"{wnid}/{wnid}_{i}.JPEG": (c, files[f"train/{wnid}/images/{wnid}_{i}.JPEG"])
        for c, wnid in enumerate(WNIDS)
        for i in range(4)
    }
    assert {key: (label, data) for key, label, data in records(tmp_path / "out", "train")} == expected
    assert sorted(records(tmp_path / "out", "val")) == [
        (f"{WNIDS[i]}/val_{i}.JPEG", i, files[f"val/images/val_{i}.JPEG"]) for i in range(3)
    ]
    assert sorted(records(tmp_path / "out", "test")) == [
        (f"test_{i}.JPEG", -1, files[f"test/images/test_{i}.JPEG"]) for i in range(2)
    ]
    assert not info.splits["test"].labelled
    assert info.splits["val"].labelled
    assert not [name for name in contents(tmp_path / "out") if name.startswith(".")]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_gives_the_records_of_the_folder(tmp_path, method):
    files = tiny_files()
    shuffled = dict(random.Random(0).sample(sorted(files.items()), len(files)))
    pack(write_files(tmp_path / "tiny", files), tmp_path / "a")
    pack(write_zip(tmp_path / "b.zip", {f"tiny/{n}": c for n, c in shuffled.items()}, method), tmp_path / "b")
    for split in ("train", "val", "test"):
        assert records(tmp_path / "a", split) == records(tmp_path / "b", split)


@pytest.mark.skipif(not SAMPLE.exists(), reason="real pictures are not here")
def test_every_real_picture_is_packed_once_byte_for_byte(tmp_path):
    pack(SAMPLE, tmp_path / "out", workers=2)
    with zipfile.ZipFile(SAMPLE) as archive:
        wnids = sorted({n.split("/")[2] for n in archive.namelist() if "/train/" in n and n.endswith(".JPEG")})
        answers = {
            line.split()[0]: line.split()[1]
            for line in archive.read("tiny-imagenet-10/val/val_annotations.txt").decode().splitlines()
        }
        expected = {"train": [], "val": [], "test": []}
        for name in archive.namelist():
            if name.endswith(".JPEG"):
                split, file = name.split("/")[1], name.rpartition("/")[2]
                wnid = {"train": name.split("/")[2], "val": answers.get(file), "test": None}[split]
                label = -1 if wnid is None else wnids.index(wnid)
                expected[split].append((f"{wnid}/{file}" if wnid else file, label, archive.read(name)))
    for split, pictures in expected.items():
        packed = records(tmp_path / "out", split)
        assert sorted(packed) == sorted(pictures)
        assert packed != sorted(packed)  # shuffled
