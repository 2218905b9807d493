"""What a file's name says, in one place for folders, archives and `predict`: hidden, an image, a text, something else.

Also how names are decoded: keys and classes are UTF-8, so a name that is not is decoded right or refused, never guessed
into question marks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import DamagedDataError, UsageError

# What file managers, photo stations and notebooks leave behind; everything that begins with a dot is hidden as well.
_JUNK = frozenset(
    (b"__macosx", b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"@eadir", b"$recycle.bin", b"lost+found", b"icon\r",
     b"system volume information", b"__pycache__")
)  # fmt: skip
_IMAGES = frozenset(
    b"jpg jpeg jpe jfif jif mpo png apng gif bmp dib webp avif avifs tif tiff ppm pgm pbm pnm pfm jp2 j2k j2c jpc jpf "
    b"jpx tga pcx dds sgi qoi psd heic heif hif jxl".split()
)  # fmt: skip
_ARCHIVES = (b".tar", b".tar.gz", b".tgz", b".tar.bz2", b".tbz2", b".tar.xz", b".txz", b".zip")
# Never opened to see whether there is an image inside: there are often as many of them as of images.
_NO_IMAGES = frozenset(
    b"txt csv tsv json jsonl ndjson xml html htm md rst yaml yml toml ini cfg log py pyc ipynb sh bat c h cpp m mat "
    b"pdf doc docx xls xlsx ppt pptx rtf tex bib npy npz pkl pickle pt pth ckpt onnx safetensors h5 hdf5 parquet arrow "
    b"feather tfrecord tfrecords beton mds lmdb mdb db sqlite rec idx lst bin zip tar gz tgz bz2 tbz2 xz txz zst lz4 "
    b"7z rar mp4 avi mov mkv webm mp3 wav flac ogg svg eps ps ai dng cr2 cr3 nef arw orf rw2 cls caption "
    b"prompt url lnk exe dll so css js ttf otf woff crc md5 sha256 sha1 part tmp bak".split()
)  # fmt: skip
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0\0\0\0|RIFF.{4}WEBP|.{4}ftypavi[fs]|II\*\0|MM\0\*|P[1-6Ff]\s|"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51|DDS |qoif|8BPS|\0\0\x01\0[\x01-\x20]\0",
    re.DOTALL,
)
HEAD = 16  # bytes that `looks_like_image` asks for
IMAGE, ARCHIVE, OTHER, UNKNOWN = range(4)
_LONGEST_NAME = 4096


def is_hidden(path: bytes) -> bool:
    """Whether a file or folder is hidden, or what a program left behind: by any part of its path, '/' between."""
    return any(part.startswith(b".") or part.lower() in _JUNK for part in path.split(b"/") if part)


def kind_of(name: bytes) -> int:
    """IMAGE, ARCHIVE, OTHER, or UNKNOWN, where only the contents tell, by the ending of a file's name."""
    ending = name[name.rfind(b"/") + 1 :].rpartition(b".")
    if not ending[1]:
        return UNKNOWN
    last = ending[2].lower()
    if last in _IMAGES:
        return IMAGE
    if last in _NO_IMAGES:
        return ARCHIVE if is_archive(name) else OTHER
    return UNKNOWN


def is_image(name: bytes) -> bool:
    """Whether a file's name says that it is an image."""
    return kind_of(name) == IMAGE


def is_archive(name: bytes) -> bool:
    """Whether a file's name says that it is a tar or a zip."""
    return name.lower().endswith(_ARCHIVES)


def stem_of(name: bytes) -> bytes:
    """A file's base name without its ending; of an archive's without both of '.tar.gz'."""
    base = name[name.rfind(b"/") + 1 :]
    for ending in sorted(_ARCHIVES, key=len, reverse=True):
        if base.lower().endswith(ending):
            return base[: -len(ending)]
    return base.rpartition(b".")[0] or base


def looks_like_image(head: bytes) -> bool:
    """Whether a file's first bytes (HEAD of them) are those of a format that Pillow reads."""
    return _MAGIC.match(head) is not None


