"""Crops and flips: drawn on the host from (seed, epoch, record), applied on the device to a whole batch.

Every draw is a hash of its arguments, not the next state of a generator. So a record's crop does not depend on which
worker decodes it, on the batch it lands in or on where a run was resumed.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .geometry import EVAL_RESIZE

if TYPE_CHECKING:
    import torch

    from ..config import Augmentation

# Mean and standard deviation of ImageNet's training images, RGB on a scale of 0 to 1: the values that torchvision's
# references and all its weights use.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
TRIES = 10
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, as in SplitMix64
FLIP_STREAM = 1000

CropArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]
UInt64Array = npt.NDArray[np.uint64]


def _mix(x: UInt64Array) -> UInt64Array:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words in which each input bit
    flips about half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: UInt64Array = x ^ (x >> np.uint64(31))
    return mixed


def uniform(seed: int, epoch: int, records: npt.ArrayLike, stream: int) -> FloatArray:
    """One number in [0, 1) for each record, a function of (seed, epoch, record, stream) alone; float64."""
    key = np.array([hash_key(seed, epoch, stream)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = _mix(_mix(np.asarray(records).astype(np.uint64) * np.uint64(GOLDEN) + key) + key)
    numbers: FloatArray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def hash_key(seed: int, epoch: int, stream: int) -> int:
    """The 64-bit word by which the numbers of one seed, epoch and stream differ from others'."""
    mask = 2**64 - 1
    with np.errstate(over="ignore"):
        key = np.array([seed & mask], dtype=np.uint64)
        for word in (epoch, stream):
            key = _mix(key + np.uint64(GOLDEN) + np.uint64(word & mask) * np.uint64(0xD1B54A32D192ED03))
    return int(key[0])


def sample_crops(
    seed: int,
    epoch: int,
    records: npt.ArrayLike,
    heights: npt.ArrayLike,
    widths: npt.ArrayLike,
    *,
    area: tuple[float, float] = CROP_AREA,
    aspect: tuple[float, float] = CROP_ASPECT,
) -> CropArray:
    """Boxes of a random resized crop (Szegedy et al. 2015, section 6), as torchvision's RandomResizedCrop draws them.

    The area is uniform in `area` (share of the image), the logarithm of width / height uniform in that of `aspect`;
    a box that does not fit is drawn again, up to ten times, and then the largest centred box within `aspect` is taken.

    Args:
        records: (n,) record numbers. heights, widths: (n,) of the images, pixels.

    Returns:
        int32 (n, 4): top, left, height, width, within the image.
    """
    records = np.asarray(records)
    h, w = np.asarray(heights, dtype=np.float64), np.asarray(widths, dtype=np.float64)
    boxes = centred_boxes(h, w, aspect)
    open_ = np.arange(len(records))
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for attempt in range(TRIES):
        if not len(open_):
            break
        draw = [uniform(seed, epoch, records[open_], 4 * attempt + i) for i in range(4)]
        target = (area[0] + draw[0] * (area[1] - area[0])) * h[open_] * w[open_]
        ratio = np.exp(low + draw[1] * (high - low))
        crop_w, crop_h = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))
        fits = (crop_w > 0) & (crop_h > 0) & (crop_w <= w[open_]) & (crop_h <= h[open_])
        top = np.floor(draw[2] * (h[open_] - crop_h + 1))
        left = np.floor(draw[3] * (w[open_] - crop_w + 1))
        boxes[open_[fits]] = np.stack([top, left, crop_h, crop_w], axis=1)[fits]
        open_ = open_[~fits]
    return boxes.astype(np.int32)


def centred_boxes(h: npt.NDArray[np.float64], w: npt.NDArray[np.float64], aspect: tuple[float, float]) -> FloatArray:
    """The largest centred boxes within `aspect`: float64 (n, 4)."""
    ratio = w / h
    crop_w = np.where(ratio > aspect[1], np.rint(h * aspect[1]), w)
    crop_h = np.where(ratio < aspect[0], np.rint(w / aspect[0]), h)
    crop_w, crop_h = np.clip(crop_w, 1, w), np.clip(crop_h, 1, h)
    return np.stack([np.floor((h - crop_h) / 2), np.floor((w - crop_w) / 2), crop_h, crop_w], axis=1)


