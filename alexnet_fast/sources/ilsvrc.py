"""ImageNet as image-net.org hands it out: its tars by what they hold, and the labels of its development kit."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import DamagedDataError, UsageError
from .labels import WNID
from .matfile import read_structs
from .tars import first_names

_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_LABEL_FILES = (
    "val_annotations.txt", "LOC_val_solution.csv", "val_labels.txt", "val_labels.csv", "LOC_synset_mapping.txt",
    "words.txt", "Labels.json",
)  # fmt: skip
_LARGEST = 64 << 20


def is_imagenet_archive(stem: bytes) -> bool:
    """Whether an archive's name without its ending is that of one of ImageNet's tars, or of a tar within them."""
    return stem.startswith(b"ILSVRC2012_img_") or WNID.fullmatch(stem) is not None


def split_of_tar(path: Path) -> str | None:
    """Which of ImageNet's tars this is, by what it holds: 'train', 'val' or 'test'; None if it is none of them."""
    for name in first_names(path, 3):
        base = name.rpartition(b"/")[2]
        if base.endswith(b".tar") and WNID.fullmatch(base.removesuffix(b".tar")):
            return "train"
        for split in ("val", "test"):
            if base.startswith(b"ILSVRC2012_" + split.encode() + b"_"):
                return split
    return None


def labels_beside(folders: Iterable[Path]) -> dict[bytes, bytes]:
    """Label and class-name files that lie in `folders`, by name, the development kit's put into those files' form.

    What the kit holds goes by the kit's name and the name that such a file has.
    """
    texts: dict[bytes, bytes] = {}
    for folder in dict.fromkeys(folders):
        for name in _LABEL_FILES:
            if (folder / name).is_file():
                texts.setdefault(name.encode(), _read_limited(folder / name))
        kit = _devkit_files(folder)
        if kit is not None:
            labels, words = _devkit_texts(*kit)
            if b"words.txt" not in texts:
                texts[f"{_DEVKIT}/words.txt".encode()] = words
            if not any(key.startswith((b"LOC_val", b"val_labels")) for key in texts):
                texts[f"{_DEVKIT}/val_labels.txt".encode()] = labels
    return texts


def _read_limited(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST:
        raise DamagedDataError(f"{path} is too large to be a file of labels")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _devkit_files(folder: Path) -> tuple[str, bytes, bytes] | None:
    """(where, ground truth, meta.mat) of the development kit in `folder`: its tar.gz, or unpacked."""
    for data in (folder / _DEVKIT / "data", folder / "data", folder):
        if (data / _TRUTH).is_file() and (data / "meta.mat").is_file():
            return str(data), _read_limited(data / _TRUTH), _read_limited(data / "meta.mat")
    path = folder / f"{_DEVKIT}.tar.gz"
    if not path.is_file():
        return None
    found: dict[str, bytes] = {}
    try:
        # tarfile reads some headers whole, however long they say they are: it gets no more than is there.
        with gzip.open(path) as packed:
            content = packed.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise DamagedDataError(f"{path} unpacks to more than {_LARGEST >> 20} MiB: it is no development kit")
        with tarfile.open(fileobj=io.BytesIO(content)) as kit:
            for member in kit:
                base = member.name.rpartition("/")[2]
                if base in (_TRUTH, "meta.mat") and member.isfile():
                    file = kit.extractfile(member)
                    found[base] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DamagedDataError(f"{path} is damaged ({error}): fetch it again") from None
    if len(found) < 2:
        raise DamagedDataError(f"{path} holds no {_TRUTH} and meta.mat: fetch it again from image-net.org")
    return str(path), found[_TRUTH], found["meta.mat"]


def _devkit_texts(where: str, truth: bytes, meta: bytes) -> tuple[bytes, bytes]:
    """(lines of 'FILE WNID' for the validation images, lines of 'WNID<tab>words')."""
    try:
        synsets = {int(entry["ILSVRC2012_ID"]): entry for entry in read_structs(meta, "synsets")}
        words = "".join(f"{entry['WNID']}\t{entry['words']}\n" for entry in synsets.values())
        labels = [
            f"ILSVRC2012_val_{number:08d}.JPEG {synsets[int(line)]['WNID']}\n"
            for number, line in enumerate(truth.split(), 1)
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedDataError(f"{where} does not fit together ({error!r}): fetch it again") from None
    except DamagedDataError as error:
        raise DamagedDataError(f"meta.mat of {where} cannot be used: {error}; fetch it again") from None
    return "".join(labels).encode(), words.encode()
