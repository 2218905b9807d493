"""Names what people give that is no source of images, and says what to do with it."""

from __future__ import annotations

import json
from pathlib import Path

from .names import looks_like_image

_HEAD = 4096
_LOOKED_AT = 20
_PLAIN = (".txt", ".md", ".json", ".xml", ".html", ".csv")
_TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself: run `git lfs pull` where it was cloned"),
    (b"<!doctype html", "a web page (a login or an error page): download the file itself again"),
    (b"<html", "a web page (a login or an error page): download the file itself again"),
    (b"<?xml", "an XML text (a server's error, perhaps): download the file itself again"),
    (b"{", "a JSON text (a server's error, perhaps): download the file itself again"),
)
_MAGIC = (
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard, which is not read here: unpack it with `unzstd`"),
    (b"\x04\x22\x4d\x18", "compressed with LZ4, which is not read here: unpack it with `unlz4`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive, which is not read here: unpack it with `7z x` and give the folder"),
    (b"Rar!\x1a\x07", "a RAR archive, which is not read here: unpack it with `unrar x` and give the folder"),
    (b"ARROW1", "an Arrow file: write it as parquet (`datasets.load_from_disk(FOLDER)`, then `.to_parquet(FILE)`)"),
    (b"\x93NUMPY", "a NumPy array of pixels: write its images as files, in a folder for each class"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file: write its images as files, in a folder for each class"),
    (b"SQLite format 3\0", "an SQLite database: write its images as files, in a folder for each class"),
    (b"\x80\x04\x95", "a pickle, which is never read (it could run anything): write its images as files"),
    (b"\x80\x02", "a pickle, which is never read (it could run anything): write its images as files"),
    (b"%PDF", "a PDF"),
)
_ENDINGS = {
    ".beton": "a file of FFCV's, which is not read here: give the images that it was made of",
    ".mds": "a shard of MosaicML's MDS, which is not read here: give the images that it was made of",
    ".tfrecord": "a file of TFRecords, which is not read here: write its images as files, or as WebDataset tars",
    ".tfrecords": "a file of TFRecords, which is not read here: write its images as files, or as WebDataset tars",
    ".npz": "a NumPy archive of pixels: write its images as files, in a folder for each class",
    ".arrow": "an Arrow file: write it as parquet (`datasets.load_from_disk(FOLDER)`, then `.to_parquet(FILE)`)",
    ".rec": "a RecordIO file, which is not read here: write its images as files",
    ".mdb": "an LMDB database: a data set of alexnet-fast's is packed already; of any other, write its images as files",
}


def describe_file(path: Path) -> str | None:
    """What a file is, and what to do, where it is no source; None where it may be one.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "empty (0 bytes): fetch it again"
    plain = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for start, what in _TEXTS:
        if plain.startswith(start):
            return what
    for start, what in _MAGIC:
        if head.startswith(start):
            return what
    ending = _ENDINGS.get(path.suffix.lower())
    if ending:
        return ending
    if looks_like_image(head):
        return "a single image: give the folder or archive that it lies in"
    if _is_tfrecord(head, path.stat().st_size):
        return _ENDINGS[".tfrecord"]
    return None


def _is_tfrecord(head: bytes, size: int) -> bool:
    """Whether a file begins with a record: a length that fits, its checksum, and a message of one field."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 16 and 0 < length <= size - 16 and head[12] == 0x0A and head[4:8] == bytes(4)


def describe_folder(path: Path) -> str | None:
    """What a folder is, and what to do, where it is known for something else than a source; None where not."""
    if (path / "dataset.json").is_file() and (
        any(path.glob("*.lmdb")) or _has(path / "dataset.json", "classes", "splits")
    ):
        return "a data set that is packed already: train and evaluate read it as it is"
    if (path / "data.mdb").is_file():
        return (
            "an LMDB database: a data set of alexnet-fast's is packed already; of any other, write its images as files"
        )
    if (path / "config.json").is_file() and any(
        (path / name).is_file() for name in ("metrics.jsonl", "last.pt", "best.pt")
    ):
        return "a run folder, which training writes: give the images that it was trained on"
    if (path / "index.json").is_file():
        if any(path.glob("**/*.mds*")) or _has(path / "index.json", "shards"):
            return "a data set of MosaicML's MDS, which is not read here: give the images that it was made of"
        if any(path.glob("chunk-*.bin")) or _has(path / "index.json", "chunks"):
            return "a data set of LitData's, which is not read here: give the images that it was made of"
    if any(path.glob("*.arrow")) or any(path.glob("*/*.arrow")):
        return (
            "a data set of Arrow files: write it as parquet (datasets.load_from_disk(FOLDER), then .to_parquet(FILE))"
        )
    return None


def _has(path: Path, *names: str) -> bool:
    try:
        content = json.loads(path.read_bytes()[: 1 << 24])
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(name in content for name in names)


def describe_contents(path: Path) -> str | None:
    """What some file in a folder without images is: 'FILE in it is ...'; None where none is known."""
    for file in sorted(path.iterdir())[:_LOOKED_AT]:
        if file.suffix.lower() in _PLAIN or file.name.startswith(".") or not file.is_file():
            continue
        what = describe_file(file)
        if what is not None:
            return f"{file.name} in it is {what}"
    return None
