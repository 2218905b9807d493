"""The compiled JPEG decoder against libjpeg-turbo: whatever it accepts has the same pixels, and no warning.

tools/fuzz_decoder.py asks the same of mutations by the million, under the sanitizers.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from conftest import draw_image
from PIL import Image

from alexnet_fast import DamagedDataError
from alexnet_fast.images import Cropper, CropPlan, ImageDecoder, UndecodableError, find_row_starts, native, output_array

MODULE: Any = native.compiled_code()
pytestmark = pytest.mark.skipif(MODULE is None, reason="not compiled")
SAMPLINGS = ("444", "422", "440", "420", "grey")


def kernels() -> list[str]:
    """Those that run here."""
    found = []
    for name in ("plain", "sse2", "avx2", "neon"):
        try:
            MODULE.workspace(name)
        except ValueError:
            continue
        found.append(name)
    return found


@pytest.fixture(params=kernels() if MODULE is not None else [])
def decode(request: pytest.FixtureRequest) -> Callable[..., tuple[str, np.ndarray]]:
    """``decode(jpeg, (height, width), box=None, seek=None)`` with each kind of kernels: (status, pixels)."""
    workspace = MODULE.workspace(request.param)

    def decode_(
        jpeg: bytes, size: tuple[int, int], box: Any = None, seek: bytes | None = None
    ) -> tuple[str, np.ndarray]:
        box = [0, 0, *size] if box is None else box
        out = np.zeros((box[2], box[3], 3), np.uint8)
        status = MODULE.decode(workspace, jpeg, seek, np.array([*size, *box], np.int32), out)
        return MODULE.STATUSES[status], out

    return decode_


def noisy(height: int, width: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 37 + y * 11, y * 53 + x * 7, (x + y) * 29], -1) % 256
    return (smooth + np.random.default_rng(seed).integers(-40, 41, smooth.shape)).clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, sampling: str, quality: int = 85) -> bytes:
    if sampling == "grey":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), quality=quality, colorspace="GRAY")
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling=sampling)


def pillow(pixels: np.ndarray, **options: Any) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", **options)
    return held.getvalue()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_small_size(sampling: str, decode: Callable[..., Any]) -> None:
    for height, width in itertools.product(range(1, 18), range(1, 18)):
        jpeg = encode(noisy(height, width, height * width), sampling)
        status, pixels = decode(jpeg, (height, width))
        assert status == "ok" and np.array_equal(pixels, simplejpeg.decode_jpeg(jpeg, "RGB")), (height, width)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (4, 5), (5, 4), (6, 3), (17, 9), (9, 18)])
def test_every_box_of_a_small_image(sampling: str, height: int, width: int, decode: Callable[..., Any]) -> None:
    jpeg = encode(noisy(height, width), sampling)
    whole = simplejpeg.decode_jpeg(jpeg, "RGB")
    found = find_row_starts(jpeg)
    assert found is not None
    for top, left in itertools.product(range(height), range(width)):
        for box_height, box_width in itertools.product(range(1, height - top + 1), range(1, width - left + 1)):
            want = whole[top : top + box_height, left : left + box_width]
            for seek in {None, found[2] or None}:
                status, pixels = decode(jpeg, (height, width), [top, left, box_height, box_width], seek)
                assert status == "ok" and np.array_equal(pixels, want), (top, left, box_height, box_width, seek)


def spans(length: int) -> list[tuple[int, int]]:
    """(begin, length) of all of an axis' intervals."""
    return [(begin, n) for begin in range(length) for n in range(1, length - begin + 1)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_boxes_of_every_small_size(sampling: str, decode: Callable[..., Any]) -> None:
    """Every interval of rows and every one of columns; tools/fuzz_decoder.py --boxes pairs them all."""
    for height, width in itertools.product(range(1, 18), range(1, 18)):
        jpeg = encode(noisy(height, width, height * width), sampling)
        whole = simplejpeg.decode_jpeg(jpeg, "RGB")
        found = find_row_starts(jpeg)
        assert found is not None
        rows, columns = spans(height), spans(width)
        for i in range(max(len(rows), len(columns))):
            (top, box_height), (left, box_width) = rows[i % len(rows)], columns[(19 * i + height) % len(columns)]
            status, pixels = decode(
                jpeg,
                (height, width),
                [top, left, box_height, box_width],
                found[2] or None if (i + i // len(rows)) % 2 else None,
            )
            assert status == "ok", (height, width, top, left, box_height, box_width)
            assert np.array_equal(pixels, whole[top : top + box_height, left : left + box_width]), (
                height, width, top, left, box_height, box_width,
            )  # fmt: skip


def larger_jpegs() -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3)).astype(np.uint8)
    for sampling in SAMPLINGS:
        for width in (*range(40, 57), 130):
            made[f"{sampling} {width}"] = encode(noisy(45, width), sampling)
        made[f"{sampling} coarse"] = encode(noisy(90, 70), sampling, 1)
        made[f"{sampling} fine"] = encode(noise, sampling, 100)
        made[f"{sampling} black and white"] = encode((noise > 127).astype(np.uint8) * 255, sampling, 100)
        made[f"{sampling} even"] = encode(noise * 0 + 77, sampling)
    for subsampling in range(3):
        for blocks in (1, 2, 3, 5, 7, 64):
            made[f"{subsampling} restart {blocks}"] = pillow(
                noisy(50, 67), subsampling=subsampling, restart_marker_blocks=blocks
            )
        made[f"{subsampling} restart a row"] = pillow(noisy(50, 67), subsampling=subsampling, restart_marker_rows=1)
        made[f"{subsampling} optimised"] = pillow(noisy(50, 67), subsampling=subsampling, optimize=True, quality=97)
    made["photograph"] = pillow(np.asarray(draw_image(3, 5, (500, 375))), quality=90)
    return made


