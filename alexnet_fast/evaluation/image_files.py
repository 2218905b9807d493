"""Anyone's image files: finding them, reading them, and naming those that are something else.

Pixels come as a viewer shows them: the camera's orientation mark is followed, transparency is laid on white, and of
several frames the first is taken. What had to be guessed is said beside the pixels.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError, MissingDependencyError, UsageError
from ..images import as_eight_bits
from ..options import is_url
from ..sources import list_images, why_not_fetched
from ..words import counted

Pixels = npt.NDArray[np.uint8]
_LARGEST_FILE = 1 << 30
_KINDS = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_ORIENTATION = 0x0112  # EXIF's tag
# What a camera's raw file is called where its first bytes are those of any TIFF. Pillow would find the small preview
# in it and call that the image.
_RAW = {
    ".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw",
    ".rw2", ".sr2", ".srf", ".srw",
}  # fmt: skip
_RAW_WORDS = "is a camera's raw file: develop it to a JPEG or TIFF first (the package rawpy reads such files)"


@dataclass(frozen=True)
class ImagePixels:
    """One decoded image.

    Attributes:
        pixels: uint8 (height, width, 3), RGB.
        note: what was guessed or left out, '' where nothing was.
    """

    pixels: Pixels
    note: str = ""


def find_images(images: Sequence[Path | str]) -> tuple[list[Path | str], list[str]]:
    """The files and URLs named and the images in the folders named; and a line for each folder that holds others.

    Of a folder, `pack`'s rules hold for what is hidden and what is an image; a file that is named itself is tried
    whatever it is called.

    Raises:
        UsageError: a path is not there, or a folder holds no image.
    """
    if not images:
        raise UsageError("no image was given: name files or folders")
    found: list[Path | str] = []
    lines = []
    for image in images:
        path = Path(image)
        try:
            is_folder, exists = path.is_dir(), path.exists()
        except OSError as error:  # a name of more than 255 bytes
            raise UsageError(f"{str(path)[:80]} is no path ({error.strerror}): check it") from None
        if is_url(image):
            found.append(image)
        elif is_folder:
            inside, account = list_images(path)
            others = f": passed over {account}" if account.left_out else ""
            if not inside:
                raise UsageError(f"the folder {path} holds no images{others}")
            found += inside
            if others:
                lines.append(f"{path}{others}")
        elif exists:
            found.append(path)
        else:
            raise UsageError(f"there is no image {path}: check its path")
    return found, lines


def read_image_file(image: Path | str) -> ImagePixels:
    """Read one file, or what a URL gives, whatever is in it.

    Raises:
        DamagedDataError: it is no image that can be read; the text has no subject and says what it is.
        MissingDependencyError: a URL needs a package that is not installed.
    """
    data = _fetch(image) if isinstance(image, str) and is_url(image) else _read(Path(image))
    suffix = Path(image).suffix.lower()
    what = _not_an_image(data, suffix)
    if what:
        raise DamagedDataError(what)
    try:
        return _decode(data)
    except DamagedDataError:
        raise
    except Exception as error:  # Pillow's readers raise whatever they meet in a file that nobody meant them to read
        reason = " ".join(str(error).split()) or type(error).__name__
        if "cannot identify image file" in reason:
            kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), "")
            raise DamagedDataError(
                f"is a damaged {kind}: copy or download it again"
                if kind
                else "is no image in a format that Pillow reads: save it as a PNG or JPEG"
            ) from None
        if "truncated" in reason.lower():
            raise DamagedDataError("is cut short: copy or download it again") from None
        raise DamagedDataError(f"cannot be decoded ({reason[:200]}): copy or download it again") from None


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise DamagedDataError("is a folder, a pipe or a device, not an image file")
        if path.stat().st_size > _LARGEST_FILE:
            raise DamagedDataError(f"has {path.stat().st_size:,} bytes, more than any image: give a smaller copy")
        return path.read_bytes()
    except OSError as error:
        raise DamagedDataError(f"cannot be read ({error.strerror})") from None


def _fetch(url: str) -> bytes:
    try:
        import fsspec
    except ImportError:
        raise MissingDependencyError(
            f"{url} is a URL, which needs fsspec: pip install 'alexnet-fast[remote]', or download the file first"
        ) from None
    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read(_LARGEST_FILE + 1)
    except ImportError as error:
        raise MissingDependencyError(f"{url} needs a package that is not installed: {error}") from None
    except Exception as error:  # each protocol's client raises what it likes
        raise DamagedDataError(why_not_fetched(error)) from None
    if len(data) > _LARGEST_FILE:
        raise DamagedDataError(f"has more than {_LARGEST_FILE:,} bytes: give a smaller copy")
    return data


# ---------------------------------------------------------------------------------------------------------------------
# What is no image, by its first bytes

_ISO_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_ISO_VIDEO = {b"isom", b"iso2", b"iso5", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"dash", b"3gp4", b"3gp5"}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "is a PDF: save its page as a PNG first (pdftoppm -png, or the package pdf2image)"),
    (b"%!PS", "is PostScript: save it as a PNG first (with Ghostscript)"),
    (b"\xc5\xd0\xd3\xc6", "is PostScript: save it as a PNG first (with Ghostscript)"),
    (b"gimp xcf", "is a project of GIMP: export it as a PNG first"),
    (b"PK\x03\x04", "is a zip archive: unpack it and give its images"),
    (b"\x1f\x8b", "is a gzip file: unpack it and give its images"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it and give its images"),
    (b"Rar!", "is a RAR archive: unpack it and give its images"),
    (b"PAR1", "is a parquet file: `alexnet-fast pack` reads such"),
    (b"\x93NUMPY", "is a numpy array: save it as a PNG first"),
    (b"\x89HDF", "is an HDF5 file: save its image as a PNG first"),
    (b"\x00\x05\x16\x07", "is what macOS keeps beside a file, not the image: give the one whose name lacks the '._'"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the image: fetch it with `git lfs pull`"),
    (b"\x1aE\xdf\xa3", "is a video: save a frame of it as a PNG first"),
)


def _not_an_image(data: bytes, suffix: str) -> str:
    """What a file is, where that is no image Pillow should read: the words behind its name; else ''."""
    head = data[:1024]
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if not data:
        return "is empty: copy or download it again"
    if not data.strip(b"\0"):
        return "holds nothing but zeros: copy or download it again"
    found = next((words for magic, words in _MAGIC if head.startswith(magic)), "")
    if found:
        return found
    if brand in _ISO_HEIF and not _plugin("pillow_heif", "register_heif_opener"):
        return "is HEIC, which needs pillow-heif (pip install pillow-heif); or save it as a JPEG"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")) and not _plugin("pillow_jxl"):
        return "is JPEG XL, which needs pillow-jxl-plugin (pip install pillow-jxl-plugin); or save it as a PNG"
    if brand == b"crx " or head[:16] == b"FUJIFILMCCD-RAW " or (suffix in _RAW and head[:2] in (b"II", b"MM")):
        return _RAW_WORDS
    if brand in _ISO_VIDEO or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "is a video: save a frame of it as a PNG first"
    if data[128:132] == b"DICM":
        return "is a DICOM file: save it as a PNG first (the package pydicom reads such files)"
    return _text_words(head)


def _text_words(head: bytes) -> str:
    words = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if words.startswith((b"<!doctype html", b"<html")):
        return "is a web page, perhaps an error page, and not an image: download the image again"
    if words.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and (b"<svg" in words or b"doctype svg" in words):
        return "is SVG, a drawing without pixels: save it as a PNG first (the package cairosvg draws such files)"
    if words.startswith((b"{", b"[", b"<?xml", b"<error")):
        return "is text, perhaps a server's error, and not an image: download the image again"
    return ""


def _plugin(module: str, register: str = "") -> bool:
    """Whether a package that teaches Pillow a format is installed; it is loaded where it is."""
    try:
        loaded = importlib.import_module(module)
        if register:
            getattr(loaded, register)()
    except Exception:  # not there, or not for this Pillow: then it is as good as not there
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Pixels


def _decode(data: bytes) -> ImagePixels:
    from PIL import Image

    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata in images that are sound
        with Image.open(io.BytesIO(data)) as opened:
            if opened.format == "EPS":
                raise DamagedDataError("is PostScript: save it as a PNG first (with Ghostscript)")
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format != "MPO":  # a camera's second picture is its preview, or the other eye's
                notes.append(f"the first of its {frames:,} frames")
            opened.load()
            turn = _turn(opened)
            if opened.mode.startswith("I") or opened.mode == "F":
                notes.append(grey_note(np.asarray(opened), sixteen=opened.mode.startswith("I;16")))
            image = as_eight_bits(opened)
            if turn is not None:
                image = image.transpose(turn)
            pixels = np.array(image.convert("RGB"))
    if not pixels.size:
        raise DamagedDataError("holds no pixel: copy or download it again")
    return ImagePixels(pixels, "; ".join(filter(None, notes)))


def _turn(image: Any) -> Any:
    """How Pillow has to turn the image so that it stands upright; None where it does, or the mark cannot be read.

    Only the mark is read. `ImageOps.exif_transpose` also writes the other tags back, and fails over some that it can
    read: a resolution of -1/0, or a number where text belongs.
    """
    from PIL import Image

    method = Image.Transpose
    turns = {
        2: method.FLIP_LEFT_RIGHT, 3: method.ROTATE_180, 4: method.FLIP_TOP_BOTTOM, 5: method.TRANSPOSE,
        6: method.ROTATE_270, 7: method.TRANSVERSE, 8: method.ROTATE_90,
    }  # fmt: skip
    with contextlib.suppress(Exception):  # a segment that is no EXIF at all
        mark = image.getexif().get(_ORIENTATION)
        if isinstance(mark, tuple) and mark:
            mark = mark[0]
        if isinstance(mark, bytes) and len(mark) == 1:
            mark = mark[0]
        return turns.get(int(mark)) if mark is not None else None
    return None


def grey_note(values: npt.NDArray[Any], *, sixteen: bool = False) -> str:
    """What `as_eight_bits` takes for black and white in deep grey, where the file does not say it itself.

    Args:
        values: any shape.
        sixteen: the format itself says that 65,535 is white.

    Raises:
        DamagedDataError: not one value is a number.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise DamagedDataError("holds no value that is a number")
    low, high = float(values[finite].min()), float(values[finite].max())
    if sixteen:
        dark = high < 65535 / 16
        return f"nearly black: its 16-bit grey goes no further than {high:,.0f} of 65,535" if dark else ""
    if np.issubdtype(values.dtype, np.floating):
        white = 1.0 if high <= 1 else 255.0 if high <= 255 else max(65535.0, high)
    else:
        white = 65535.0 if high <= 65535 else 2.0**31 - 1
    notes = [f"its grey is taken to go from 0, black, to {white:,.10g}, white"]
    if low < 0:
        notes.append(f"what is below 0 (to {low:,.6g}) is black")
    lost = int((~finite).sum())
    if lost:
        notes.append(f"{counted(lost, 'pixel')} without a number {'are' if lost > 1 else 'is'} black")
    return "; ".join(notes)
