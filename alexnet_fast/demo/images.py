"""Labelled JPEG images made from nothing, for the demo: five shapes and five textures that a network can learn.

Class shows in form alone. Colours, sizes, places, turns, backgrounds, light, noise and JPEG quality are drawn at
random, so that a network has to learn what does not change with them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..system import NoProgress, Progress

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = ("cross", "disc", "flower", "ring", "triangle")
TEXTURES = ("bricks", "checks", "dots", "stripes", "waves")
CLASSES = tuple(sorted(SHAPES + TEXTURES))
_SIZES = ((96, 96), (128, 96), (96, 128), (160, 120), (120, 160), (200, 150))
Floats = npt.NDArray[np.float64]
Random = np.random.Generator


def make_images(
    folder: Path, *, train: int = 200, val: int = 40, seed: int = 0, progress: Progress | None = None
) -> int:
    """Write FOLDER/SPLIT/CLASS/*.jpg: `train` and `val` images of each class; returns how many in all.

    One in 25 is greyscale. In the training split two are CMYK and two are PNG files with a JPEG's name, as ImageNet
    has them, for pack to deal with.
    """
    report = progress or NoProgress()
    report.start((train + val) * len(CLASSES))
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                random = np.random.default_rng([seed, split == "val", label, number])
                odd = number if split == "train" and label < 2 else -1
                (place / f"{name}_{number:04d}.jpg").write_bytes(_encode(draw(name, random), random, odd))
                report.advance()
    return (train + val) * len(CLASSES)


def _encode(image: Image, random: Random, odd: int) -> bytes:
    held = io.BytesIO()
    if odd == 0:
        image.save(held, "PNG")
        return held.getvalue()
    if odd == 1:
        image = image.convert("CMYK")
    elif random.random() < 0.04:
        image = image.convert("L")
    image.save(held, "JPEG", quality=int(random.integers(60, 96)))
    return held.getvalue()


def draw(name: str, random: Random) -> Image:
    """One image of the class called `name`."""
    from PIL import Image

    width, height = _SIZES[int(random.integers(len(_SIZES)))]
    ground, ink = _two_colours(random)
    mask = _shape(name, width, height, random) if name in SHAPES else _texture(name, width, height, random)
    image = _background(width, height, ground, random)
    image += mask[..., None] * (ink - image) * random.uniform(0.75, 1)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 + random.uniform(0, 0.3) * (x * math.cos(turn := random.uniform(0, 2 * math.pi)) + y * math.sin(turn))
    image = image * light[..., None] + random.normal(0, random.uniform(4, 16), image.shape)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def _two_colours(random: Random) -> tuple[Floats, Floats]:
    """Ground and ink, far enough apart for a form to show."""
    while True:
        ground, ink = random.uniform(10, 245, 3), random.uniform(10, 245, 3)
        if np.abs(ground - ink).sum() > 170:
            return ground, ink


def _background(width: int, height: int, colour: Floats, random: Random) -> Floats:
    """The ground colour with soft clouds and a few thin lines across it."""
    from PIL import Image, ImageDraw

    clouds = Image.fromarray((127 + 127 * random.uniform(-1, 1, (5, 5))).astype(np.uint8))
    soft = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) - 127
    sheet = Image.new("L", (width, height))
    pen = ImageDraw.Draw(sheet)
    for _ in range(int(random.integers(0, 5))):
        ends = random.uniform(0, 1, 4) * (width, height, width, height)
        pen.line([float(v) for v in ends], fill=int(random.integers(60, 200)), width=1)
    lines = np.asarray(sheet, dtype=np.float64)[..., None] / 255
    ground = colour + soft[..., None] * random.uniform(0.05, 0.3)
    return ground + lines * (random.uniform(0, 255, 3) - ground)


def _shape(name: str, width: int, height: int, random: Random) -> Floats:
    """Ink (height, width), 0 to 1: one turned, squeezed shape somewhere in the image."""
    side = min(width, height)
    radius = side * random.uniform(0.2, 0.42)
    cx, cy = random.uniform(radius, width - radius), random.uniform(radius, height - radius)
    turn, squeeze = random.uniform(0, 2 * math.pi), random.uniform(0.75, 1)
    y, x = np.mgrid[0:height, 0:width]
    u = ((x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)) / radius
    v = (-(x - cx) * math.sin(turn) + (y - cy) * math.cos(turn)) / radius / squeeze
    inside = _SHAPES[name](u, v, np.hypot(u, v), np.arctan2(v, u))
    return np.clip(0.5 + inside * radius / 1.5, 0, 1)


# Each takes a point as (u, v) and as (distance, angle), with 1 the shape's size, and is positive inside the shape.
_SHAPES: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "cross": lambda u, v, r, a: np.minimum(0.95 - r, np.maximum(0.26 - abs(u), 0.26 - abs(v))),
    "disc": lambda u, v, r, a: 0.9 - r,
    "ring": lambda u, v, r, a: 0.2 - abs(r - 0.7),
    "flower": lambda u, v, r, a: 0.62 + 0.33 * np.cos(5 * a) - r,
    "triangle": lambda u, v, r, a: 0.5 - np.maximum(u, np.maximum(-u / 2 + 0.866 * v, -u / 2 - 0.866 * v)),
}


def _texture(name: str, width: int, height: int, random: Random) -> Floats:
    """Ink (height, width), 0 to 1: a pattern of random scale and direction over the whole image."""
    period = min(width, height) * random.uniform(0.12, 0.3)
    turn = random.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:height, 0:width] / period
    u = x * math.cos(turn) + y * math.sin(turn) + random.uniform(0, 1)
    v = -x * math.sin(turn) + y * math.cos(turn) + random.uniform(0, 1)
    return np.clip(0.5 + 4 * _TEXTURES[name](u, v, random.uniform(0.6, 1.4)), 0, 1)


def _tooth(x: Floats) -> Floats:
    """Distance of x from the nearest whole number."""
    return np.asarray(np.abs(x - np.rint(x)))


_TEXTURES: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "bricks": lambda u, v, k: np.minimum(_tooth(v) - 0.09, _tooth(u / 2.2 + 0.5 * (np.rint(v - 0.5) % 2)) - 0.05),
    "checks": lambda u, v, k: np.sin(math.pi * u) * np.sin(math.pi * v) * 1.5,
    "dots": lambda u, v, k: 0.2 + 0.08 * k - np.hypot(_tooth(u), _tooth(v)),
    "stripes": lambda u, v, k: _tooth(u) - 0.25 * k,
    "waves": lambda u, v, k: _tooth(u + 0.35 * np.sin(2 * math.pi * v / 2.5)) - 0.25 * k,
}
