"""The image files that people bring: odd metadata, odd pixels, and files that are something else."""

from __future__ import annotations

import functools
import http.server
import io
import struct
import threading

import numpy as np
import pytest
from conftest import draw_image, encode
from PIL import Image

from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.evaluation.image_files import find_images, read_image_file

UPRIGHT = draw_image(1, 2, (48, 32))


def exif(*entries):
    """An APP1 segment: orientation 6 (turn by 90 degrees) and `entries` of (tag, type, count, bytes of the value)."""
    rows = [(0x0112, 3, 1, struct.pack("<H", 6)), *entries]
    at, body, data = 8 + 2 + 12 * len(rows) + 4, struct.pack("<H", len(rows)), b""
    for tag, kind, count, value in rows:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<L", at + len(data))
        data += value if len(value) > 4 else b""
        body += struct.pack("<HHL", tag, kind, count) + place
    payload = b"Exif\0\0II*\0" + struct.pack("<L", 8) + body + bytes(4) + data
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


@pytest.mark.parametrize(
    "entry",
    [
        (0x011A, 10, 1, struct.pack("<ll", -1, 0)),
        (0x011A, 5, 1, struct.pack("<LL", 0xFFFFFFFF, 0)),
        (0x9201, 10, 1, struct.pack("<ll", -(2**31), 1)),
        (0x010F, 5, 1, struct.pack("<LL", 72, 1)),
        (0x8769, 4, 1, struct.pack("<L", 99999)),
        (0x8825, 7, 4, b"abcd"),
        (0x9999, 99, 1, b"abcd"),
        (0x010F, 2, 0xFFFFFFF0, b"abcde"),
        (0x9A02, 16, 1, struct.pack("<Q", 2**63)),
    ],
    ids=["-1/0", "max/0", "min", "text as ratio", "beyond", "gps", "type 99", "huge count", "long8"],
)
def test_metadata_that_cannot_be_written_back_still_turn_the_image(entry, tmp_path):
    jpeg = encode(UPRIGHT)
    (tmp_path / "odd.jpg").write_bytes(jpeg[:2] + exif(entry) + jpeg[2:])
    (tmp_path / "plain.jpg").write_bytes(jpeg)
    turned, plain = (read_image_file(tmp_path / f"{name}.jpg").pixels for name in ("odd", "plain"))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


def test_a_segment_that_is_no_exif_turns_nothing(tmp_path):
    jpeg = encode(UPRIGHT)
    junk = b"Exif\0\0" + b"ZZZZ" * 5
    (tmp_path / "j.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(junk) + 2) + junk + jpeg[2:])
    assert read_image_file(tmp_path / "j.jpg").pixels.shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.linspace(0, 1, 50, dtype=np.float32), "from 0, black, to 1, white"),
        (np.linspace(-1, 1, 50, dtype=np.float32), "what is below 0 (to -1) is black"),
        (np.linspace(0, 200, 50, dtype=np.float32), "to 255, white"),
        (np.linspace(0, 65535, 50, dtype=np.float32), "to 65,535, white"),
        (np.array([[np.nan, 0, 0.5, 1]], np.float32), "1 pixel without a number is black"),
        (np.array([[0, 2**31 - 1]], np.int32), "to 2,147,483,647, white"),
    ],
)
def test_deep_grey_keeps_its_range_and_says_which(values, words, tmp_path):
    Image.fromarray(np.atleast_2d(values)).save(tmp_path / "grey.tif")
    image = read_image_file(tmp_path / "grey.tif")
    assert words in image.note
    grey = image.pixels[0, :, 0].astype(int)
    assert grey[-1] == (200 if values.max() == 200 else 255)
    assert grey[0] == 0 and (np.diff(grey) >= 0).all()


def test_a_float_tiff_of_0_to_1_is_not_black(tmp_path):
    values = np.asarray(UPRIGHT.convert("L"), np.float32)
    Image.fromarray(values / 255).save(tmp_path / "f.tif")
    image = read_image_file(tmp_path / "f.tif")
    assert np.abs(image.pixels[..., 0].astype(int) - values).max() <= 1
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(DamagedDataError, match="no value that is a number"):
        read_image_file(tmp_path / "nan.tif")
    Image.fromarray((values * 257).astype(np.uint16)).save(tmp_path / "16.png")
    image = read_image_file(tmp_path / "16.png")
    assert np.abs(image.pixels[..., 0].astype(int) - values).max() <= 1 and not image.note


def iso(brand):
    return struct.pack(">L", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + bytes(500)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.heic", iso(b"heic"), "pip install pillow-heif"),
        ("renamed.jpg", iso(b"heic"), "pip install pillow-heif"),
        ("a.jxl", b"\xff\x0a" + bytes(99), "pip install pillow-jxl-plugin"),
        ("a.cr3", iso(b"crx "), "raw file"),
        ("a.nef", b"MM\0*" + bytes(99), "rawpy"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "cairosvg"),
        ("a.pdf", b"%PDF-1.4\n", "is a PDF"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        ("a.mp4", iso(b"isom"), "a video"),
        ("a.jpg", b"", "is empty"),
        ("page.jpg", b"<!DOCTYPE html><html>403</html>", "a web page"),
        ("error.jpg", b'{"message": "not found"}', "is text"),
        ("lfs.jpg", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("._a.jpg", b"\0\5\x16\7\0\2\0\0Mac OS X", "macOS"),
        ("a.zip", b"PK\3\4" + bytes(99), "a zip archive"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + bytes(9), "a damaged PNG"),
        ("cut.jpg", encode(UPRIGHT)[:400], "is cut short"),
        ("words.jpg", b"no image", "no image in a format that Pillow reads"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_is(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedDataError) as caught:
        read_image_file(tmp_path / name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_of_several_frames_the_first_is_taken_and_said(tmp_path):
    first, second = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    image = read_image_file(tmp_path / "a.tif")
    assert (image.pixels == (255, 0, 0)).all() and image.note == "the first of its 2 frames"


def test_hidden_files_are_passed_over_and_other_files_are_counted(tmp_path):
    for name in ("b.jpg", "a/c.JPG", "._b.jpg", ".ipynb_checkpoints/b-checkpoint.jpg", "__MACOSX/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(UPRIGHT))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "more.txt").write_text("x")
    (tmp_path / "LICENSE").write_text("x")
    found, lines = find_images([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/c.JPG", "b.jpg"]
    (line,) = lines
    assert line.startswith(f"{tmp_path}: passed over ")
    for words in ("3 hidden (", "2 not images by name (.txt) (", "1 not an image by content (no ending) (LICENSE)"):
        assert words in line
    with pytest.raises(UsageError, match="no path"):
        find_images(["x" * 300])


@pytest.fixture
def server(tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_read_and_one_with_nothing_behind_it_is_said(server, tmp_path):
    buffer = io.BytesIO()
    UPRIGHT.save(buffer, "PNG")
    (tmp_path / "a b.png").write_bytes(buffer.getvalue())
    url = f"{server}/a%20b.png"
    assert find_images([url]) == ([url], [])
    np.testing.assert_array_equal(read_image_file(url).pixels, np.asarray(UPRIGHT))
    with pytest.raises(DamagedDataError, match="nothing at that address"):
        read_image_file(f"{server}/none.png")
