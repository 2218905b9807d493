"""Options declared once: the command line, the checks and the command that resumes a run agree on each of them."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import alexnet_fast as af
from alexnet_fast import (
    BenchConfig,
    EvaluateConfig,
    LoaderConfig,
    PackConfig,
    PredictConfig,
    TrainConfig,
    UsageError,
    cli,
)
from alexnet_fast.options import default_of, flag_of, options_of
from alexnet_fast.training.plan import resume_command

# Of every option of training a value that is not its default.
OTHER = {
    "model": "alexnet-owt", "recipe": "paper", "epochs": 3, "batch_size": 7, "image_size": 96, "lr": 0.25,
    "overrides": {"ema": 0.5, "area": [0.2, 1], "crop": "shorter-side", "nesterov": True}, "precision": "fp32",
    "backend": "dali", "num_workers": 5, "pin_memory": False, "compile": True, "device": "cpu", "seed": 2**40,
    "checkpoint_every": None, "init": Path("runs/a"), "freeze": "features",
    "shuffle": "window", "cache": Path("a cache"), "cache_bytes": 3 << 30, "val_split": "test",
    "records": Path("a list.txt"), "share": 0.25, "hw_decoder_load": 0.5,
}  # fmt: skip
OF_ONE_START = {"run_dir", "resume", "loader_settings", "max_steps"}


def config_of(kind, words: list[str]):
    """The config that a command line of these words makes."""
    seen = []
    app = typer.Typer()

    def command(config):
        """Keep it."""
        seen.append(config)

    app.command()(cli._from_config(kind)(command))
    result = CliRunner().invoke(app, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return seen[0]


def test_a_command_line_without_options_is_the_config_without_any():
    for kind in (TrainConfig, BenchConfig):
        assert config_of(kind, ["data"]) == kind(dataset="data")
    assert config_of(PackConfig, ["a.zip", "data"]) == PackConfig(source="a.zip", dataset="data")
    assert config_of(EvaluateConfig, ["run", "s3://data"]) == EvaluateConfig(run="run", dataset="s3://data")
    assert config_of(PredictConfig, ["run", "a", "https://b/c.jpg"]) == PredictConfig(
        run="run", images=["a", "https://b/c.jpg"]
    )


def test_the_command_line_gives_every_option_of_packing_and_of_using_a_network():
    words = "a.zip data --split train --split val=more.tar --classes 7 --format kaggle --shard-bytes 64MiB --quality 80"
    words += " --resize-shorter 256 --workers 3 --seed 5 --on-bad-image skip --on-missing skip --limit 9 --engine ray"
    assert config_of(PackConfig, [*words.split(), "--no-seek-index", "--overwrite"]) == PackConfig(
        source="a.zip", dataset="data", splits=["train", "val=more.tar"], classes="7", format="kaggle",
        shard_bytes=64 << 20, quality=80, resize_shorter=256, workers=3, seed=5, on_bad_image="skip",
        on_missing="skip", limit=9, engine="ray", seek_index=False, overwrite=True,
    )  # fmt: skip
    words = "run data --split test --tta flip --json a.json --report page --batch-size 7 --backend resident"
    assert config_of(
        EvaluateConfig,
        [*words.split(), "--num-workers", "2", "--device", "cpu", "--records", "r.npy", "--share", "0.5"],
    ) == EvaluateConfig(
        run="run", dataset="data", split="test", tta="flip", json="a.json", report="page", batch_size=7,
        backend="resident", num_workers=2, device="cpu", records="r.npy", share=0.5,
    )  # fmt: skip
    words = "run a.jpg --top 3 --json a.json --features f.npy --device cpu"
    assert config_of(PredictConfig, words.split()) == PredictConfig(
        run="run", images=["a.jpg"], top=3, json="a.json", features="f.npy", device="cpu"
    )


@pytest.mark.parametrize(
    ("function", "kind"), [(af.pack, PackConfig), (af.evaluate, EvaluateConfig), (af.predict, PredictConfig)]
)
def test_a_function_shows_the_options_that_it_takes(function, kind):
    shown = inspect.signature(function).parameters
    assert {entry.name for entry, _ in options_of(kind)} == set(shown) - {"progress"}
    for entry, known in options_of(kind):
        if not known.argument:
            assert shown[entry.name].default == default_of(entry)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PackConfig(source="a", dataset="b", splits="train"), r"splits must be names of .*, got 'train'"),
        (lambda: PackConfig(source="a", dataset="b", quality=101), r"quality must be a whole .* 1 to 100, got 101"),
        (lambda: PackConfig(source="a", dataset="b", classes=2.5), "classes must be a number of classes, or a file"),
        (lambda: PredictConfig(run="a", images="b.jpg"), "images must be paths or URLs of images, got 'b.jpg'"),
        (lambda: EvaluateConfig(run="a", dataset="b", share=0), "share must be a number over 0 and up to 1, got 0"),
    ],
)  # fmt: skip
def test_a_config_says_what_it_takes(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_the_command_that_resumes_a_run_asks_for_the_same_run():
    config = TrainConfig(dataset="a b", **OTHER)
    words = shlex.split(resume_command(config, Path("runs/it's")))
    found = config_of(TrainConfig, words[2:])
    assert words[:2] == ["alexnet-fast", "train"]
    for entry in fields(TrainConfig):
        if entry.name not in OF_ONE_START:
            assert getattr(found, entry.name) == getattr(config, entry.name), entry.name
    assert found.resume and found.run_dir == Path("runs/it's")


def test_every_option_of_training_is_tried_here():
    known = {entry.name for entry, known in options_of(TrainConfig) if known.help and not known.argument}
    assert known == {*OTHER, *OF_ONE_START}
    default = TrainConfig(dataset="data")
    assert not [name for name, value in OTHER.items() if getattr(default, name) == value]


def test_what_a_run_is_is_declared_with_its_options():
    same = {entry.name for entry, known in options_of(TrainConfig) if known.same_run}
    assert same == {"model", "image_size", "precision", "backend", "seed", "freeze", "shuffle", "val_split"}


def test_lists_are_told_apart_by_commas_and_named_by_their_option():
    words = ["data", "--backend", "dali, torchvision", "--num-workers", "0,2,2", "--pin-memory", "on,off"]
    config = config_of(BenchConfig, [*words, "--batch-size", "8", "--no-persistent-workers"])
    assert config.backends == ("dali", "torchvision") and config.num_workers == (0, 2)
    assert config.pin_memory == (True, False) and config.batch_sizes == (8,) and not config.persistent_workers
    assert [flag_of(entry) for entry, _ in options_of(BenchConfig) if entry.name == "batch_sizes"] == ["--batch-size"]
    with pytest.raises(UsageError, match=r"backends must be some of dali, .*, got \('ffcv',\)"):
        BenchConfig(dataset="data", backends=("ffcv",))
    with pytest.raises(UsageError, match="--num-workers must be whole numbers from 0 to 1024, got '1,,2'"):
        config_of(BenchConfig, ["data", "--num-workers", "1,,2"])


@pytest.mark.parametrize("word", ["on", "auto", True])
def test_a_switch_of_two_values_has_two_values(word):
    assert LoaderConfig(dataset="data", pin_memory=word).pin_memory is True
    assert LoaderConfig(dataset="data", pin_memory="off").pin_memory is False
    assert TrainConfig(dataset="data", compile="auto").compile is False


@pytest.mark.parametrize("value", [True, 1.0, "4", -1, None, 10**6])
def test_a_value_of_the_wrong_kind_is_refused(value):
    with pytest.raises(UsageError, match="num_workers must be auto or a whole number from 0 to 1024, got "):
        LoaderConfig(dataset="data", num_workers=value)
