"""Crops, flips, resampling weights and normalisation, against torchvision and against their distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as transforms
from torchvision.transforms.v2 import functional

from alexnet_fast.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    finish_batch,
    normalise_planes,
    resampling_matrix,
    sample_crops,
    sample_flips,
    uniform,
)


def test_uniform_is_a_function_of_its_arguments_and_uniform() -> None:
    numbers = uniform(3, 2, np.arange(20000), 0)
    assert np.array_equal(numbers[500:600], uniform(3, 2, np.arange(500, 600), 0))
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(np.histogram(numbers, 10, (0, 1))[0] / 2000 - 1).max() < 0.1
    for other in (
        uniform(4, 2, np.arange(20000), 0),
        uniform(3, 3, np.arange(20000), 0),
        uniform(3, 2, range(20000), 1),
    ):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.03


def test_crops_lie_within_their_images_whatever_the_shape() -> None:
    heights = np.array([1, 1, 500, 3, 64, 1200, 7])
    widths = np.array([1, 500, 1, 5, 64, 333, 2000])
    for epoch in range(50):
        top, left, height, width = sample_crops(0, epoch, np.arange(7), heights, widths).T
        assert (height >= 1).all() and (width >= 1).all() and (top >= 0).all() and (left >= 0).all()
        assert (top + height <= heights).all() and (left + width <= widths).all()


def test_crops_are_distributed_as_torchvisions() -> None:
    image = torch.empty(1, 375, 500)
    torch.manual_seed(0)
    draws = [transforms.RandomResizedCrop(224).make_params([image]) for _ in range(3000)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in draws], dtype=float)
    ours = sample_crops(0, 0, np.arange(3000), np.full(3000, 375), np.full(3000, 500)).astype(float)
    for column in range(4):
        quantiles = [np.quantile(x[:, column], np.linspace(0.1, 0.9, 9)) for x in (ours, theirs)]
        # 3,000 draws of values that spread over some 150 pixels leave a quantile uncertain by 3 to 5 pixels.
        assert np.abs(quantiles[0] - quantiles[1]).max() < 18
    area = [x[:, 2] * x[:, 3] / (375 * 500) for x in (ours, theirs)]
    assert abs(area[0].mean() - area[1].mean()) < 0.015
    ratio = [np.log(x[:, 3] / x[:, 2]) for x in (ours, theirs)]
    assert abs(ratio[0].mean() - ratio[1].mean()) < 0.012 and abs(ratio[0].std() - ratio[1].std()) < 0.01


def test_flips_are_half_and_change_with_the_epoch() -> None:
    first, second = (sample_flips(0, epoch, np.arange(10000)) for epoch in (0, 1))
    assert abs(first.mean() - 0.5) < 0.02 and abs((first == second).mean() - 0.5) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [8, 33])
def test_finished_batches_are_flipped_and_normalised(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    before = images.clone()
    flips = torch.tensor([True, False, True, False, False, True])
    flipped = torch.stack([x.flip(2) if f else x for x, f in zip(images, flips, strict=True)])
    want = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)(flipped.float() / 255)
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    got = finish_batch(images, flips, dtype)
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    assert (got.float() - want).abs().max() < tolerance
    assert torch.equal(finish_batch(images, flips, torch.uint8), flipped)
    assert torch.equal(finish_batch(images, None, torch.uint8), images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("box", "size"), [((0, 64), 64), ((5, 40), 64), ((3, 61), 24), ((10, 3), 16), ((0, 64), 20)])
def test_resampling_weights_are_the_antialiased_bilinear_filter(box: tuple[int, int], size: int) -> None:
    start, length = box
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    one = torch.ones(1)
    matrix = resampling_matrix(start * one, length / size * one, start * one, (start + length) * one, size, 64)
    assert matrix.shape == (1, size, 64) and torch.allclose(matrix.sum(2), torch.ones(1))
    m = matrix[0]
    got = m @ image @ m.T
    want = functional.resized_crop(image, start, start, length, length, [size, size], antialias=True)
    assert (got - want).abs().max() < 1e-4


def test_planes_are_normalised_like_batches() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    rows = images.permute(0, 2, 1, 3).float() + 0.3
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        got = normalise_planes(rows, dtype)
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(got.float(), finish_batch(images, None, dtype).float(), atol=1e-6)
