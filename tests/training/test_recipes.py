"""Recipes: their values, how they are fitted to data, and the schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alexnet_fast import TrainConfig, UsageError
from alexnet_fast.training.recipes import (
    Plateau,
    choose_recipe,
    fast_batch_size,
    learning_rate,
    named_recipes,
    training_size,
)

CONFIG = TrainConfig(dataset="data")


def test_the_notebook_and_the_paper():
    notebook = choose_recipe(replace(CONFIG, recipe="notebook"), 10_000)
    assert (notebook.optimizer, notebook.lr, notebook.batch_size, notebook.epochs) == ("adam", 1e-3, 64, 15)
    paper = choose_recipe(replace(CONFIG, recipe="paper"), 1_281_167)
    assert (paper.optimizer, paper.momentum, paper.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (paper.lr, paper.batch_size, paper.epochs, paper.schedule) == (0.01, 128, 90, "plateau")
    assert (paper.crop, paper.color_noise, paper.plateau_factor) == ("shorter-side", 0.1, 0.1)
    assert set(named_recipes()) == {"fast", "paper", "notebook"}


def test_every_hyper_parameter_can_be_overridden():
    config = replace(CONFIG, epochs=3, lr=0.5, overrides={"area": [0.5, 1], "ema": 0.9, "flip": "off"})
    recipe = choose_recipe(config, 5000)
    assert (recipe.epochs, recipe.lr, recipe.area, recipe.ema, recipe.flip) == (3, 0.5, (0.5, 1.0), 0.9, "off")
    assert recipe.augmentation.area == (0.5, 1.0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimizer": "lion"}, {"schedule": "step"}, {"lr": 0}, {"lr": "fast"}, {"ema": 1}, {"epochs": 1.5},
        {"warmup": 2}, {"nesterov": 1}, {"area": [1]}, {"crop": "warp"}, {"start_size": 0}, {"nothing": 1},
    ],
)  # fmt: skip
def test_wrong_hyper_parameters_are_refused_by_name(overrides):
    with pytest.raises(UsageError, match=next(iter(overrides))):
        choose_recipe(replace(CONFIG, overrides=overrides), 5000)


def test_a_value_given_twice_must_be_the_same():
    with pytest.raises(UsageError, match="lr was given twice"):
        choose_recipe(replace(CONFIG, lr=0.1, overrides={"lr": 0.2}), 5000)


def test_the_fast_batch_follows_the_number_of_images():
    assert [fast_batch_size(n) for n in (53, 1200, 5000, 100_000, 1_281_167)] == [16, 16, 64, 1024, 1024]
    small, large = choose_recipe(CONFIG, 5000), choose_recipe(CONFIG, 1_281_167)
    assert large.lr == pytest.approx(4 * small.lr, rel=1e-4)  # sixteen times the batch


def test_the_linear_schedule_warms_up_and_ends_near_zero():
    recipe = replace(choose_recipe(CONFIG, 5000), lr=1.0, warmup=0.2, schedule="linear", final_lr=0.0)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 21) and max(rates) == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5) and rates[99] == pytest.approx(1 / 80)
    cosine = replace(recipe, schedule="cosine", warmup=0.0, final_lr=0.1)
    assert learning_rate(cosine, 0, 100) == 1.0
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.55)


def test_a_plateau_divides_the_rate_by_ten():
    recipe = replace(choose_recipe(replace(CONFIG, recipe="paper"), 5000), plateau_patience=1)
    plateau = Plateau()
    rates = []
    for error in (0.9, 0.8, 0.8, 0.85, 0.7, 0.7, 0.7):
        plateau.update(recipe, error)
        rates.append(learning_rate(recipe, 0, 10, plateau.scale))
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 0.0001])


def test_images_grow_in_steps_to_their_whole_size():
    recipe = replace(choose_recipe(CONFIG, 5000), epochs=8, start_size=0.5, full_size_at=0.5)
    assert [training_size(recipe, epoch, 64) for epoch in range(8)] == [32, 40, 48, 56, 64, 64, 64, 64]
    assert [training_size(replace(recipe, start_size=1.0), epoch, 224) for epoch in range(2)] == [224, 224]