def test_boxes_of_larger_images(decode: Callable[..., Any]) -> None:
    generator = np.random.default_rng(0)
    for name, jpeg in larger_jpegs().items():
        whole = simplejpeg.decode_jpeg(jpeg, "RGB")
        height, width = whole.shape[:2]
        found = find_row_starts(jpeg)
        assert found is not None and found[:2] == (height, width), name
        assert bool(found[2]) == ("restart" not in name), name
        seeks = (None, found[2]) if found[2] else (None,)
        for _ in range(12):
            box_height, box_width = generator.integers(1, [height + 1, width + 1]).tolist()
            top, left = (generator.integers(0, [height - box_height + 1, width - box_width + 1])).tolist()
            want = whole[top : top + box_height, left : left + box_width]
            for seek in seeks:
                status, pixels = decode(jpeg, (height, width), [top, left, box_height, box_width], seek)
                assert status == "ok" and np.array_equal(pixels, want), (name, top, left, box_height, box_width)


def test_values_that_leave_their_range_are_libjpeg_turbos_too(decode: Callable[..., Any]) -> None:
    """Quantisation far too coarse for the coefficients: 16-bit sums wrap and saturate."""
    generator = np.random.default_rng(0)
    base = bytearray(encode(generator.integers(0, 256, (64, 64, 3)).astype(np.uint8), "420", 100))
    at = base.index(b"\xff\xdb") + 5
    for round_ in range(40):
        jpeg = base.copy()
        jpeg[at : at + 64] = bytes(generator.integers(1 if round_ % 2 else 200, 256, 64).tolist())
        status, pixels = decode(bytes(jpeg), (64, 64))
        assert status == "ok" and np.array_equal(pixels, simplejpeg.decode_jpeg(bytes(jpeg), "RGB"))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_no_truncation_passes(sampling: str, decode: Callable[..., Any]) -> None:
    jpeg = encode(noisy(33, 35), sampling)
    for length in range(len(jpeg)):
        assert decode(jpeg[:length], (33, 35))[0] != "ok", length


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_is_accepted_after_damage_is_what_libjpeg_turbo_accepts(sampling: str) -> None:
    generator = np.random.default_rng(len(sampling))
    workspace, good = MODULE.workspace(), np.frombuffer(encode(noisy(33, 35), sampling), np.uint8)
    plan, out, accepted = np.array([33, 35, 0, 0, 33, 35], np.int32), np.zeros((33, 35, 3), np.uint8), 0
    for _ in range(2000):
        bad = good.copy()
        at = generator.integers(0, len(bad), generator.integers(1, 4))
        bad[at] ^= (1 << generator.integers(0, 8, len(at))).astype(np.uint8)
        if MODULE.decode(workspace, bad, None, plan, out) == 0:
            accepted += 1
            assert np.array_equal(out, simplejpeg.decode_jpeg(bad.tobytes(), "RGB"))
    assert 20 < accepted < 1900


def edited(marker: int, change: Callable[[bytes], bytes], jpeg: bytes) -> bytes:
    """A JPEG whose first segment of that marker is changed."""
    at = jpeg.index(bytes([0xFF, marker]))
    end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    body = change(jpeg[at + 4 : end])
    return jpeg[: at + 2] + (len(body) + 2).to_bytes(2, "big") + body + jpeg[end:]


