"""What a data set holds, in words and in images."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import encode, make_samples, pack_images
from PIL import Image

import alexnet_fast as af
from alexnet_fast.images import finish_batch
from alexnet_fast.inspection import inspect, read_image, to_images


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_words_count_images_sizes_and_classes(packed):
    words = inspect(packed)
    assert "85 images in 4 classes, packed from tests" in words
    assert "train: 53 images" in words
    assert "test: 9 images" in words
    assert "without labels" in words
    assert "13 to 14 images a class" in words
    assert "64 to 250 in all" in words  # of the shorter sides
    assert "byte for byte" in words


def test_one_size_and_an_even_balance_are_said_shortly(packed_small, tmp_path):
    assert "all 64 x 64 pixels" in inspect(packed_small)
    even = pack_images(tmp_path / "even", {"train": make_samples("train", 12, 4)}, num_classes=4)
    assert "even: 3 images a class" in inspect(even)


def test_what_pack_changed_is_listed(tmp_path):
    source = tmp_path / "source" / "train"
    for name in "ab":
        (source / name).mkdir(parents=True)
        for i in range(3):
            image = Image.new("RGB", (40, 30), (80 * i, 100, 50))
            image.save(source / name / f"{i}.png" if name == "a" and i == 0 else source / name / f"{i}.jpg")
    af.pack(tmp_path / "source", tmp_path / "data", resize_shorter=20)
    words = inspect(tmp_path / "data")
    assert "pack changed:" in words
    assert "5 shrunk" in words
    assert "1 encoded anew (not a JPEG (PNG)): a/0.png" in words
    assert "resize_shorter=20" in words


def test_a_grid_holds_the_images_of_the_split(packed, tmp_path):
    words = inspect(packed, grid=tmp_path / "grid.png", split="val")
    assert f"grid of val: {tmp_path / 'grid.png'}" in words
    assert pixels(tmp_path / "grid.png").std() > 30


def test_the_augmented_grid_shows_the_image_beside_what_the_loader_fed(tmp_path):
    # One image of one colour: whatever is cropped from it has that colour too, so both cells must show it.
    jpeg = encode(Image.new("RGB", (90, 60), (200, 40, 90)), quality=98)
    samples = [(jpeg, 0, f"{i}.jpg") for i in range(4)]
    data = pack_images(tmp_path / "data", {"train": samples, "val": samples}, num_classes=1)
    for split in ("train", "val"):
        inspect(data, split=split, grid=tmp_path / "grid.png", augmented=True, image_size=32)
        flat = pixels(tmp_path / "grid.png").reshape(-1, 3).astype(int)
        near = (abs(flat - (200, 40, 90)) <= 3).all(axis=1).sum()
        cell = (1.5 * 120) ** 2
        assert near > 0.7 * (4 * cell + 4 * cell * 60 / 90)


def test_normalisation_is_undone_exactly():
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    expected = images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(to_images(finish_batch(images, None, torch.float32)), expected)
    assert np.array_equal(to_images(images), expected)
    coarse = to_images(finish_batch(images, None, torch.bfloat16)).astype(int)
    assert abs(coarse - expected).max() <= 2


def test_the_same_seed_draws_the_same_images(packed, tmp_path):
    drawn = []
    for seed in (1, 1, 2):
        inspect(packed, grid=tmp_path / "grid.png", seed=seed)
        drawn.append(pixels(tmp_path / "grid.png"))
    assert np.array_equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or not np.array_equal(drawn[0], drawn[2])


def test_grey_records_are_read_as_rgb(packed):
    reader = af.ShardReader(packed, "train")
    shapes = {read_image(reader, record).shape[2] for record in range(len(reader))}
    reader.close()
    assert shapes == {3}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--augmented"], 2, "--grid"),
        (["--split", "nosuch"], 2, "it has: "),
        (["--grid", "grid.xyz"], 2, "ends in one of"),
    ],
)
def test_mistakes_are_one_sentence(packed, tmp_path, arguments, code, words):
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "inspect", str(packed), *arguments],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
