"""The sentence on how a run fits."""

from __future__ import annotations

import math

import pytest

from alexnet_fast.training import fit_verdict


def rows(train_loss, train_top1, val_loss, val_top1):
    return [
        {"epoch": n, "train_loss": a, "train_top1": b, "val_loss": c, "val_top1": d, "val_top5": min(1, d + 0.1),
         "lr": 0.1, "images_per_s": 100.0, "data_wait": 0.1, "seconds": 1.0}
        for n, (a, b, c, d) in enumerate(zip(train_loss, train_top1, val_loss, val_top1, strict=True), start=1)
    ]  # fmt: skip


OVERFIT = rows([2, 1, 0.5, 0.2], [0.3, 0.6, 0.8, 0.95], [2, 1.5, 1.6, 1.9], [0.3, 0.5, 0.5, 0.5])
WIDE_GAP = rows([2, 1, 0.5, 0.2], [0.3, 0.6, 0.8, 0.95], [2, 1.6, 1.5, 1.5], [0.3, 0.5, 0.55, 0.55])
RISING = rows([2, 1.8, 1.6, 1.4], [0.2, 0.3, 0.4, 0.5], [2, 1.8, 1.6, 1.4], [0.2, 0.3, 0.4, 0.5])
STUCK = rows([2, 1.9, 1.9, 1.9], [0.2, 0.25, 0.25, 0.25], [2, 1.9, 1.9, 1.9], [0.2, 0.3, 0.3, 0.3])
GOOD = rows([2, 1, 0.6, 0.5], [0.3, 0.7, 0.8, 0.81], [2, 1, 0.7, 0.7], [0.3, 0.7, 0.8, 0.8])


@pytest.mark.parametrize(
    ("run", "word"),
    [
        (OVERFIT, "Overfits: validation loss was lowest at epoch 2 (1.500) and rose to 1.900"),
        (WIDE_GAP, "is 40 points above validation (55.0%)"),
        (RISING, "Underfits still: validation top-1 rose by 10.0 points over the last epoch, to 50.0%"),
        (STUCK, "Underfits: validation top-1 has settled at 30.0%"),
        (GOOD, "Fits well: validation top-1 is best at epoch 3 (80.0%)"),
        (GOOD[:2], "too few epochs"),
        ([], "No epoch was validated"),
    ],
)
def test_the_verdict_names_how_the_run_fits(run, word):
    assert word in fit_verdict(run)


def test_a_run_without_validation_and_one_with_nan_have_a_verdict():
    bare = [{"epoch": 0, "train_loss": 2.0, "train_top1": 0.1, "val_loss": None, "lr": 0.1, "images_per_s": 5.0}]
    assert "No epoch was validated" in fit_verdict(bare)
    broken = rows([2, math.nan, math.nan], [0.1] * 3, [2, math.nan, math.nan], [0.1] * 3)
    assert "too few epochs" in fit_verdict(broken)