def test_other_kinds_and_odd_headers_are_left_to_libjpeg_turbo(decode: Callable[..., Any]) -> None:
    pixels = noisy(40, 50)
    plain, cmyk = encode(pixels, "420"), io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    cases = {
        "progressive": pillow(pixels, progressive=True), "CMYK": cmyk.getvalue(),
        "4:1:1": encode(pixels, "411"), "no JPEG": b"GIF89a" + bytes(400),
        "12 bit": edited(0xC0, lambda b: b"\x0c" + b[1:], plain),
        "named R, G, B": edited(
            0xC0, lambda b: b[:6] + b"R" + b[7:9] + b"G" + b[10:12] + b"B" + b[13:],
            edited(0xDA, lambda b: b[:1] + b"R" + b[2:3] + b"G" + b[4:5] + b"B" + b[6:], plain),
        ).replace(b"JFIF\0", b"JFIX\0"),
        "another JFIF": edited(0xE0, lambda b: b[:5] + b"\2" + b[6:], plain),
        "spectral selection": edited(0xDA, lambda b: b[:-2] + b"\x20\0", plain),
        "bytes between segments": plain[:2] + b"\0" + plain[2:],
        "a table too long": edited(0xDB, lambda b: b + b"\0", plain),
        "an ICC profile without its parts": plain[:2] + b"\xff\xe2\0\x14ICC_PROFILE\0\1\3dat" + b"a" + plain[2:],
        "height left to DNL": edited(0xC0, lambda b: b[:1] + b"\0\0" + b[3:], plain),
        "bytes before the end": plain[:-2] + b"abc" + plain[-2:],
        "more than its bytes can hold": edited(0xC0, lambda b: b[:1] + b"\xf0\0\xf0\0" + b[5:], plain),
    }  # fmt: skip
    for name, jpeg in cases.items():
        size = (0xF000, 0xF000) if name.startswith("more") else (40, 50)
        status, _ = decode(jpeg, size, [0, 0, 1, 1] if name.startswith("more") else None)
        assert status in ("unsupported", "damaged"), (name, status)
    whole = edited(0xE0, lambda b: b, plain)
    assert decode(whole, (40, 50))[0] == "ok", "the edit itself is no fault"
    assert decode(plain, (40, 51))[0] == "wrong size"
    assert decode(plain, (40, 50), [0, 0, 41, 1])[0] == decode(plain, (40, 50), [-1, 0, 4, 1])[0] == "bad box"


def test_a_seek_entry_that_is_damaged_or_of_another_image_is_found_out(decode: Callable[..., Any]) -> None:
    jpeg = encode(noisy(90, 70), "420")
    found = find_row_starts(jpeg)
    assert found is not None and len(found[2]) == 4 + 5 * 10  # a checksum, and five rows behind the first
    entry = found[2]
    assert decode(jpeg, (90, 70), None, entry)[0] == "ok"
    for wrong in (entry[:-10], entry + bytes(10), b"\0", entry[4:] + entry[:4]):
        assert decode(jpeg, (90, 70), None, wrong)[0] == "bad seek entry"
    for i in range(len(entry)):
        damaged = bytearray(entry)
        damaged[i] ^= 64
        assert decode(jpeg, (90, 70), None, bytes(damaged))[0] == "bad seek entry", i
    # With a checksum of its own, what leads elsewhere is told where a row does not end where the next begins.
    for i in range(4, len(entry)):
        rows = bytearray(entry[4:])
        rows[i - 4] ^= 64
        forged = zlib.crc32(rows).to_bytes(4, "little") + bytes(rows)
        assert decode(jpeg, (90, 70), None, forged)[0] in ("bad seek entry", "damaged"), i
    out = output_array(np.zeros(8 * 8 * 3, np.uint8), 8, "uint8")
    plan = CropPlan.of([90, 70], [[0, 0, 90, 70]], [8, 8], [0, 0])
    with pytest.raises(UndecodableError, match="a damaged entry in the seek index"):
        Cropper(8).jpegs([jpeg], [entry[:-10]], plan, None, out)


def test_crops_are_the_same_with_a_seek_index_and_without() -> None:
    jpegs = list(larger_jpegs().values())
    sizes = np.array([simplejpeg.decode_jpeg_header(jpeg)[:2] for jpeg in jpegs])
    generator = np.random.default_rng(0)
    sides = generator.integers(1, sizes + 1)
    boxes = np.concatenate([generator.integers(0, sizes - sides + 1), sides], axis=1)
    plan = CropPlan.of(sizes, boxes, [24, 24], [0, 0])
    seeks = [found[2] or None for found in map(find_row_starts, jpegs) if found is not None]
    outs = [output_array(np.zeros(len(jpegs) * 24 * 24 * 3, np.uint8), 24, "uint8") for _ in range(3)]
    Cropper(24).jpegs(jpegs, None, plan, None, outs[0])
    Cropper(24).jpegs(jpegs, seeks, plan, None, outs[1])
    assert np.array_equal(outs[0], outs[1])
    decoder = ImageDecoder()
    for i, jpeg in enumerate(jpegs):  # by strips of rows as from a whole image
        Cropper(24).pixels(
            decoder(jpeg, *plan.crop(i).size)[None], np.array([0]), plan[i : i + 1], None, outs[2][i : i + 1]
        )
    assert np.array_equal(outs[0], outs[2])


def test_whole_images() -> None:
    decoder = ImageDecoder()
    progressive = pillow(noisy(30, 40), progressive=True)
    assert np.array_equal(decoder(progressive, 30, 40), simplejpeg.decode_jpeg(progressive, "RGB"))
    with pytest.raises(DamagedDataError, match="is not 40 pixels wide and 31 high"):
        decoder(progressive, 31, 40)
    with pytest.raises(DamagedDataError, match="cannot be decoded"):
        decoder(b"nothing", 3, 4)
    assert find_row_starts(progressive) is None and find_row_starts(b"") is None
