"""Recipes: their values, how they are fitted to data, and the schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alexnet_fast import TrainConfig, UsageError
from alexnet_fast.training.recipes import (
    PUBLISHED_STEPS,
    Plateau,
    Recipe,
    adapted,
    choose_recipe,
    fast_batch_size,
    learning_rate,
    named_recipes,
    training_size,
)

CONFIG = TrainConfig(dataset="data")


def test_the_notebook_and_the_paper():
    notebook = choose_recipe(replace(CONFIG, recipe="notebook", model="alexnet-bn"), 10_000)
    assert (notebook.optimizer, notebook.lr, notebook.batch_size, notebook.epochs) == ("adam", 1e-3, 64, 15)
    paper = choose_recipe(replace(CONFIG, recipe="paper", model="alexnet-paper"), 1_281_167)
    assert (paper.optimizer, paper.momentum, paper.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (paper.lr, paper.batch_size, paper.epochs, paper.schedule) == (0.01, 128, 90, "plateau")
    assert (paper.init, paper.clip, paper.warmup_steps) == ("published", 0, 0)
    assert (paper.crop, paper.color_noise, paper.plateau_factor) == ("shorter-side", 0.1, 0.1)
    assert set(named_recipes()) == {"fast", "paper", "notebook", "record"}


def adapted_to(images: int, **options) -> tuple[Recipe, str | None]:
    config = replace(CONFIG, **options)
    recipe = choose_recipe(config, images)
    return recipe, adapted(recipe, config.model, recipe.epochs * (images // recipe.batch_size))


def test_the_published_pair_is_adapted_to_a_short_run_and_the_steps_it_needs_are_named():
    recipe, words = adapted_to(1500, recipe="paper", model="alexnet-paper", epochs=10)
    assert (recipe.init, recipe.clip, recipe.lr) == ("scaled", 5.0, 0.01)
    assert f"{PUBLISHED_STEPS:,} steps" in words and "this run has 110" in words and "init scaled" in words
    assert adapted_to(1_281_167, recipe="paper", model="alexnet-paper")[1] is None


def test_a_published_start_that_was_asked_for_is_kept_and_judged():
    overrides = {"init": "published", "clip": 0}
    recipe, words = adapted_to(1500, recipe="paper", model="alexnet-paper", epochs=10, overrides=overrides)
    assert (recipe.init, recipe.clip) == ("published", 0)
    assert f"{PUBLISHED_STEPS:,} steps" in words and "expect a loss at ln(classes)" in words


@pytest.mark.parametrize("model", ["alexnet", "alexnet-owt", "alexnet-paper"])
def test_adam_goes_slower_without_batch_normalisation_and_says_so(model):
    recipe, words = adapted_to(1500, recipe="notebook", model=model)
    assert (recipe.lr, recipe.warmup_steps, recipe.optimizer) == (2e-4, 50, "adam")
    assert "lr 0.0002 (published: 0.001)" in words and model in words
    assert adapted_to(1500, recipe="notebook", model="alexnet-bn")[1] is None
    assert adapted_to(1500, recipe="notebook", model=model, lr=1e-3)[0].lr == 1e-3


def test_every_hyper_parameter_can_be_overridden():
    config = replace(CONFIG, epochs=3, lr=0.5, overrides={"area": [0.5, 1], "ema": 0.9, "flip": "off"})
    recipe = choose_recipe(config, 5000)
    assert (recipe.epochs, recipe.lr, recipe.area, recipe.ema, recipe.flip) == (3, 0.5, (0.5, 1.0), 0.9, "off")
    assert recipe.augmentation.area == (0.5, 1.0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"optimizer": "lion"}, {"schedule": "step"}, {"lr": 0}, {"lr": "fast"}, {"ema": 1}, {"epochs": 1.5},
        {"warmup_steps": -1}, {"init": "he"}, {"warmup": 2},
        {"nesterov": 1}, {"area": [1]}, {"crop": "warp"}, {"start_size": 0}, {"nothing": 1},
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


def test_the_warm_up_goes_by_share_or_by_steps_whichever_is_longer():
    recipe = replace(choose_recipe(CONFIG, 5000), lr=1.0, warmup=0.1, warmup_steps=50, schedule="constant")
    assert [learning_rate(recipe, step, 1000) for step in (99, 100)] == [pytest.approx(100 / 101), 1.0]
    assert [learning_rate(recipe, step, 200) for step in (49, 50)] == [pytest.approx(50 / 51), 1.0]
    assert [learning_rate(recipe, step, 60) for step in (29, 30)] == [pytest.approx(30 / 31), 1.0]  # half the run


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
