"""The drawings for people: one look, whole on the page, told apart without colour."""

from __future__ import annotations

import itertools
import math

import numpy as np
from PIL import Image

from alexnet_fast.plots import (
    LINES,
    MARKERS,
    PALETTE,
    best_row,
    plot_confusion,
    plot_curves,
    plot_filters,
    plot_grid,
    plot_guesses,
    plot_neighbours,
)
from alexnet_fast.training import made_harder_by


def read_png(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def rows(train_loss, train_top1, val_loss, val_top1):
    return [
        {"epoch": n, "train_loss": a, "train_top1": b, "val_loss": c, "val_top1": d, "val_top5": min(1, d + 0.1),
         "lr": 0.1, "images_per_s": 100.0, "data_wait": 0.1, "seconds": 1.0}
        for n, (a, b, c, d) in enumerate(zip(train_loss, train_top1, val_loss, val_top1, strict=True), start=1)
    ]  # fmt: skip


GOOD = rows([2, 1, 0.6, 0.5], [0.3, 0.7, 0.8, 0.81], [2, 1, 0.7, 0.7], [0.3, 0.7, 0.8, 0.8])


def test_a_run_without_validation_and_one_with_nan_are_drawn(tmp_path):
    bare = [{"epoch": 0, "train_loss": 2.0, "train_top1": 0.1, "val_loss": None, "lr": 0.1, "images_per_s": 5.0}]
    assert best_row(bare) is None
    broken = rows([2, math.nan, math.nan], [0.1] * 3, [2, math.nan, math.nan], [0.1] * 3)
    for name, run in (("bare", bare), ("broken", broken), ("empty", [])):
        plot_curves(run, tmp_path / f"{name}.png")
        assert read_png(tmp_path / f"{name}.png").shape[1] > 1000


def test_curves_are_drawn_into_a_folder_that_was_not_there(tmp_path):
    path = tmp_path / "новая папка" / "curves.png"
    plot_curves(GOOD, path, title="run")
    height, width = read_png(path).shape[:2]
    assert width > height > 500


def test_the_best_epoch_is_the_first_with_the_highest_top1():
    assert best_row(GOOD)["epoch"] == 3


def test_the_legend_says_what_makes_training_harder_than_validation(tmp_path):
    for recipe, words in (
        ({"dropout": 0.0, "label_smoothing": 0.0, "mixup": 0.2}, "train (augmented, MixUp)"),
        ({"dropout": None, "label_smoothing": 0.1}, "train (augmented, dropout, smoothed labels)"),
    ):
        plot_curves(GOOD, tmp_path / "c.svg", training=made_harder_by(recipe))
        assert words in (tmp_path / "c.svg").read_text()


def test_no_epoch_is_marked_best_where_a_run_stands_still(tmp_path):
    standing = [*GOOD[:-1], {**GOOD[-1], "still": "Stands still after 100 steps."}]
    for name, run in (("good", GOOD), ("standing", standing)):
        plot_curves(run, tmp_path / f"{name}.svg")
    assert "best epoch" in (tmp_path / "good.svg").read_text()
    assert "best epoch" not in (tmp_path / "standing.svg").read_text()


def test_a_grid_shows_every_image_whatever_its_shape(tmp_path):
    red = np.zeros((20, 60, 3), dtype=np.uint8)
    red[..., 0] = 255
    grey = np.full((64, 48), 90, dtype=np.uint8)
    plot_grid([red, grey, red], ["a $dollar_name", "金鱼", "a very long name, " * 9], tmp_path / "g.png", columns=2)
    drawn = read_png(tmp_path / "g.png").reshape(-1, 3)
    assert (drawn == (255, 0, 0)).all(axis=1).sum() > 2000
    assert (abs(drawn.astype(int) - 90) <= 1).all(axis=1).sum() > 2000


def test_a_confusion_matrix_is_drawn_for_few_and_for_many_classes(tmp_path):
    for classes in (1, 10, 200):
        counts = np.eye(classes, dtype=np.int64)
        plot_confusion(counts, [f"class {n}" for n in range(classes)], tmp_path / f"{classes}.png")
        assert read_png(tmp_path / f"{classes}.png").shape[1] > 400


def test_neighbours_in_the_palette_differ_in_lightness_and_in_line():
    """A print in black and white tells them apart, and so does an eye that sees no colour."""

    def lightness(colour):
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        return 116 * y ** (1 / 3) - 16

    light = [lightness(colour) for colour in PALETTE]
    assert all(abs(a - b) > 15 for a, b in itertools.pairwise(light)), light
    assert len(set(map(str, LINES))) == len(set(MARKERS)) == len(PALETTE)


def test_the_curves_of_a_run_are_told_apart_in_grey(tmp_path):
    """In grey, the dark line of validation and the light one of training leave pixels of unlike lightness."""
    plot_curves(GOOD, tmp_path / "c.png", title="Fits well.", foot="alexnet, run tiny")
    with Image.open(tmp_path / "c.png") as image:
        grey = np.asarray(image.convert("L")).astype(int)
    left = grey[: len(grey) // 2, : grey.shape[1] // 2]
    assert (left < 75).sum() > 500 and ((left > 130) & (left < 170)).sum() > 300


def test_the_filters_of_a_first_layer_are_drawn_on_one_scale(tmp_path):
    weights = np.zeros((4, 3, 5, 5), np.float32)
    weights[1, 0], weights[2] = 1, -1
    plot_filters(weights, tmp_path / "f.png", title="Two filters of four respond.")
    drawn = read_png(tmp_path / "f.png").reshape(-1, 3).astype(int)
    for colour in ((127, 127, 127), (255, 127, 127), (0, 0, 0)):  # 0, red alone, as negative as any
        assert (abs(drawn - colour) <= 1).all(axis=1).sum() > 5000, colour


def test_guesses_and_neighbours_are_drawn_for_any_number_of_images(tmp_path):
    red, grey = np.full((20, 30, 3), (255, 0, 0), np.uint8), np.full((30, 20, 3), 90, np.uint8)
    for count in (1, 5, 8):
        names = ["金鱼", "a $dollar name that is longer than its place"] * 4
        guesses = [[(names[0], 0.7), ("other", 0.2)]] * count
        plot_guesses([red] * count, names[:count], guesses, tmp_path / "g.png", title="7 of 8 are right.")
        assert (read_png(tmp_path / "g.png") == (255, 0, 0)).all(axis=2).sum() > 3000 * count
        plot_neighbours([red] * count, names[:count], [[(grey, "other")] * 6] * count, tmp_path / "n.png")
        drawn = read_png(tmp_path / "n.png").astype(int)
        assert (drawn == (255, 0, 0)).all(axis=2).sum() > 1500 * count
        assert (abs(drawn - 90) <= 1).all(axis=2).sum() > 6 * 1500 * count
