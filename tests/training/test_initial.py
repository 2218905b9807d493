"""Starting from weights that are there, with layers that keep them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_samples, pack_images

from alexnet_fast import TrainConfig, UsageError, create_model, train
from alexnet_fast.training import load_run
from alexnet_fast.training.checkpoint import load_checkpoint


def config_for(dataset: Path, run_dir: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        dataset=dataset, run_dir=run_dir, model="alexnet-bn", recipe="notebook", epochs=1, batch_size=16, image_size=32,
        overrides={"width": 0.0625}, num_workers=0, device="cpu", precision="bf16",
    )  # fmt: skip
    return replace(config, **changes)


def run(config: TrainConfig) -> list[str]:
    lines: list[str] = []
    train(config, say=lines.append)
    return [line for line in lines if line.startswith("weights of")]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run_dir / "last.pt")["model"]


@pytest.fixture(scope="module")
def first_run(packed_small, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("initial") / "first"
    run(config_for(packed_small, run_dir))
    return run_dir


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> Path:
    samples = {"train": make_samples("train", 30, 3, size=(32, 32))}
    return pack_images(tmp_path_factory.mktemp("three") / "data", samples, num_classes=3)


def test_frozen_features_keep_the_weights_and_a_new_last_layer_is_said(first_run, three_classes, tmp_path):
    config = config_for(three_classes, tmp_path / "run", init=first_run, freeze="features", max_steps=1)
    (line,) = run(config)
    assert "all layers but the last, which is new (4 classes there, 3 here)" in line
    assert run(replace(config, resume=True, max_steps=None, epochs=3)) == []  # it has weights of its own now
    before, after = weights(first_run), weights(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("features."))
    learnt = [name for name in before if name.startswith("classifier.") and after[name].shape == before[name].shape]
    assert learnt and not any(torch.equal(after[name], before[name]) for name in learnt if name.endswith("weight"))
    assert load_run(tmp_path / "run").model.classifier[-1].out_features == 3
    with pytest.raises(UsageError, match="freeze features there, none asked for"):
        train(replace(config, resume=True, freeze="none"), say=lambda line: None)


def test_weights_for_the_same_classes_are_taken_whole(first_run, packed_small, tmp_path):
    (line,) = run(config_for(packed_small, tmp_path / "run", init=first_run / "last.pt", lr=1e-12, max_steps=1))
    assert line.endswith("last.pt: all layers")
    for name, value in weights(first_run).items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(weights(tmp_path / "run")[name], value, atol=1e-9, rtol=0)


def test_weights_without_class_names_are_taken_and_that_is_said(packed_small, tmp_path):
    torch.save(create_model("alexnet-owt", 4, 224, width=0.0625).state_dict(), tmp_path / "owt.pth")
    config = config_for(packed_small, tmp_path / "run", model="alexnet-owt", init=tmp_path / "owt.pth", max_steps=1)
    (line,) = run(config)
    assert "taken to be of the same 4 classes, which the file does not name" in line
    assert "the first convolution strides by 1 at this image size, and by 4 there" in line


def test_weights_of_another_network_are_refused_by_name(first_run, packed_small, tmp_path):
    config = config_for(packed_small, tmp_path / "run", init=first_run)
    for change, words in (
        ({"model": "alexnet"}, "holds alexnet-bn: use --model alexnet-bn"),
        ({"overrides": {"width": 0.125}}, r"features.0.weight is 8x3x5x5 there and 16x3x5x5 here"),
        ({"init": tmp_path / "nothing"}, "there is no run"),
    ):
        with pytest.raises(UsageError, match=words):
            train(replace(config, **change), say=lambda line: None)
