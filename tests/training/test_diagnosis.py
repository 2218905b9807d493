"""A run that stands still: that it says so, with the cause that was put there, in every place where people look."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_samples, pack_images

from alexnet_fast import TrainConfig, train
from alexnet_fast.training.diagnosis import Findings, beats_guessing, explain, label_relation, over_chance

CLASSES = 3
HEALTHY = {
    "worst_loss": 1.3, "guessing_loss": 1.1, "moved": {"convolution 1": 0.1, "fully connected layer 3": 0.2},
    "dead": {"convolution 1": 0.0, "convolution 2": 0.3}, "relation": 30.0, "largest": 0.3,
    "gradient": {"convolution 1": 0.3, "fully connected layer 3": 2.0},
}  # fmt: skip


def dataset(folder: Path, *, shuffled: tuple[str, ...] = (), classes: int = CLASSES, val: int = 60) -> Path:
    splits = {}
    for split, count in (("train", 120), ("val", val)):
        samples = make_samples(split, count, CLASSES, size=(32, 32))
        labels = [label % classes for _, label, _ in samples]
        if split in shuffled:
            labels = list(np.random.default_rng(5).permutation(labels))
        splits[split] = [(jpeg, int(label), key) for (jpeg, _, key), label in zip(samples, labels, strict=True)]
    return pack_images(folder, splits, num_classes=CLASSES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("plain"))


def run(data: Path, folder: Path, **options):
    lines: list[str] = []
    config = TrainConfig(
        dataset=data, run_dir=folder, image_size=32, batch_size=8, num_workers=0, device="cpu", precision="fp32",
        **{"epochs": 7, "overrides": {"width": 0.0625, "dropout": 0.0}, **options},
    )  # fmt: skip
    result = train(config, say=lines.append)
    assert result is not None
    return result, lines, json.loads((folder / "summary.json").read_text())


def test_a_run_that_learns_says_nothing_of_the_kind(plain, tmp_path):
    result, lines, summary = run(plain, tmp_path / "run")
    assert not any("Stands still" in line or "guessing" in line for line in [*lines, result.closing_lines()])
    assert summary["stands_still"] is False and result.closing_lines().startswith("best epoch")


def test_validation_images_too_few_to_be_certain_of_do_not_stand_still(tmp_path):
    """Five right of five in three classes are not certain at 0.1%, nor are they guessing."""
    result, lines, summary = run(dataset(tmp_path / "data", val=5), tmp_path / "run")
    assert summary["best"]["val_top1"] >= 0.8
    assert summary["stands_still"] is False
    assert not any("guessing" in line for line in [*lines, result.closing_lines()])


@pytest.mark.parametrize(
    ("rate", "cause"), [(10, "the rate of 10 is too high"), (1e-9, "the rate of 1e-09 is too low; no layer has moved")]
)
def test_a_rate_far_off_is_named_while_training_and_in_every_result(plain, tmp_path, rate, cause):
    result, lines, summary = run(plain, tmp_path / "run", lr=rate, epochs=14)
    said = [line for line in lines if line.startswith("Stands still after")]
    assert len(said) == len(set(said)), "each is said once"
    assert said and all(cause in line for line in said) and "guessing gets 1.099 and 33.3%" in said[0]
    assert result.rows[-1]["still"] == summary["verdict"] and cause in summary["verdict"]
    assert summary["stands_still"] is True
    assert cause in result.closing_lines() and "best epoch" not in result.closing_lines()
    assert "--lr" in summary["verdict"]


def test_shuffled_labels_are_named(tmp_path):
    data = dataset(tmp_path / "data", shuffled=("train", "val"), val=120)
    result, _, summary = run(data, tmp_path / "run")
    assert "the labels look shuffled" in summary["verdict"] and "best epoch" not in result.closing_lines()


def test_shuffled_labels_of_validation_alone_are_named(tmp_path):
    data = dataset(tmp_path / "data", shuffled=("val",), val=180)
    _, _, summary = run(data, tmp_path / "run", epochs=14)
    assert "the validation labels look shuffled" in summary["verdict"] and "Training reaches" in summary["verdict"]


def test_one_label_is_named(tmp_path):
    data = dataset(tmp_path / "data", classes=1)
    _, _, summary = run(data, tmp_path / "run")
    assert "all training images have one label" in summary["verdict"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"worst_loss": 158.0, "dead": {"convolution 3": 0.97}}, "rose to 158.*97% of the units of convolution 3"),
        ({"moved": {"convolution 1": 40.0}}, "convolution 1 moved by 40 times"),
        ({"dead": {"convolution 1": 0.0, "fully connected layer 2": 0.95}}, "95% of the units of fully"),
        ({"gradient": {"convolution 1": 1e-6, "fully connected layer 3": 1.0}}, "vanish.*1e-06 in convolution 1"),
        ({"relation": 0.5}, "labels look shuffled"),
        ({"relation": None}, "No cause was found.*too few images to tell"),
        ({"largest": 0.974, "relation": None}, "one class has 97.4% of the images"),
        ({}, "No cause was found.*30 standard deviations"),
    ],
)  # fmt: skip
def test_each_cause_has_its_words(change, words):
    text = explain(Findings(**{**HEALTHY, **change}), rate=0.05, usual_rate=0.05)
    assert re.search(words, text)


@pytest.mark.parametrize(
    ("hits", "trials", "chance", "over"),
    [(70, 250, 0.2, False), (71, 250, 0.2, True), (4, 4, 0.25, False), (5, 5, 0.25, True), (120, 120, 1.0, False),
     (33_400, 100_000, 1 / 3, False), (33_800, 100_000, 1 / 3, True), (0, 0, 0.5, False)],
)  # fmt: skip
def test_over_chance_is_the_exact_binomial_test(hits, trials, chance, over):
    assert over_chance(hits, trials, chance) is over


def test_a_validation_above_the_largest_class_is_no_guessing():
    labels = np.repeat(np.arange(10), [45, *[40] * 8, 35])
    assert beats_guessing(0.2125, labels) and not beats_guessing(0.15, labels)
    assert not beats_guessing(1.0, np.zeros(50, int))


def test_the_relation_of_labels_and_images_needs_no_network():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    images = torch.randn(300, 3, 16, 16) + 0.5 * torch.tensor([1.0, 0, -1])[labels].view(-1, 1, 1, 1)
    assert label_relation(images, labels) > 10
    assert abs(label_relation(images, labels[torch.randperm(300)])) < 4
    few = torch.cat([torch.zeros(292, dtype=torch.int64), torch.ones(4, dtype=torch.int64), torch.full((4,), 2)])
    assert label_relation(images, few) is None and label_relation(images[:60], labels[:60]) is None


def test_right_labels_of_one_large_class_are_not_called_shuffled(tmp_path):
    """One class of 144 images beside two of 4: the largest class is the cause, and said."""
    splits = {
        split: [s for i, s in enumerate(sorted(make_samples(split, 432, CLASSES, size=(32, 32)), key=lambda s: s[1]))
                if i < 144 or i % 36 == 0]
        for split in ("train", "val")
    }  # fmt: skip
    _, _, summary = run(pack_images(tmp_path / "data", splits, num_classes=CLASSES), tmp_path / "run", lr=1e-3)
    assert "shuffled" not in summary["verdict"] and "one class has 94.7% of the images" in summary["verdict"]
