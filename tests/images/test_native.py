"""Compiled code: its resize, what it refuses, how it is built. test_decoder.py has its decoder."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from conftest import draw_image, encode
from torchvision.transforms.v2 import functional

import alexnet_fast
from alexnet_fast.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Cropper,
    CropPlan,
    UndecodableError,
    finish_batch,
    image_tensor,
    native,
    output_array,
)
from alexnet_fast.images.augment import scale_and_bias

ROOT = Path(__file__).resolve().parents[2]
needs_compiled = pytest.mark.skipif(native.compiled_code() is None, reason="not compiled")


def outputs(n: int, size: int, dtype: str = "uint8") -> tuple[np.ndarray, torch.Tensor]:
    """Where a `Cropper` puts n images, and the same memory as a tensor (n, 3, S, S)."""
    memory = np.zeros(n * size * size * 3 * getattr(torch, dtype).itemsize, np.uint8)
    return output_array(memory, size, dtype), image_tensor(memory, size, dtype)


def random_boxes(generator: np.random.Generator, n: int, height: int, width: int, least: int) -> np.ndarray:
    sides = generator.integers(least, [height + 1, width + 1], (n, 2))
    starts = generator.integers(0, np.array([height, width]) - sides + 1)
    return np.concatenate([starts, sides], axis=1)


@needs_compiled
@pytest.mark.parametrize("size", [1, 8, 33, 64, 224])
def test_the_resize_is_torchvisions_antialiased_one(size: int) -> None:
    generator = np.random.default_rng(size)
    pixels = generator.integers(0, 256, (3, 150, 400, 3)).astype(np.uint8)
    boxes = random_boxes(generator, 40, 150, 400, 1)
    boxes[0], boxes[1] = [0, 0, 150, 400], [149, 399, 1, 1]
    scaled = size + generator.integers(0, 2, (40, 1)) * generator.integers(0, 30, (40, 2))
    offsets = generator.integers(0, scaled - size + 1)
    numbers, flips = generator.integers(0, 3, 40), generator.random(40) < 0.5
    out, tensors = outputs(40, size)
    Cropper(size).pixels(pixels, numbers, CropPlan.of([150, 400], boxes, scaled, offsets), flips, out)
    differences = []
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        crop = torch.from_numpy(pixels[numbers[i], top : top + height, left : left + width]).permute(2, 0, 1)
        want = functional.resize(crop, scaled[i].tolist(), antialias=True)
        want = want[:, offsets[i, 0] : offsets[i, 0] + size, offsets[i, 1] : offsets[i, 1] + size]
        want = want.flip(2) if flips[i] else want
        differences.append((tensors[i].int() - want.int()).abs().float())
        assert differences[-1].max() <= 2, boxes[i]
    # On noise, which is the worst there can be; torch rounds its weights more coarsely where they are many.
    assert torch.stack(differences).mean() < 0.35


def test_an_even_image_keeps_its_value() -> None:
    generator = np.random.default_rng(0)
    boxes = random_boxes(generator, 256, 300, 200, 1)
    pixels = np.arange(256, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 300, 200, 3), np.uint8)
    out, _ = outputs(256, 17)
    Cropper(17).pixels(pixels, np.arange(256), CropPlan.of([300, 200], boxes, [17, 17], [0, 0]), None, out)
    assert np.array_equal(out, np.broadcast_to(np.arange(256)[:, None, None, None], out.shape))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_images_of_a_few_pixels(height: int, width: int) -> None:
    """Smaller than what is read at a time: the end of their memory comes sooner."""
    pixels = np.arange(9, dtype=np.uint8)[:, None, None, None] * 20 + np.zeros((1, height, width, 3), np.uint8)
    boxes = np.tile([[0, 0, height, width]], (9, 1))
    out, _ = outputs(9, 5)
    Cropper(5).pixels(pixels, np.arange(9), CropPlan.of([height, width], boxes, [5, 5], [0, 0]), None, out)
    assert np.array_equal(out, np.broadcast_to(np.arange(9)[:, None, None, None] * 20, out.shape))


@pytest.mark.parametrize("way", ["compiled", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_types_are_normalised(dtype: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "plain" or dtype == "float16":  # float16 is for GPUs, so compiled code does not know it
        monkeypatch.setattr(native, "compiled_code", lambda: None)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 40, 30, 3)).astype(np.uint8)
    plan = CropPlan.of([40, 30], random_boxes(generator, 9, 40, 30, 1), [18, 18], [0, 0])
    flips, numbers = generator.random(9) < 0.5, np.arange(9)
    (plain, integers), (finished, values) = outputs(9, 18), outputs(9, 18, dtype)
    for out, kind in ((plain, "uint8"), (finished, dtype)):
        Cropper(18, kind).pixels(pixels, numbers, plan, flips, out)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    want = (integers.float() / 255 - mean) / std
    tolerance = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-10}[dtype]
    assert values.dtype == getattr(torch, dtype)
    assert torch.allclose(values.float(), want, rtol=tolerance, atol=1e-5)


@needs_compiled
def test_machines_without_avx2_get_the_same_pixels() -> None:
    module = native.compiled_code()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, 70, 90, 3)).astype(np.uint8)
    for size in (1, 2, 3, 31, 48):
        plan = CropPlan.of([70, 90], random_boxes(generator, 50, 70, 90, 1), [size, size], [0, 0])
        numbers, flips = generator.integers(0, 4, 50), generator.random(50) < 0.5
        outs = [np.zeros((50, size, size, 3), np.uint8) for _ in range(2)]
        for kernels, out in zip(("plain", None), outs, strict=True):
            workspace = module.workspace(kernels)
            assert not any(module.cut_pixels(workspace, pixels, numbers, plan.rows, flips, "uint8", None, out))
        assert np.array_equal(*outs)


@needs_compiled
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_processor_normalises_as_torch_to_the_bit(dtype: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    plan = CropPlan.of([16, 16], [[0, 0, 16, 16]], [16, 16], [0, 0])
    integers = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    normalise = np.stack([row.numpy() for row in scale_and_bias("cpu", 16)])
    module = native.compiled_code()
    for kernels in ("plain", None):
        out, values = outputs(1, 16, dtype)
        arguments = (module.workspace(kernels), pixels, np.array([0]), plan.rows, None, dtype, normalise, out)
        assert not any(module.cut_pixels(*arguments))
        assert torch.equal(values, finish_batch(integers, None, getattr(torch, dtype))), kernels


@needs_compiled
def test_what_is_no_baseline_jpeg_is_cut_the_plain_way() -> None:
    image = draw_image(0, 3, (60, 44))
    held = io.BytesIO()
    image.save(held, "JPEG", progressive=True, quality=90)
    jpegs = [encode(image), held.getvalue(), encode(image)]
    plan = CropPlan.of([44, 60], [[5, 6, 30, 40]] * 3, [16, 16], [0, 0])
    out, tensors = outputs(3, 16)
    Cropper(16).jpegs(jpegs, None, plan, np.array([False, True, True]), out)
    decoded = torch.from_numpy(simplejpeg.decode_jpeg(jpegs[1], "RGB")).permute(2, 0, 1)
    want = functional.resized_crop(decoded, 5, 6, 30, 40, [16, 16], antialias=True).flip(2)
    assert torch.equal(tensors[1], want)
    assert torch.equal(tensors[0].flip(2), tensors[2])


@pytest.mark.parametrize("way", ["compiled", "plain"])
@pytest.mark.parametrize("fault", ["empty", "text", "cut short", "zeroed", "another size"])
def test_an_image_that_cannot_be_decoded_is_told_by_its_place(
    fault: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "plain":
        monkeypatch.setattr(native, "compiled_code", lambda: None)
    good = encode(draw_image(0, 3, (60, 44)))
    bad = {
        "empty": b"", "text": b"no image" * 50, "cut short": good[: len(good) // 2],
        "zeroed": good[:700] + bytes(300) + good[1000:], "another size": encode(draw_image(1, 3, (61, 44))),
    }[fault]  # fmt: skip
    plan = CropPlan.of([44, 60], [[0, 0, 44, 60]] * 3, [16, 16], [0, 0])
    out, _ = outputs(3, 16)
    with pytest.raises(UndecodableError) as caught:
        Cropper(16).jpegs([good, bad, good], None, plan, None, out)
    assert caught.value.position == 1
    assert out[0].any()


@needs_compiled
def test_what_does_not_fit_is_an_error_and_writes_nothing_outside() -> None:
    module = native.compiled_code()
    jpeg = encode(draw_image(0, 3, (60, 44)))

    def plan(**change: Any) -> np.ndarray:
        whole = {"size": [44, 60], "box": [[0, 0, 44, 60]], "scaled": [16, 16], "offset": [0, 0]}
        return CropPlan.of(*{**whole, **change}.values()).rows

    fine: dict[str, Any] = {
        "workspace": module.workspace(), "jpegs": [jpeg], "seeks": None, "plan": plan(), "flips": None,
        "dtype": "uint8", "normalise": None, "out": np.zeros((1, 16, 16, 3), np.uint8),
    }  # fmt: skip
    assert module.cut_jpegs(*fine.values()) == b"\0"
    for wrong in (
        {"box": [[1, 0, 44, 60]]}, {"box": [[0, -1, 44, 60]]}, {"box": [[0, 0, 0, 60]]}, {"scaled": [15, 16]},
        {"box": [[0, 0, 2**31 - 1, 60]]}, {"offset": [0, 1]}, {"offset": [-1, 0]}, {"size": [-1, 60]},
    ):  # fmt: skip
        statuses = module.cut_jpegs(*{**fine, "plan": plan(**wrong)}.values())
        assert module.STATUSES[statuses[0]] == "bad box", wrong
    for wrong in (
        {"plan": plan().repeat(2, 0)}, {"plan": plan().astype(np.int64)}, {"out": np.zeros((1, 16, 17, 3), np.uint8)},
        {"out": np.zeros((2, 16, 16, 3), np.uint8)}, {"out": np.zeros((1, 16, 16, 3), np.float32)},
        {"dtype": "float32"}, {"dtype": "int8"}, {"flips": np.zeros(2, bool)}, {"seeks": []},
        {"normalise": np.zeros((2, 48), np.float32)},
        {"dtype": "float32", "out": np.zeros((1, 16, 16, 3), np.float32), "normalise": np.zeros((2, 47), np.float32)},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            module.cut_jpegs(*{**fine, **wrong}.values())
    for wrong in ({"jpegs": ["text"]}, {"jpegs": (jpeg,)}, {"seeks": [3]}):
        with pytest.raises(TypeError):
            module.cut_jpegs(*{**fine, **wrong}.values())
    read_only = np.zeros((1, 16, 16, 3), np.uint8)
    read_only.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        module.cut_jpegs(*{**fine, "out": read_only}.values())
    with pytest.raises(ValueError):
        module.workspace("magic")
    with pytest.raises(ValueError, match="its box does not lie in it"):
        Cropper(16).jpegs([jpeg], None, CropPlan(plan(box=[[1, 0, 44, 60]])), None, outputs(1, 16)[0])


def build_tool() -> Any:
    spec = importlib.util.spec_from_file_location("build_native", ROOT / "tools/build_native.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_compiler_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = build_tool()
    target = tool.extension_path(tmp_path)
    for name in (target.name, f"_native{EXTENSION_SUFFIXES[0]}"):
        target.with_name(name).write_bytes(b"of an older version")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert tool.build_what_can_be(target, "").startswith("not compiled")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="cannot be compiled"):
        tool.build_what_can_be(target, "require")


def test_a_file_that_does_not_suit_is_named(tmp_path: Path) -> None:
    """Python takes the one that is named for this version first."""
    package = Path(alexnet_fast.__file__).parent
    shutil.copytree(package, tmp_path / "alexnet_fast", ignore=shutil.ignore_patterns("__pycache__"))
    stale = tmp_path / "alexnet_fast/images/native" / f"_native{EXTENSION_SUFFIXES[0]}"
    if stale.exists():  # Python 3.10 has it made under that name
        stale.rename(stale.with_name(f"_native{EXTENSION_SUFFIXES[1]}"))
    stale.write_bytes(b"of an older version")
    script = (
        "from alexnet_fast.images import compiled_code, describe_compiled_code as d; print(compiled_code()); print(d())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(f"None\nno: {stale} does not suit this installation (ImportError"), done
    assert done.stderr.count(f"compiled code is not used, and loading is slower: {stale}") == 1
    stale.unlink()
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    if native.compiled_code() is not None:
        assert f", {tmp_path / 'alexnet_fast/images/native/_native'}." in done.stdout and not done.stderr
    environment["ALEXNET_FAST_NATIVE"] = "off"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "None\nno: ALEXNET_FAST_NATIVE=off is set\n" and not done.stderr


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
        held = [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
    assert bool(held) != wheel.name.endswith("-none-any.whl")
    if wish == "off":
        assert not held
    elif native.compiled_code() is not None:
        assert held == [f"alexnet_fast/images/native/{build_tool().extension_path().name}"]
        assert ("-cp311-abi3-" in wheel.name) == (sys.version_info >= (3, 11))
