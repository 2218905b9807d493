"""What tests pack: small images, the files of Tiny ImageNet's layout, zips; and what came of them, record by record."""

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_fast.dataset import ShardReader
from alexnet_fast.sources import Source, open_source

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


def tar_bytes(files: dict[str, bytes], mode: str = "w", format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def tree_files(*classes: str, splits: dict[str, int] | None = None, ending: str = "jpg") -> dict[str, bytes]:
    """Class folders under split folders, so many images in each class: train/cat/0.jpg ..."""
    return {
        f"{split}/{name}/{split.replace('/', '-')}{i}.{ending}": jpeg(1000 * c + i)
        for split, count in (splits or {"train": 2, "val": 1}).items()
        for c, name in enumerate(classes or ("cat", "dog"))
        for i in range(count)
    }


def look(source: Path, **options: object) -> tuple[dict[str, dict[str, int]], Source]:
    """({split: {class or '': how many images}}, the source) of what `open_source` finds."""
    found = open_source(source, staging=source.parent / "staging", **options)
    counts: dict[str, dict[str, int]] = {}
    for name, split in found.splits.items():
        labels = split.images["label"].tolist()
        counts[name] = dict(Counter(found.classes[label][0] if label >= 0 else "" for label in sorted(labels)))
    return counts, found
