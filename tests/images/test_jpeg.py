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
from alexnet_fast.images import as_eight_bits, check, prepare
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


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def icc(number, count):
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + bytes(200))


def with_odd_headers():
    data = encode(image(), quality=90, subsampling="4:4:4")
    at = 4 + struct.unpack(">H", data[4:6])[0]  # behind JFIF's segment
    scan = data.index(b"\xff\xda")
    yield "ICC chunk twice", data[:at] + icc(1, 2) * 2 + data[at:], "Corrupt JPEG data: bad ICC marker"
    yield "ICC chunk missing", data[:at] + icc(1, 3) + icc(3, 3) + data[at:], "Corrupt JPEG data: bad ICC marker"
    yield "stray bytes", data[:at] + bytes(range(1, 9)) + data[at:], "bytes that are no segment"
    yield "stray bytes before the scan", data[:scan] + bytes(5) + data[scan:], "5 extraneous bytes before marker 0xda"
    yield "JFIF revision", data[:11] + b"\x09\x09" + data[13:], "unknown JFIF revision number 9.09"
    adobe = segment(0xEE, b"Adobe\0d\0\0\0\0\2")
    yield "Adobe transform", data[:2] + adobe + data[at:], "Unknown Adobe color transform code 2"


@pytest.mark.parametrize(("data", "warning"), [pytest.param(d, w, id=name) for name, d, w in with_odd_headers()])
def test_a_header_that_only_makes_the_decoder_warn(data, warning):
    result = prepare(data)
    assert result.reason.startswith("odd JPEG header: ")
    assert warning in result.reason
    assert check(result.data) == (64, 48, "")
    assert np.abs(decoded(result.data) - decoded(encode(image(), quality=90, subsampling="4:4:4"))).max() <= 12


def of_one_colour(factors, size=(40, 24)):
    """A JPEG of those sampling factors, all of whose blocks have no more than a constant: Y 148, Cb 108, Cr 158."""
    base = encode(Image.new("RGB", (8, 8)), quality=50, subsampling="4:4:4")
    frame, scan = base.index(b"\xff\xc0"), base.index(b"\xff\xda")
    sof = base[frame : frame + 5] + struct.pack(">HHB", size[1], size[0], 3)
    sof += b"".join(bytes([i + 1, h << 4 | v, min(i, 1)]) for i, (h, v) in enumerate(factors))
    tables = [base[:frame], sof, base[frame + 19 : scan], base[scan : scan + 14]]
    # Of the standard's tables: code of the constant's size in bits, the constant, end of block. Quantiser 16 and 17.
    first = ["101_1010_1010", "1110_0110_00", "1110_1110_00"]  # Y +10, Cb -9, Cr +14
    same = ["00_1010", "00_00", "00_00"]
    most = [max(f[i] for f in factors) for i in (0, 1)]
    count = -(-size[0] // (8 * most[0])) * -(-size[1] // (8 * most[1]))
    bits = ""
    for unit in range(count):
        for c, (h, v) in enumerate(factors):
            bits += (first[c] if unit == 0 else same[c]) + same[c] * (h * v - 1)
    bits = bits.replace("_", "")
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"".join(tables) + body + b"\xff\xd9"


@pytest.mark.parametrize(
    "factors", ["1x1 1x1 1x1", "2x2 1x1 1x1", "3x1 1x1 1x1", "1x3 1x1 1x1", "4x2 1x1 1x1", "1x1 2x2 2x2", "2x1 1x1 2x1",
                "2x2 2x1 1x1"],
)  # fmt: skip
def test_samplings_that_turbojpeg_has_no_name_for(factors):
    data = of_one_colour([tuple(map(int, pair.split("x"))) for pair in factors.split()])
    result = prepare(data)
    usual = factors in ("1x1 1x1 1x1", "2x2 1x1 1x1")
    assert result.reason == ("" if usual else f"odd JPEG sampling: {factors}")
    assert (result.width, result.height) == (40, 24)
    y, cb, cr = 128 + 10 * 16 / 8, 128 - 9 * 17 / 8, 128 + 14 * 17 / 8
    colour = [y + 1.402 * (cr - 128), y - 0.344 * (cb - 128) - 0.714 * (cr - 128), y + 1.772 * (cb - 128)]
    assert np.abs(decoded(result.data) - colour).max() < 3


def test_deep_greys_and_transparency():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for values in (ramp, ramp * 255, ramp * 65535, np.where(ramp == 0, np.nan, ramp), np.where(ramp == 0, -1, ramp)):
        grey = as_eight_bits(Image.fromarray(values.astype(np.float32)))
        assert grey.mode == "L"
        assert np.abs(np.asarray(grey).astype(int) - expected).max() <= 1
    assert np.array_equal(as_eight_bits(Image.fromarray((expected * 257).astype(np.uint16))), expected)
    deepest = as_eight_bits(Image.fromarray((ramp * 2.0**30).astype(np.int32)))
    assert np.abs(np.asarray(deepest) - expected / 2).max() < 2
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    for one in (clear, clear.convert("LA"), clear.resize((16, 16)).quantize()):
        for format in ("PNG", "TIFF") if one.mode != "P" else ("PNG",):
            assert decoded(prepare(encode(one, format)).data).min() == 255
    half = Image.new("RGBA", (16, 16), (200, 0, 0, 128))
    assert np.abs(decoded(prepare(encode(half, "PNG")).data) - [227, 127, 127]).max() <= 3


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", "it is empty"), (b"\n<!DOCTYPE HTML><html>403</html>", "it is a web page"),
     (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer .*`git lfs pull`"),
     (b"\0\0\0\x18ftypheic" + bytes(99), "it is a HEIC image"),
     (b"hello" * 99, "it is no image in a format that is known")],
)  # fmt: skip
def test_what_is_no_image_is_named(data, text):
    with pytest.raises(DamagedDataError, match=text):
        prepare(data)


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
