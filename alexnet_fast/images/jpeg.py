"""Decides of one encoded image whether every decoder of this package takes it as it is, and mends it where not.

What stays byte for byte: 8-bit baseline or progressive Huffman JPEGs, greyscale or of three components, that
libjpeg-turbo decodes to the end without a warning. Everything else that can be decoded is encoded anew.

EXIF orientation is ignored, as ImageNet's labels and published results have it: pixels stay as they are stored.
Transparency is laid on white.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import simplejpeg

from ..errors import DamagedDataError
from .crop import find_row_starts

if TYPE_CHECKING:
    from PIL import Image

# An image that claims more is refused before anything is decoded: its pixels alone would take 400 MB.
MAX_PIXELS = 1 << 27
# libjpeg-turbo decodes every scan of a progressive JPEG; thousands of empty ones in a small file would take minutes.
MAX_SCANS = 500
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SOI, _SOS = b"\xff\xd8", b"\xff\xda"
_ODD_HEADER, _ODD_SAMPLING = "odd JPEG header", "odd JPEG sampling"
# A Huffman code has a bit at least and a block of 8 x 8 pixels takes one, so a smaller file has lost nearly all of its
# image, or is made to fill the memory: one of 5 kB took 790 MB to decode.
_MOST_PIXELS_A_BYTE = 8 * 64
_SOF_NAMES = {
    0xC1: "extended sequential", 0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded", 0xCB: "lossless arithmetic-coded",
    0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "hierarchical",
}  # fmt: skip


class Frame(NamedTuple):
    """What a JPEG's frame header says, and where it is.

    Attributes:
        sof: the second byte of its marker.
        precision: bits a sample.
        height, width: pixels.
        components: colour channels.
        at: the byte at which its marker begins.
    """

    sof: int
    precision: int
    height: int
    width: int
    components: int
    at: int


class PreparedImage(NamedTuple):
    """An image fit to be packed.

    Attributes:
        data: the encoded JPEG.
        width, height: pixels.
        reason: why it was encoded anew ('not a JPEG (PNG)', 'CMYK JPEG', 'damaged JPEG: ...', 'odd JPEG header: ...',
            'odd JPEG sampling: ...', 'resized'); '' where it was not.
        seek: its entry of a seek index; b'' where it has none.
    """

    data: bytes
    width: int
    height: int
    reason: str
    seek: bytes = b""


def read_frame(data: bytes) -> Frame | None:
    """The frame header of a JPEG; None where `data` is none or breaks off before its frame."""
    if data[:2] != b"\xff\xd8":
        return None
    at, end = 2, len(data)
    while at + 9 < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return Frame(
                marker, data[at + 4], data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8], data[at + 9],
                at,
            )  # fmt: skip
        if marker == 0xD9 or marker == 0xDA:
            return None
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def check(data: bytes) -> tuple[int, int, str]:
    """(width, height, what is wrong) of an encoded image; nothing is wrong where the text is empty.

    Raises:
        DamagedDataError: as `examine`.
    """
    return examine(data)[:3]


def examine(data: bytes) -> tuple[int, int, str, bytes]:
    """(width, height, what is wrong, seek entry) of an encoded image; see `check` and `find_row_starts`.

    Every coefficient is decoded, so that truncation and corruption show as they would in a full decode, but no pixels
    are made. What compiled code takes is sound: 0.6 ms for an image of ImageNet. For the rest libjpeg-turbo decodes to
    an eighth of the size and grey, in 0.97 ms, which spares nearly all of the inverse transform.

    Raises:
        DamagedDataError: the image claims more than MAX_PIXELS, more than so few bytes can hold, or has more than
            MAX_SCANS scans.
    """
    frame = read_frame(data)
    if (frame is None or frame.sof in _PROGRESSIVE) and data[:2] == _SOI and data.count(_SOS) > MAX_SCANS:
        raise DamagedDataError(f"it has {data.count(_SOS)} scans, more than {MAX_SCANS}")
    if frame is None:
        return 0, 0, f"{_ODD_HEADER}: bytes that are no segment" if data[:2] == _SOI else "not a JPEG", b""
    if frame.width * frame.height > MAX_PIXELS:
        raise DamagedDataError(f"it claims {frame.width} x {frame.height} pixels, more than {MAX_PIXELS:,}")
    found = find_row_starts(data)
    if found is not None:
        return frame.width, frame.height, "", found[2]
    wrong = ""
    if frame.sof not in (0xC0, 0xC1, 0xC2):
        wrong = f"{_SOF_NAMES.get(frame.sof, 'unknown')} JPEG"
    elif frame.precision != 8:
        wrong = f"{frame.precision}-bit JPEG"
    elif frame.components not in (1, 3):
        wrong = "CMYK JPEG" if frame.components == 4 else f"JPEG of {frame.components} components"
    elif frame.width * frame.height > _MOST_PIXELS_A_BYTE * len(data):
        raise DamagedDataError(f"it claims {frame.width} x {frame.height} pixels in {len(data):,} bytes")
    else:
        try:
            simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
        except ValueError as error:
            wrong = _header_fault(data, frame) or f"damaged JPEG: {_first_line(error)}"
    return frame.width, frame.height, wrong, b""


def _header_fault(data: bytes, frame: Frame) -> str:
    """What libjpeg-turbo has against the header of a JPEG; '' where it is the image itself that it cannot decode.

    A header that only makes it warn (a damaged ICC profile, stray bytes) says nothing against the image, and a sampling
    that TurboJPEG's interface has no name for is one that libjpeg decodes.
    """
    try:
        simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError as error:
        if "subsampling" in str(error):
            factors = data[frame.at + 11 : frame.at + 11 + 3 * frame.components : 3]
            return f"{_ODD_SAMPLING}: {' '.join(f'{factor >> 4}x{factor & 15}' for factor in factors)}"
        return f"{_ODD_HEADER}: {_first_line(error)}"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def prepare(data: bytes, *, resize_shorter: int | None = None, quality: int = 95) -> PreparedImage:
    """The image as it is packed: the same bytes where all decoders take them, else a new JPEG of it.

    Args:
        data: an encoded image of any kind that Pillow reads.
        resize_shorter: shrink so that the shorter side has so many pixels, keeping the aspect ratio; never enlarge.
        quality: of a new JPEG, 1-100.

    Raises:
        DamagedDataError: nothing can be decoded, or it claims to be too large; the text says what is wrong with it.
    """
    width, height, wrong, seek = examine(data)
    shrink = resize_shorter is not None and min(width, height) > resize_shorter
    if not wrong and not shrink:
        return PreparedImage(data, width, height, "", seek)
    return encode_anew(data, wrong, resize_shorter=resize_shorter, quality=quality)


def encode_anew(data: bytes, wrong: str, *, resize_shorter: int | None, quality: int) -> PreparedImage:
    """Decode with Pillow or, for a damaged JPEG, as far as libjpeg-turbo gets; shrink where asked; encode."""
    from PIL import Image  # workers that need not mend anything start sooner without it

    image, kind = _decode(data, wrong)
    reason = f"{wrong} ({kind})" if wrong == "not a JPEG" else wrong
    size = image.size
    if resize_shorter is not None and min(size) > resize_shorter:
        scale = resize_shorter / min(size)
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
        reason = reason or "resized"
    out = io.BytesIO()
    # Chroma at full resolution keeps a mended image what it was; a shrunk one follows the usual 4:2:0.
    image.save(out, "JPEG", quality=quality, subsampling="4:2:0" if reason == "resized" else "4:4:4")
    found = find_row_starts(out.getvalue())
    return PreparedImage(out.getvalue(), size[0], size[1], reason, found[2] if found else b"")


def _decode(data: bytes, wrong: str) -> tuple[Image.Image, str]:
    """(image in mode RGB or L, kind of file)."""
    from PIL import Image, UnidentifiedImageError

    if wrong == "" or wrong.startswith("damaged JPEG"):
        try:
            pixels = simplejpeg.decode_jpeg(data, strict=False)
        except ValueError as error:
            raise DamagedDataError(_first_line(error)) from None
        if wrong and (pixels == pixels[:1, :1]).all():
            raise DamagedDataError(f"{wrong}, and nothing of the image is left")
        image = Image.fromarray(pixels)
        return (image.convert("L") if _is_grey(data) else image), "JPEG"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(data))
            if opened.width * opened.height > MAX_PIXELS:
                raise DamagedDataError(f"it claims {opened.width} x {opened.height} pixels, more than {MAX_PIXELS:,}")
            kind = str(opened.format)
            return as_eight_bits(opened), kind
    except UnidentifiedImageError:
        raise DamagedDataError(f"it is {_looks_like(data)}") from None
    except DamagedDataError:
        raise
    except Exception as error:  # Pillow's parsers raise what they meet: OSError, SyntaxError, ValueError, struct.error
        raise DamagedDataError(f"it cannot be decoded: {_first_line(error)}") from None


def _looks_like(data: bytes) -> str:
    """What a file that is no image is, as people meet it under an image's name."""
    if not data:
        return "empty (0 bytes)"
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the image itself (run `git lfs pull` where it was cloned)"
    if data[:512].lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith((b"<!doctype html", b"<html")):
        return "a web page that was saved in the image's place"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "a HEIC image, which Pillow does not read: convert it to JPEG"
    if data[:2] == b"\xff\x0a" or data[4:8] == b"JXL ":
        return "a JPEG XL image, which Pillow does not read: convert it to JPEG"
    return "no image in a format that is known"


def _is_grey(data: bytes) -> bool:
    frame = read_frame(data)
    return frame is not None and frame.components == 1


def as_eight_bits(image: Image.Image) -> Image.Image:
    """The image in mode RGB or L: transparency laid on white, deep greys scaled to 8 bits instead of clipped.

    Greys of 16 bits keep their upper eight, those of 32 bits likewise where one needs more than 16. Floating point is
    taken for 0..1 where no value is larger than 1, else for 0..255, else for 0..65535.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        whole = np.asarray(image).astype(np.int64)
        bits = 23 if whole.max(initial=0) > 65535 else 8
        return Image.fromarray(np.clip(whole >> bits, 0, 255).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        most = values.max(initial=0)
        scale = 255.0 if most <= 1 else 1.0 if most <= 255 else 255 / max(65535.0, most)
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if grey else "RGB")
