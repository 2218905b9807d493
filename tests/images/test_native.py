"""Compiled code: its pixels against libjpeg-turbo's and torch's, what it refuses, and how it is built."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from conftest import draw_image, encode
from torchvision.transforms.v2 import functional

from alexnet_fast.errors import MissingDependencyError, UsageError
from alexnet_fast.images import IMAGENET_MEAN, IMAGENET_STD, Cropper, CropPlan, OutputSlots, UndecodableError, native

ROOT = Path(__file__).resolve().parents[2]
needs_jpeg = pytest.mark.skipif(native.compiled_decoder() is None, reason="not compiled with libjpeg-turbo")
needs_resizer = pytest.mark.skipif(native.compiled_resizer() is None, reason="not compiled")


def plan(boxes: Any, scaled: Any, offsets: Any) -> CropPlan:
    return CropPlan(
        *(np.ascontiguousarray(a, np.int32).reshape(-1, n) for a, n in ((boxes, 4), (scaled, 2), (offsets, 2)))
    )


def places(n: int, size: int, dtype: str = "uint8") -> OutputSlots:
    return OutputSlots.over(np.zeros(n * size * size * 3 * getattr(torch, dtype).itemsize, np.uint8), size, dtype)


def random_boxes(generator: np.random.Generator, n: int, height: int, width: int, least: int) -> np.ndarray:
    sides = generator.integers(least, [height + 1, width + 1], (n, 2))
    starts = generator.integers(0, np.array([height, width]) - sides + 1)
    return np.concatenate([starts, sides], axis=1)


@needs_jpeg
@pytest.mark.parametrize("subsampling", ["420", "422", "444", "440", "gray"])
@pytest.mark.parametrize(("height", "width"), [(90, 123), (16, 16), (200, 31)])
def test_a_region_is_what_the_whole_image_shows_there(subsampling: str, height: int, width: int) -> None:
    generator = np.random.default_rng(height)
    pixels = np.asarray(draw_image(height, 5, (width, height)))
    if subsampling == "gray":
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[:, :, :1]), colorspace="GRAY")
    else:
        jpeg = simplejpeg.encode_jpeg(pixels, colorsubsampling=subsampling)
    whole = simplejpeg.decode_jpeg(jpeg, "RGB")
    boxes = np.array([*random_boxes(generator, 60, height, width, 8), [0, 0, height, width]])
    offsets = generator.integers(0, boxes[:, 2:] - 7)
    out = places(len(boxes), 8)
    cutter = Cropper(8, decoder="native")
    n = len(boxes)
    cutter.jpegs([jpeg] * n, [height] * n, [width] * n, plan(boxes, boxes[:, 2:], offsets), None, out)
    for box, offset, got in zip(boxes, offsets, out.array, strict=True):
        top, left = box[:2] + offset
        assert np.array_equal(got, whole[top : top + 8, left : left + 8]), (box, offset)


@needs_resizer
@pytest.mark.parametrize("size", [1, 8, 33, 64, 224])
def test_the_resize_is_torchs_antialiased_one(size: int) -> None:
    generator = np.random.default_rng(size)
    pixels = generator.integers(0, 256, (3, 150, 400, 3)).astype(np.uint8)
    boxes = random_boxes(generator, 40, 150, 400, 1)
    boxes[0], boxes[1] = [0, 0, 150, 400], [149, 399, 1, 1]
    scaled = size + generator.integers(0, 2, (40, 1)) * generator.integers(0, 30, (40, 2))
    offsets = generator.integers(0, scaled - size + 1)
    numbers, flips = generator.integers(0, 3, 40), generator.random(40) < 0.5
    out = places(40, size)
    Cropper(size).pixels(pixels, numbers, plan(boxes, scaled, offsets), flips, out)
    differences = []
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        crop = torch.from_numpy(pixels[numbers[i], top : top + height, left : left + width]).permute(2, 0, 1)
        want = functional.resize(crop, scaled[i].tolist(), antialias=True)
        want = want[:, offsets[i, 0] : offsets[i, 0] + size, offsets[i, 1] : offsets[i, 1] + size]
        want = want.flip(2) if flips[i] else want
        differences.append((out.tensors[i][0].int() - want.int()).abs().float())
        assert differences[-1].max() <= 2, boxes[i]
    # On noise, which is the worst there can be; torch rounds its weights more coarsely where they are many.
    assert torch.stack(differences).mean() < 0.35


@needs_resizer
def test_an_even_image_keeps_its_value() -> None:
    generator = np.random.default_rng(0)
    boxes = random_boxes(generator, 256, 300, 200, 1)
    pixels = np.arange(256, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 300, 200, 3), np.uint8)
    out = places(256, 17)
    Cropper(17).pixels(pixels, np.arange(256), plan(boxes, np.full((256, 2), 17), np.zeros((256, 2))), None, out)
    assert np.array_equal(out.array, np.broadcast_to(np.arange(256)[:, None, None, None], out.array.shape))


@needs_resizer
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_images_of_a_few_pixels(height: int, width: int) -> None:
    """Smaller than what is read at a time: the end of their memory comes sooner."""
    pixels = np.arange(9, dtype=np.uint8)[:, None, None, None] * 20 + np.zeros((1, height, width, 3), np.uint8)
    boxes = np.tile([[0, 0, height, width]], (9, 1))
    out = places(9, 5)
    Cropper(5).pixels(pixels, np.arange(9), plan(boxes, np.full((9, 2), 5), np.zeros((9, 2))), None, out)
    assert np.array_equal(out.array, np.broadcast_to(np.arange(9)[:, None, None, None] * 20, out.array.shape))


@needs_resizer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_types_are_normalised(dtype: str) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 40, 30, 3)).astype(np.uint8)
    crops = plan(random_boxes(generator, 9, 40, 30, 1), np.full((9, 2), 18), np.zeros((9, 2)))
    flips, numbers = generator.random(9) < 0.5, np.arange(9)
    plain, finished = places(9, 18), places(9, 18, dtype)
    # float16 is the libraries' work, whose resize is a level off now and then.
    for out, kind in ((plain, "uint8"), (finished, dtype)):
        Cropper(18, kind, "simplejpeg" if dtype == "float16" else "auto").pixels(pixels, numbers, crops, flips, out)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    for integer, value in zip(plain.tensors, finished.tensors, strict=True):
        want = (integer.float() / 255 - mean) / std
        assert value.dtype == getattr(torch, dtype)
        assert torch.allclose(
            value.float(), want, rtol={"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-10}[dtype], atol=1e-5
        )


@needs_resizer
def test_machines_without_avx2_get_the_same_pixels(tmp_path: Path) -> None:
    plain = compiled(tmp_path, "-DPLAIN")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, 70, 90, 3)).astype(np.uint8)
    for size in (1, 2, 3, 31, 48):
        crops = plan(random_boxes(generator, 50, 70, 90, 1), np.full((50, 2), size), np.zeros((50, 2)))
        numbers, flips = generator.integers(0, 4, 50), generator.random(50) < 0.5
        outs = [np.zeros((50, size, size, 3), np.uint8) for _ in range(2)]
        for module, out in zip((plain, native.compiled_resizer()), outs, strict=True):
            module.cut_pixels(pixels, numbers, crops.boxes, crops.scaled, crops.offsets, flips, None, None, out)
        assert np.array_equal(*outs)


@needs_jpeg
def test_what_is_no_plain_jpeg_is_left_to_the_libraries() -> None:
    image = draw_image(0, 3, (60, 44))
    held = io.BytesIO()
    image.save(held, "JPEG", progressive=True, quality=90)
    jpegs = [encode(image), held.getvalue(), encode(image)]
    crops = plan([[5, 6, 30, 40]] * 3, [[16, 16]] * 3, [[0, 0]] * 3)
    out = places(3, 16)
    Cropper(16).jpegs(jpegs, [44] * 3, [60] * 3, crops, np.array([False, True, True]), out)
    decoded = torch.from_numpy(simplejpeg.decode_jpeg(jpegs[1], "RGB")).permute(2, 0, 1)
    want = functional.resized_crop(decoded, 5, 6, 30, 40, [16, 16], antialias=True).flip(2)
    assert torch.equal(out.tensors[1][0], want)
    assert torch.equal(out.tensors[0].flip(3), out.tensors[2])


@needs_jpeg
@pytest.mark.parametrize("fault", ["empty", "text", "cut short", "zeroed", "another size"])
def test_a_image_that_cannot_be_decoded_is_told_by_its_place(fault: str) -> None:
    good = encode(draw_image(0, 3, (60, 44)))
    bad = {
        "empty": b"", "text": b"no image" * 50, "cut short": good[: len(good) // 2],
        "zeroed": good[:700] + bytes(300) + good[1000:], "another size": encode(draw_image(1, 3, (61, 44))),
    }[fault]  # fmt: skip
    crops = plan([[0, 0, 44, 60]] * 3, [[16, 16]] * 3, [[0, 0]] * 3)
    out = places(3, 16)
    with pytest.raises(UndecodableError) as caught:
        Cropper(16).jpegs([good, bad, good], [44] * 3, [60] * 3, crops, None, out)
    assert caught.value.position == 1
    assert out.array[0].any() and not out.array[2].any()


@needs_jpeg
def test_rubbish_never_ends_the_process() -> None:
    generator = np.random.default_rng(0)
    good = np.frombuffer(encode(draw_image(0, 3, (60, 44))), np.uint8)
    crops = plan([[3, 5, 30, 50]], [[16, 16]], [[0, 0]])
    module, refused = native.compiled_decoder(), 0
    for _ in range(1500):
        bad = good.copy()
        at = generator.integers(0, len(bad), generator.integers(1, 12))
        bad[at] = generator.integers(0, 256, len(at))
        out = places(1, 16)
        done, _, _ = module.cut_jpegs(
            [bad], [44], [60], crops.boxes, crops.scaled, crops.offsets, None, None, None, out.array, 0
        )
        refused += done == 0
    assert 300 < refused < 1500


@needs_jpeg
def test_what_does_not_fit_is_an_error_and_writes_nothing_outside() -> None:
    jpeg = encode(draw_image(0, 3, (60, 44)))
    module = native.compiled_decoder()
    fine: dict[str, Any] = {
        "jpegs": [jpeg], "heights": [44], "widths": [60], "boxes": np.array([[0, 0, 44, 60]], np.int32),
        "scaled": np.array([[16, 16]], np.int32), "offsets": np.zeros((1, 2), np.int32), "flips": None, "scale": None,
        "bias": None, "out": np.zeros((1, 16, 16, 3), np.uint8), "begin": 0,
    }  # fmt: skip
    assert module.cut_jpegs(*fine.values())[0] == 1
    for change in (
        {"boxes": np.array([[1, 0, 44, 60]], np.int32)}, {"boxes": np.array([[0, -1, 44, 60]], np.int32)},
        {"boxes": np.array([[0, 0, 0, 60]], np.int32)}, {"boxes": np.array([[0, 0, 2**31 - 1, 60]], np.int32)},
        {"boxes": np.zeros((2, 4), np.int32)}, {"scaled": np.array([[15, 16]], np.int32)},
        {"offsets": np.array([[0, 1]], np.int32)}, {"offsets": np.array([[-1, 0]], np.int32)},
        {"out": np.zeros((1, 16, 17, 3), np.uint8)}, {"out": np.zeros((2, 16, 16, 3), np.uint8)},
        {"out": np.zeros((1, 16, 16, 3), np.float32)}, {"out": np.zeros((1, 16, 16, 3), np.float64)},
        {"heights": [44, 44]}, {"heights": [2**40]}, {"begin": -1}, {"flips": np.zeros(2, bool)},
        {"scale": np.zeros(48, np.float32)},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            module.cut_jpegs(*{**fine, **change}.values())
    with pytest.raises(TypeError):
        module.cut_jpegs(*{**fine, "jpegs": ["text"]}.values())
    read_only = np.zeros((1, 16, 16, 3), np.uint8)
    read_only.flags.writeable = False
    with pytest.raises(ValueError):
        module.cut_jpegs(*{**fine, "out": read_only}.values())


def test_decoders_that_are_not_there_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="decoder must be one of auto, native"):
        Cropper(8, decoder="magic")
    monkeypatch.setattr(native, "compiled_decoder", lambda: None)
    with pytest.raises(MissingDependencyError, match="install a C compiler and libjpeg-turbo's headers"):
        Cropper(8, decoder="native")


def build_tool() -> Any:
    spec = importlib.util.spec_from_file_location("build_native", ROOT / "tools/build_native.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(folder: Path, *flags: str, jpeg: bool = False) -> Any:
    tool = build_tool()
    target = tool.extension_path(folder)
    try:
        tool.build(target, jpeg=jpeg, flags=flags)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler: {error}")
    spec = importlib.util.spec_from_file_location("_native", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_libjpegs_headers_it_still_resizes(tmp_path: Path) -> None:
    module = compiled(tmp_path)
    assert hasattr(module, "cut_pixels") and not hasattr(module, "cut_jpegs")


def test_a_missing_compiler_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = build_tool()
    target = tool.extension_path(tmp_path)
    target.write_bytes(b"of an older version")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert tool.build_what_can_be(target, "").startswith("not compiled")
    assert not target.exists()
    with pytest.raises(RuntimeError, match="cannot be compiled"):
        tool.build_what_can_be(target, "require")


@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")
@pytest.mark.parametrize("wish", ["off", ""])
def test_the_wheel_says_whom_it_is_for(tmp_path: Path, wish: str) -> None:
    """Built from a copy: building replaces the extension of the tree that it is done in."""
    tree = tmp_path / "tree"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in names:
        if name.startswith(("alexnet_fast/", "tools/", "pyproject", "README.md", "LICENSE")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=tree, check=True, capture_output=True, env={**os.environ, "ALEXNET_FAST_NATIVE": wish},
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if name.endswith(".so")]
    assert bool(held) != wheel.name.endswith("-none-any.whl")
    if wish == "off":
        assert not held
    elif native.compiled_resizer() is not None:
        assert held == [f"alexnet_fast/images/native/{build_tool().extension_path().name}"]
