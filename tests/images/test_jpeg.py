"""What stays as it is, what is encoded anew, what is refused; and that damage shows as in a full decode."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, features
from source_files import jpeg

from alexnet_fast.errors import DamagedDataError
from alexnet_fast.images import check, prepare
from alexnet_fast.images.jpeg import MAX_PIXELS, read_frame


def image(size=(64, 48), mode="RGB"):
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    pixels = np.stack([x, y, (x + y) / 2], -1)
    return Image.fromarray((pixels * 255).astype(np.uint8)).convert(mode)


def encode(image, format="JPEG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def with_sof(data, sof):
    """The same file with another kind of frame announced."""
    at = data.index(b"\xff\xc0")
    return data[:at] + bytes([0xFF, sof]) + data[at + 2 :]


def with_size(data, width, height):
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


SIDEWAYS = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
KEPT = {
    "baseline": encode(image()),
    "progressive": encode(image(), progressive=True),
    "grey": encode(image(mode="L")),
    "4:4:4": encode(image(), subsampling="4:4:4"),
    "4:2:2": encode(image(), subsampling="4:2:2"),
    "stored as RGB": encode(image(), keep_rgb=True),
    "restart markers": encode(image(), restart_marker_blocks=2),
    "one pixel": encode(image((1, 1))),
    "EXIF orientation": encode(
        image(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "trailing bytes": encode(image()) + b"some camera's maker note" * 5,
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_byte_for_byte(name):
    result = prepare(KEPT[name])
    assert result.data is KEPT[name]
    assert result.reason == ""
    assert (result.width, result.height) == Image.open(io.BytesIO(KEPT[name])).size


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # of torchvision, for its successor
@pytest.mark.parametrize("name", KEPT)
def test_every_decoder_takes_what_is_kept(name):
    torch = pytest.importorskip("torch")
    io_ = pytest.importorskip("torchvision.io")
    size = decoded(KEPT[name]).shape
    assert simplejpeg.decode_jpeg(KEPT[name]).shape == size
    buffer = torch.frombuffer(bytearray(KEPT[name]), dtype=torch.uint8)
    assert tuple(io_.decode_jpeg(buffer, mode=io_.ImageReadMode.RGB).shape) == (3, *size[:2])


def test_dali_takes_what_is_kept():
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=len(KEPT), num_threads=1, device_id=None)
    def decode():
        encoded = fn.external_source(source=[[np.frombuffer(d, np.uint8) for d in KEPT.values()]], cycle=True)
        return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)

    pipeline = decode()
    pipeline.build()
    (pixels,) = pipeline.run()
    for i, data in enumerate(KEPT.values()):
        assert pixels.at(i).shape == decoded(data).shape


ODD = {
    "PNG": (encode(image(), "PNG"), "not a JPEG (PNG)"),
    "GIF": (encode(image().quantize(), "GIF"), "not a JPEG (GIF)"),
    "BMP": (encode(image(), "BMP"), "not a JPEG (BMP)"),
    "PNG with transparency": (encode(image(mode="RGBA"), "PNG"), "not a JPEG (PNG)"),
    "PNG of 16 bits": (
        encode(Image.fromarray(np.asarray(image(mode="L")).astype(np.uint16) * 257), "PNG"), "not a JPEG (PNG)",
    ),
    "CMYK": (encode(image(mode="CMYK")), "CMYK JPEG"),
}  # fmt: skip
if features.check("webp"):
    ODD["WebP"] = (encode(image(), "WEBP", quality=95), "not a JPEG (WEBP)")


@pytest.mark.parametrize("name", ODD)
def test_encoded_anew(name):
    data, reason = ODD[name]
    result = prepare(data)
    assert result.reason == reason
    assert check(result.data) == (64, 48, "")
    grey = name == "PNG of 16 bits"
    expected = np.asarray(image(mode="L" if grey else "RGB").convert("RGB")).astype(int)
    # The colours are those of the image (CMYK is stored inverted by Adobe's convention), but for JPEG's own loss.
    assert np.abs(decoded(result.data) - expected).mean() < (6 if name == "GIF" else 3)


def test_other_kinds_of_jpeg_are_not_kept():
    data = KEPT["baseline"]
    assert check(with_sof(data, 0xC9))[2] == "arithmetic-coded JPEG"
    assert check(with_sof(data, 0xC3))[2] == "lossless JPEG"
    at = data.index(b"\xff\xc0")
    assert check(data[: at + 4] + b"\x0c" + data[at + 5 :])[2] == "12-bit JPEG"


def test_what_cannot_be_decoded_is_refused():
    for data in (b"", b"\xff\xd8", b"hello" * 100, KEPT["baseline"][:300], b"\x89PNG\r\n\x1a\n" + b"\0" * 60):
        with pytest.raises(DamagedDataError):
            prepare(data)


def test_bombs_are_refused_before_decoding():
    few = encode(image(), progressive=True)
    at = few.index(b"\xff\xc2")
    few = few[: at + 5] + struct.pack(">HH", 11000, 11000) + few[at + 9 :]
    with pytest.raises(DamagedDataError, match=f"it claims 11000 x 11000 pixels in {len(few):,} bytes"):
        prepare(few)
    flat = encode(Image.new("L", (2000, 2000)), progressive=True, optimize=True)
    assert 2000 * 2000 / len(flat) > 240  # as close to the limit of 512 as this encoder comes with a whole image
    assert prepare(flat).reason == ""
    with pytest.raises(DamagedDataError, match="it claims 65000 x 65000 pixels"):
        prepare(with_size(KEPT["baseline"], 65000, 65000))
    png = bytearray(encode(image(), "PNG"))
    png[16:24] = struct.pack(">II", 60000, 60000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(DamagedDataError, match=r"60000 x 60000 pixels|cannot be decoded: Image size"):
        prepare(bytes(png))
    for mode in ("RGB", "CMYK"):
        scans = encode(image((8, 8)).convert(mode), progressive=True)
        with pytest.raises(DamagedDataError, match="scans, more than"):
            prepare(scans[:-2] + scans[scans.rindex(b"\xff\xda") : -2] * 600 + b"\xff\xd9")
    assert 1 << 26 <= MAX_PIXELS <= 1 << 28


@pytest.mark.parametrize("name", ["baseline", "progressive", "grey"])
def test_damage_shows_as_in_a_full_decode(name):
    data = encode(image((96, 80), "L" if name == "grey" else "RGB"), progressive=name == "progressive")
    chance = np.random.default_rng(3)
    seen = 0
    for trial in range(400):
        broken = bytearray(data)
        if trial % 2:
            broken = broken[: chance.integers(200, len(data) - 2)]
        else:
            broken[chance.integers(150, len(data))] ^= 1 << chance.integers(8)
        broken = bytes(broken)
        frame = read_frame(broken)
        if frame is None or frame.sof not in (0xC0, 0xC1, 0xC2) or frame.components not in (1, 3):
            continue
        try:
            simplejpeg.decode_jpeg(broken, strict=True)
            full = ""
        except ValueError:
            full = "damaged"
        try:
            wrong = check(broken)[2]
        except DamagedDataError:
            continue
        assert bool(wrong) == bool(full), wrong
        seen += bool(full)
    assert seen > 50


def test_a_truncated_image_is_mended_and_named():
    data = jpeg(1, (200, 160))
    result = prepare(data[: len(data) // 2])
    assert result.reason.startswith("damaged JPEG: ")
    assert check(result.data) == (200, 160, "")
    top = np.abs(decoded(result.data)[:40] - decoded(data)[:40]).mean()
    assert top < 3


@pytest.mark.parametrize(
    ("size", "shorter", "expected"),
    [((64, 48), 24, (32, 24)), ((48, 64), 24, (24, 32)), ((64, 48), 48, None), ((64, 48), 100, None),
     ((301, 100), 50, (150, 50)), ((1000, 2), 1, (500, 1))],
)  # fmt: skip
def test_resize_shorter_keeps_the_aspect_and_never_enlarges(size, shorter, expected):
    data = encode(image(size))
    result = prepare(data, resize_shorter=shorter)
    if expected is None:
        assert result.data is data
        return
    assert (result.width, result.height) == expected
    assert result.reason == "resized"
    assert Image.open(io.BytesIO(result.data)).size == expected
    if min(size) > 8:
        smaller = np.asarray(image(size).resize(expected, Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(decoded(result.data) - smaller).mean() < 3
    grey = prepare(encode(image(size, "L")), resize_shorter=shorter)
    assert read_frame(grey.data).components == 1
    small, large = (prepare(data, resize_shorter=shorter, quality=q).data for q in (30, 95))
    assert len(small) <= len(large)