def sample_flips(seed: int, epoch: int, records: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which images are mirrored left to right, with probability one half each: bool (n,)."""
    return uniform(seed, epoch, records, FLIP_STREAM) < 0.5


def draw_crops(
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    records: npt.ArrayLike,
    heights: npt.ArrayLike,
    widths: npt.ArrayLike,
) -> CropArray:
    """The training crops that `augmentation` asks for: int32 (n, 4), top, left, height, width, as `sample_crops`."""
    if augmentation.crop == "resized":
        return sample_crops(seed, epoch, records, heights, widths, area=augmentation.area)
    h, w = np.asarray(heights, dtype=np.float64), np.asarray(widths, dtype=np.float64)
    # The square to cut out of the image as it is: the network's share of the shorter side after scaling.
    side = np.maximum(1, np.rint(np.minimum(h, w) / EVAL_RESIZE))
    top = np.floor(uniform(seed, epoch, records, 0) * (h - side + 1))
    left = np.floor(uniform(seed, epoch, records, 1) * (w - side + 1))
    return np.stack([top, left, side, side], axis=1).astype(np.int32)


def draw_flips(augmentation: Augmentation, seed: int, epoch: int, records: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which training images `augmentation` mirrors in this epoch: bool (n,)."""
    if augmentation.flip == "off":
        return np.zeros(len(np.asarray(records)), dtype=np.bool_)
    if augmentation.flip == "random":
        return sample_flips(seed, epoch, records)
    # As in airbench (Jordan 2024): random once, then the other side each epoch.
    return sample_flips(seed, 0, records) ^ bool(epoch % 2)


def normalise_planes(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round to grey levels and normalise what resampling gave.

    Args:
        rows: (N, S, 3, S) on a scale of 0 to 255, floating point: rows of three planes.
        dtype: of the result; torch.uint8 is not normalised.

    Returns:
        (N, 3, S, S) in `dtype`, channels_last.
    """
    import torch

    rounded = rows.round().transpose(2, 3)
    if dtype == torch.uint8:
        return rounded.to(dtype, memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
    out = torch.empty(rounded.shape, dtype=dtype, device=rows.device)
    scale, bias = scale_and_bias(rows.device, 1)
    # Written through `out`, so that the change of order costs no pass of its own.
    torch.addcmul(bias, rounded.to(torch.float32), scale, out=out) if dtype == torch.float32 else out.copy_(
        torch.addcmul(bias, rounded.to(torch.float32), scale)
    )
    return out.permute(0, 3, 1, 2)


def finish_batch(images: torch.Tensor, flips: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Flip and normalise a batch on the device it lies on.

    Args:
        images: (N, 3, S, S) uint8, channels_last; left as it is.
        flips: (N,) bool on the same device, or None for no flips.
        dtype: of the result; torch.uint8 flips only.

    Returns:
        (N, 3, S, S) in `dtype`, channels_last: (x / 255 - mean) / std, computed in float32.
    """
    import torch

    images = images.contiguous(memory_format=torch.channels_last)
    if flips is not None:
        images = _flip(images, flips)
    if dtype == torch.uint8:
        return images
    # Rows of S x 3 values: broadcasting along rows is vectorised, along three channels it is not. One image of 224
    # pixels to float32: 26 us against 175 us on one core of an AMD EPYC.
    n, channels, height, width = images.shape
    scale, bias = scale_and_bias(images.device, width)
    rows = images.permute(0, 2, 3, 1).reshape(n * height, width * channels)
    if rows.is_cuda:  # one kernel reads bytes, computes in float32 and writes the result; no float32 copy in between
        finished = torch.addcmul(bias, rows, scale, out=torch.empty(rows.shape, dtype=dtype, device=rows.device))
    else:
        finished = torch.addcmul(bias, rows.to(torch.float32), scale).to(dtype)
    return finished.view(n, height, width, channels).permute(0, 3, 1, 2)


def _flip(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    import torch

    if images.device.type != "cpu":
        return torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
    images = images.clone(memory_format=torch.channels_last)
    for i in flips.nonzero()[:, 0].tolist():
        images[i] = images[i].flip(2)
    return images


@functools.lru_cache(maxsize=16)
def scale_and_bias(device: torch.device | str, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a row of `width` RGB pixels is multiplied with and what is added: float32 (width * 3,) each."""
    import torch

    std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64)
    scale, bias = (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)
    return scale.to(torch.float32).to(device), bias.to(torch.float32).to(device)
