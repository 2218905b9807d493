"""ImageNet as image-net.org hands it out: tars of training, validation and test images, and a development kit."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ..errors import DamagedDataError, UsageError
from .archives import first_names, list_tar
from .matfile import read_structs
from .table import MemberList, Source
from .tree import WNID, read_tree

TARS = {
    "ILSVRC2012_img_train.tar": "train",
    "ILSVRC2012_img_val.tar": "val",
    "ILSVRC2012_img_test_v10102019.tar": "test",
    "ILSVRC2012_img_test.tar": "test",
}
_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_LABEL_FILES = ("LOC_val_solution.csv", "val_labels.txt", "val_labels.csv", "LOC_synset_mapping.txt", "words.txt")
_LARGEST = 64 << 20


def is_ilsvrc_folder(folder: Path) -> bool:
    """Whether a folder holds ImageNet's tars as downloaded."""
    return any((folder / name).is_file() for name in TARS)


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


def read_ilsvrc(
    name: str, tars: Mapping[str, Path], *, beside: Path | None = None, wanted: Collection[str] | None = None
) -> Source:
    """The source that ImageNet's tars are, by split; labels of val come from files in `beside` or beside the tars.

    Where `wanted` names splits, the labels of others need not be there.

    Raises:
        UsageError: the validation labels are not there; the text says where they are had.
        DamagedDataError: a tar or the development kit is damaged.
    """
    members = MemberList()
    containers = []
    for number, (split, path) in enumerate(tars.items()):
        plain = all(b"/" not in first for first in first_names(path, 1))
        list_tar(path, members, container=number, prefix=split.encode() + b"/" if plain else b"")
        containers.append(path.resolve())
    texts = labels_beside([beside] if beside else [path.parent for path in tars.values()])
    return read_tree(name, members.table(), containers, beside=texts, called="ilsvrc2012", wanted=wanted)


def labels_beside(folders: Iterable[Path]) -> dict[bytes, bytes]:
    """Label and class-name files that lie in `folders`, by name, the development kit's put into those files' form."""
    texts: dict[bytes, bytes] = {}
    for folder in dict.fromkeys(folders):
        for name in _LABEL_FILES:
            if (folder / name).is_file():
                texts.setdefault(name.encode(), _read_limited(folder / name))
        kit = _devkit_files(folder)
        if kit is not None:
            labels, words = _devkit_texts(*kit)
            texts.setdefault(b"words.txt", words)
            if not any(key.startswith((b"LOC_val", b"val_labels")) for key in texts):
                texts[b"val_labels.txt"] = labels
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