def ending_of(name: bytes) -> str:
    """'.txt', or 'no ending': how a file is called by its kind, for people."""
    base, dot, last = name[name.rfind(b"/") + 1 :].rpartition(b".")
    return "." + shown(last).lower() if dot and base and len(last) <= 16 else "no ending"


def shown(name: bytes | str) -> str:
    """A name for people: one line, and bytes that are no UTF-8 as escapes."""
    text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def check_name(name: bytes, where: Path | str) -> bytes:
    """A member's name as given, without a leading './'.

    Raises:
        DamagedDataError: it is absolute, climbs out with '..', or holds what no image's name holds.
    """
    while name.startswith(b"./"):
        name = name[2:]
    hostile = (
        name.startswith((b"/", b"\\"))
        or (b".." in name and b".." in name.split(b"/"))
        or b"\\" in name
        or b"\0" in name
        or name[1:3] in (b":/", b":")
    )
    if hostile or len(name) > _LONGEST_NAME:
        raise DamagedDataError(
            f"{where} holds a member with an unsafe name ({name[:200].decode(errors='replace')!r}): nothing was packed "
            "from it; get the archive from a source that you trust"
        )
    return name


def check_utf8(name: bytes, where: str) -> None:
    """Refuse a name that is not UTF-8, which neither a key nor a class may be.

    Raises:
        UsageError: it is not; the text says how to rename it.
    """
    if name.isascii():
        return
    try:
        name.decode()
    except UnicodeDecodeError:
        raise UsageError(
            f"{where} has the name {shown(name)}, which is not UTF-8: rename it (`convmv -r -f latin1 -t utf8 --notest "
            "FOLDER`, with the encoding that it has)"
        ) from None


def composed(name: bytes) -> bytes:
    """A UTF-8 name in Unicode's composed form, in which an accented letter is one character however it was typed."""
    return name if name.isascii() else unicodedata.normalize("NFC", name.decode()).encode()


def refuse_equal_names(names: Collection[bytes], where: str) -> None:
    """Refuse classes that are one to a reader although their bytes differ.

    Raises:
        UsageError: two names differ in their Unicode form only.
    """
    seen: dict[bytes, bytes] = {}
    for name in names:
        twin = seen.setdefault(composed(name), name)
        if twin != name:
            raise UsageError(
                f"{where} has two classes called {shown(name)}, whose names differ in their Unicode form only: give "
                "both one name"
            )


def decode_zip_names(names: Sequence[bytes], where: Path | str) -> tuple[str, list[bytes]]:
    """(encoding, the names as UTF-8) of those names of one zip that do not say their encoding.

    They are UTF-8 where all are valid as that. Else cp437, as the format says, where each odd byte is a letter in it;
    or GBK, which Chinese programs write, where each pair of odd bytes is a Chinese character, and not all of them are
    Korean ones as well.

    Raises:
        UsageError: none of these; the text says what to do.
    """
    try:
        for name in names:
            name.decode()
        return "UTF-8", list(names)
    except UnicodeDecodeError:
        pass
    odd = b"".join(re.sub(rb"[\0-\x7f]+", b"", name) for name in names)
    # 0x80 to 0xA5 are accented letters, 0xE1 is the sharp s; what is above are lines and boxes.
    if all(byte <= 0xA5 or byte == 0xE1 for byte in odd):
        return "cp437", [name.decode("cp437").encode() for name in names]
    runs = [run for name in names for run in re.findall(rb"[\x80-\xff]+", name)]
    pairs = [run[at : at + 2] for run in runs for at in range(0, len(run), 2)]
    if all(len(p) == 2 and 0xB0 <= p[0] <= 0xF7 and p[1] >= 0xA1 for p in pairs) and any(p[0] > 0xC8 for p in pairs):
        try:
            return "GBK", [name.decode("gb2312").encode() for name in names]
        except UnicodeDecodeError:
            pass
    sample = next(name for name in names if not name.isascii())
    raise UsageError(
        f"{where} has names in an encoding that it does not tell ({shown(sample)}): unpack it where its names are read "
        "right, and give the folder"
    )
