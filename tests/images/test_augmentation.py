"""The choices of augmentation: what a recipe may ask of every training loader."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_fast import Augmentation, UsageError
from alexnet_fast.images import draw_crops, draw_flips, draw_on_device, sample_crops, sample_flips

RECORDS = np.arange(2000)


def test_the_default_is_the_random_resized_crop_and_flip():
    heights, widths = np.full(2000, 375), np.full(2000, 500)
    crops = draw_crops(Augmentation(), 1, 2, RECORDS, heights, widths)
    np.testing.assert_array_equal(crops, sample_crops(1, 2, RECORDS, heights, widths))
    np.testing.assert_array_equal(draw_flips(Augmentation(), 1, 2, RECORDS), sample_flips(1, 2, RECORDS))


def test_area_bounds_the_share_of_the_image():
    crops = draw_crops(Augmentation(area=(0.5, 0.6)), 0, 0, RECORDS, np.full(2000, 640), np.full(2000, 640))
    share = crops[:, 2] * crops[:, 3] / 640**2
    assert 0.49 < share.min() < 0.51 and 0.59 < share.max() < 0.61


@pytest.mark.parametrize(("height", "width"), [(256, 256), (375, 500), (500, 333), (64, 64), (1, 9)])
def test_shorter_side_cuts_a_square_at_a_random_place(height, width):
    crops = draw_crops(Augmentation(crop="shorter-side"), 0, 0, RECORDS, np.full(2000, height), np.full(2000, width))
    side = max(1, round(min(height, width) * 224 / 256))
    assert (crops[:, 2:] == side).all()
    tops, lefts = set(crops[:, 0].tolist()), set(crops[:, 1].tolist())
    assert tops == set(range(height - side + 1)) and min(lefts) == 0 and max(lefts) == width - side


def test_alternate_flips_show_the_other_side_each_epoch():
    flips = [draw_flips(Augmentation(flip="alternate"), 7, epoch, RECORDS) for epoch in range(3)]
    assert (flips[0] ^ flips[1]).all() and (flips[0] == flips[2]).all()
    assert 0.45 < flips[0].mean() < 0.55
    assert not draw_flips(Augmentation(flip="off"), 7, 1, RECORDS).any()


@pytest.mark.parametrize(
    "wrong", [{"crop": "warp"}, {"flip": "up"}, {"area": (0, 1)}, {"area": (0.9, 0.2)}, {"area": 1}]
)
def test_wrong_choices_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Augmentation(**wrong)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(area=(0.25, 1.0), flip="alternate"),
        Augmentation(crop="shorter-side", flip="off"),
        Augmentation(crop="shorter-side"),
    ],
    ids=["resized", "alternate", "off", "shorter-side"],
)
@pytest.mark.parametrize("size", [(64, 64), (40, 300), (7, 5)])
def test_a_device_draws_the_same_boxes_and_flips(augmentation: Augmentation, size: tuple[int, int]) -> None:
    records = np.random.default_rng(0).permutation(5000)
    for seed, epoch in ((0, 0), (2**63 - 1, 3)):
        boxes, flips = draw_on_device(augmentation, seed, epoch, torch.from_numpy(records), size)
        heights, widths = np.full(5000, size[0]), np.full(5000, size[1])
        expected = draw_crops(augmentation, seed, epoch, records, heights, widths)
        # A box whose side lies half-way between two pixels may fall to the other side by the last bit of exp.
        assert (boxes.numpy() != expected).any(axis=1).mean() < 1e-3
        assert np.array_equal(flips.numpy(), draw_flips(augmentation, seed, epoch, records))
