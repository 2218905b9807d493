"""Crops and flips of many images of one size, drawn and turned into filter weights on the device.

The numbers are those of `augment`, from the same hash. There numpy draws them, and on the thread that feeds a GPU that
takes longer than to train on small images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .augment import (
    CROP_ASPECT,
    FLIP_STREAM,
    GOLDEN,
    TRIES,
    centred_boxes,
    draw_crops,
    draw_flips,
    hash_key,
)
from .geometry import EVAL_RESIZE

if TYPE_CHECKING:
    import torch

    from ..config import Augmentation


def draw_on_device(
    augmentation: Augmentation, seed: int, epoch: int, records: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and flips as `draw_crops` and `draw_flips` give them, on the device of `records`.

    Args:
        records: (n,) int64 record numbers.
        size: (height, width) of every image, pixels.

    Returns:
        float32 (n, 4): top, left, height, width; bool (n,): which are mirrored.
    """
    import torch

    if records.device.type == "mps":  # it has no float64, in which boxes are computed
        numbers, n = records.cpu().numpy(), len(records)
        boxes = draw_crops(augmentation, seed, epoch, numbers, np.full(n, size[0]), np.full(n, size[1]))
        drawn = (
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(draw_flips(augmentation, seed, epoch, numbers)),
        )
        return drawn[0].to(records.device), drawn[1].to(records.device)
    if augmentation.crop == "resized":
        crops = _resized_crops(seed, epoch, records, size, augmentation.area)
    else:
        crops = _squares(seed, epoch, records, size)
    if augmentation.flip == "off":
        flips = torch.zeros(len(records), dtype=torch.bool, device=records.device)
    else:
        alternate = augmentation.flip == "alternate"
        flips = _uniform(seed, 0 if alternate else epoch, records, FLIP_STREAM) < 0.5
        if alternate and epoch % 2:
            flips = ~flips
    return crops.to(torch.float32), flips


def _uniform(seed: int, epoch: int, records: torch.Tensor, stream: int) -> torch.Tensor:
    """As `augment.uniform`: its 64-bit words as signed ones, whose products wrap to the same bits."""
    import torch

    key = _signed(hash_key(seed, epoch, stream))
    bits = _mix(_mix(records * _signed(GOLDEN) + key) + key)
    return _shifted(bits, 11).to(torch.float64) * 2.0**-53


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros coming in."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _resized_crops(
    seed: int, epoch: int, records: torch.Tensor, size: tuple[int, int], area: tuple[float, float]
) -> torch.Tensor:
    """As `sample_crops`. All are drawn at every try and the first box that fits counts: which those are, the host does
    not learn, so it need not wait."""
    import torch

    height, width = size
    fallback = centred_boxes(np.array([float(height)]), np.array([float(width)]), CROP_ASPECT)
    boxes = torch.tensor(fallback[0].tolist(), dtype=torch.float64).repeat(len(records), 1).to(records.device)
    wanting = torch.ones(len(records), dtype=torch.bool, device=records.device)
    low, high = math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])
    for attempt in range(TRIES):
        share, shape, down, right = (_uniform(seed, epoch, records, 4 * attempt + i) for i in range(4))
        target = (area[0] + share * (area[1] - area[0])) * height * width
        ratio = torch.exp(low + shape * (high - low))
        crop_w, crop_h = torch.round(torch.sqrt(target * ratio)), torch.round(torch.sqrt(target / ratio))
        fits = (crop_w > 0) & (crop_h > 0) & (crop_w <= width) & (crop_h <= height) & wanting
        top = torch.floor(down * (height - crop_h + 1))
        left = torch.floor(right * (width - crop_w + 1))
        boxes = torch.where(fits[:, None], torch.stack([top, left, crop_h, crop_w], dim=1), boxes)
        wanting &= ~fits
    return boxes


def _squares(seed: int, epoch: int, records: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """As `draw_crops` with crop 'shorter-side'."""
    import torch

    side = max(1, round(min(size) / EVAL_RESIZE))
    top = torch.floor(_uniform(seed, epoch, records, 0) * (size[0] - side + 1))
    left = torch.floor(_uniform(seed, epoch, records, 1) * (size[1] - side + 1))
    return torch.stack([top, left, torch.full_like(top, side), torch.full_like(top, side)], dim=1)


def resampling_matrix(
    start: torch.Tensor, scale: torch.Tensor, low: torch.Tensor, high: torch.Tensor, size: int, length: int
) -> torch.Tensor:
    """Weights of the antialiased bilinear filter along one axis, as torch's and Pillow's: a triangle as wide as the
    scale where it shrinks, and one source pixel wide where it enlarges.

    Args:
        start: (n,) source position of the output's edge, pixels. scale: (n,) source pixels per output pixel.
        low, high: (n,) source pixels from `low` up to but not including `high` count, the rest weigh nothing.
        size, length: output and source pixels.

    Returns:
        float32 (n, size, length) on their device; every row adds up to 1.
    """
    import torch

    outputs = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    places = torch.arange(length, device=start.device, dtype=torch.float32)
    centres = start[:, None] + outputs * scale[:, None]
    reach = scale.clamp(min=1)[:, None, None]
    weights = (1 - (places + 0.5 - centres[:, :, None]).abs() / reach).clamp_(min=0)
    weights *= ((places >= low[:, None]) & (places < high[:, None]))[:, None, :]
    return weights.div_(weights.sum(dim=2, keepdim=True))
