"""Training through its public interface: what a run leaves, what it refuses, and that a resumed run is the same run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import draw_image, encode, make_samples, pack_images

from alexnet_fast import AlexNetFastError, TrainConfig, UsageError, evaluate, train
from alexnet_fast.dataset import read_dataset_info, write_dataset_info
from alexnet_fast.errors import StoppedError
from alexnet_fast.models import AlexNet
from alexnet_fast.training import load_run
from alexnet_fast.training.checkpoint import load_checkpoint
from alexnet_fast.training.log import duration, memory_note
from alexnet_fast.training.recipes import named_recipes
from alexnet_fast.training.run_folder import RunFolder

# 1/16 of the channels at 32 pixels: 0.1 M parameters, a step of some milliseconds.
SMALL = {"width": 0.0625, "dropout": 0.3, "ema": 0.5}


def small_config(dataset: Path, run_dir: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        dataset=dataset, run_dir=run_dir, model="alexnet", recipe="notebook", epochs=2, batch_size=16, image_size=32,
        overrides=SMALL, num_workers=1, device="cpu", precision="fp32",
    )  # fmt: skip
    return replace(config, **changes)


def quietly(config: TrainConfig):
    lines: list[str] = []
    result = train(config, say=lines.append)
    assert result is not None
    return result, lines


def assert_same(a, b, where="state"):
    """Bit for bit, through dicts, lists and tensors."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            if key not in ("clock", "images_per_s", "data_wait", "seconds", "max_steps", "checkpoint_every"):
                assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def test_a_run_folder_holds_all_of_it(packed_small, tmp_path):
    result, lines = quietly(small_config(packed_small, tmp_path / "run"))
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.rows and [row["epoch"] for row in rows] == [1, 2]
    assert repr(result).startswith(f"<run {run}: ") and "top-1" in repr(result) and "\n" not in repr(result)
    assert list(rows[0]) == [
        "epoch", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "val_balanced", "lr",
        "images_per_s", "data_wait", "seconds",
    ]  # fmt: skip
    assert all(0 <= row[name] <= 1 for row in rows for name in ("train_top1", "val_top1", "val_top5", "data_wait"))
    assert rows[0]["val_top5"] == 1.0  # four classes
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["lr"] == 2e-4 and config["recipe"]["width"] == 0.0625 and config["precision"] == "fp32"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["last"] == rows[-1] and summary["best"] == result.best and summary["finished"]
    assert summary["totals"]["steps"] == 6 and summary["totals"]["images"] == 96
    assert summary["versions"]["torch"] == torch.__version__ and summary["hardware"]["cores"] >= 1
    assert summary["verdict"].endswith(".")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    state = load_checkpoint(run / "last.pt")
    assert {"model", "optimizer", "scaler", "ema", "order", "config", "classes"} <= state.keys()
    assert state["order"] == {"seed": 0, "epoch": 2, "step": 0, "ranks": 1, "stretches": []}
    assert load_run(run).path.name == "best.pt"
    assert any("precision fp32" in line for line in lines) and "evaluate" in result.closing_lines()


def test_it_learns(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", model="alexnet-bn", epochs=6, batch_size=8, recipe="fast")
    result, _ = quietly(replace(config, overrides={"width": 0.125, "dropout": 0.0}))
    assert result.best["val_top1"] > 0.6  # chance is 25%


def test_the_image_size_fits_the_data_and_is_said(packed_small, packed, tmp_path):
    def trained(dataset, name, **options):
        _, lines = quietly(small_config(dataset, tmp_path / name, epochs=1, **options))
        size = json.loads((tmp_path / name / "config.json").read_text())["image_size"]
        return size, [line for line in lines if line.startswith("image size")]

    size, said = trained(packed_small, "equal", image_size="auto")
    assert size == 64 and len(said) == 1 and "image size 64, the images' own" in said[0] and "224" in said[0]
    assert trained(packed, "mixed", image_size="auto")[0] == 90  # the median of 64, 75, 90, 90, 150 and 250
    assert trained(packed_small, "given", image_size=32) == (32, [])
    assert trained(packed_small, "given", image_size=32, resume=True) == (32, [])
    assert trained(packed_small, "equal", image_size="auto", resume=True)[0] == 64
    assert TrainConfig(dataset=packed_small).image_size == "auto"


@pytest.mark.parametrize(("model", "start"), [("alexnet", 0.625), ("alexnet-bn", 0.5)])
def test_images_grow_from_where_the_network_has_a_pixel_left_and_resume_so(model, start, packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", model=model, recipe="record", image_size="auto", epochs=2)
    config = replace(config, overrides={"width": 0.0625, "hidden": 16})
    _, lines = quietly(replace(config, max_steps=1))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["start_size"] == start
    assert any(line.startswith("images grow from 0.625 of their side, not 0.5") for line in lines) == (start > 0.5)
    result, _ = quietly(replace(config, resume=True))
    assert len(result.rows) == 2


def test_large_images_are_seen_at_224_pixels(tmp_path):
    data = pack_images(tmp_path / "data", {"train": make_samples("train", 4, 2, size=(320, 240))}, num_classes=2)
    _, lines = quietly(small_config(data, tmp_path / "run", image_size="auto", epochs=1, batch_size=2, max_steps=1))
    assert "224 pixels) on 4 images" in lines[0]


def test_memory_that_the_first_step_may_not_find_is_named_beforehand():
    fast, notebook, free = named_recipes()["fast"], named_recipes()["notebook"], 379 << 20
    note = memory_note(fast, 24_750_000, free)
    assert note is not None and note.startswith("memory is short: gradients and momentum take 189 MiB of the 379 MiB")
    assert memory_note(fast, 24_750_000, 4 * free) is None and memory_note(fast, 24_750_000, None) is None
    assert "283 MiB" in (memory_note(notebook, 24_750_000, free) or "")  # Adam keeps two means


@pytest.mark.parametrize(("overrides", "times"), [({}, 1), ({"start_size": 0.625, "full_size_at": 1}, 1.99)])
def test_the_first_lines_say_how_long_a_long_run_will_take(overrides, times, packed_small, tmp_path):
    class Heard(Exception):
        pass

    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("training will take"):
            raise Heard

    config = small_config(packed_small, tmp_path / "run", epochs=20_000, batch_size=2, image_size=64)
    with pytest.raises(Heard):
        train(replace(config, overrides={**SMALL, **overrides}), say=say)
    assert not any(line.startswith("epoch") for line in lines)
    told = re.fullmatch(
        r"training will take about (?:(\d+) h )?(?:(\d+) min)?(?: \d+ s)? at ([\d,.]+) images/s, "
        r"the pace of its first steps(.*)",
        lines[-1],
    )
    assert told is not None, lines[-1]
    seconds = int(told[1] or 0) * 3600 + int(told[2] or 0) * 60
    # An image of twice the side takes four times as long: on average 1.99 times as long as those of 5/8 of it, where
    # the side grows to 6/8, 7/8 and the whole.
    assert seconds == pytest.approx(times * 20_000 * 52 / float(told[3].replace(",", "")), rel=0.2)
    assert told[4] == (", slower as images grow" if overrides else "")


@pytest.mark.parametrize("stop", [2, 3])  # within an epoch, at its end
@pytest.mark.parametrize("model", ["alexnet", "alexnet-bn"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(packed_small, tmp_path, stop, model):
    whole = small_config(packed_small, tmp_path / "whole", model=model, seed=3)
    if model == "alexnet-bn":  # everything at once: bf16 where it is fast, growing images, noise, momentum
        overrides = {**SMALL, "start_size": 0.75, "full_size_at": 0.5, "color_noise": 0.1, "clip": 1.0}
        whole = replace(whole, recipe="fast", precision="auto", overrides=overrides)
    part = replace(whole, run_dir=tmp_path / "part")
    uninterrupted, _ = quietly(whole)
    first, _ = quietly(replace(part, max_steps=stop))
    assert not first.finished and first.step == stop
    second, lines = quietly(replace(part, resume=True))
    assert second.finished and any(f"step {stop}" in line for line in lines)
    ends = [load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "part")]
    assert_same(*ends)
    assert_same(uninterrupted.rows, second.rows)


def test_resuming_a_finished_run_changes_nothing(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", epochs=1)
    quietly(config)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    result, _ = quietly(replace(config, resume=True))
    assert result.finished and len(result.rows) == 1
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_resuming_from_an_empty_folder_starts_at_the_beginning(packed_small, tmp_path):
    result, lines = quietly(small_config(packed_small, tmp_path / "run", epochs=1, resume=True))
    assert result.finished and any("no checkpoint yet" in line for line in lines)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", checkpoint_every=1)
    whole, _ = quietly(replace(config, run_dir=tmp_path / "whole"))
    quietly(replace(config, max_steps=5))
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    result, lines = quietly(replace(config, resume=True))
    assert any("previous.pt" in line and "step 4" in line for line in lines)
    assert_same(whole.rows, result.rows)


@pytest.mark.parametrize(("every", "previous"), [("0.001s", 5), (2, 4), ("epoch", 3)])
def test_checkpoints_within_an_epoch_go_by_time_or_steps(packed_small, tmp_path, every, previous):
    result, _ = quietly(small_config(packed_small, tmp_path / "run", checkpoint_every=every))
    assert result.step == 6  # two epochs of three
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 6
    assert load_checkpoint(tmp_path / "run" / "previous.pt")["step"] == previous
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pt")) == ["best.pt", "last.pt", "previous.pt"]


def test_the_log_says_how_long_the_run_has_to_go(packed_small, tmp_path):
    _, lines = quietly(small_config(packed_small, tmp_path / "run"))
    first, last = (line for line in lines if line.startswith("epoch "))
    assert first.endswith(" s left") and not last.endswith("left")
    assert duration(0.25) == "0.2 s" and duration(245) == "4 min 5 s" and duration(7620) == "2 h 7 min"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed 0 there, 1 asked for"),
        ({"model": "alexnet-owt"}, "model alexnet there, alexnet-owt asked for"),
        ({"lr": 0.5}, "lr 0.0002 there, 0.5 asked for"),
        ({"overrides": {**SMALL, "ema": 0.9}}, "ema 0.5 there, 0.9 asked for"),
        ({"image_size": 48}, "image_size 32 there, 48 asked for"),
    ],
)
def test_resuming_with_other_options_is_refused_by_name(packed_small, tmp_path, change, named):
    config = small_config(packed_small, tmp_path / "run", max_steps=1)
    quietly(config)
    with pytest.raises(UsageError, match=named):
        train(replace(config, resume=True, **change), say=lambda line: None)


def test_a_run_can_be_made_longer(packed_small, tmp_path):
    # At a constant rate 2 + 1 epochs are 3.
    config = small_config(packed_small, tmp_path / "run", overrides={**SMALL, "warmup_steps": 0})
    whole, _ = quietly(replace(config, run_dir=tmp_path / "whole", epochs=3))
    quietly(config)
    longer, lines = quietly(replace(config, resume=True, epochs=3))
    assert any("had 2 epochs and has 3 now" in line and "constant schedule of 3 epochs" in line for line in lines)
    # A run is judged where it ends, which the second epoch was for one of them.
    rows = [[{k: v for k, v in row.items() if k != "still"} for row in run.rows] for run in (whole, longer)]
    assert_same(*rows)
    ends = [load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "run")]
    for part in ("model", "ema", "optimizer", "order", "step"):
        assert_same(ends[0][part], ends[1][part], part)
    again, lines = quietly(replace(config, resume=True, epochs=None))  # not the recipe's 15
    assert again.finished and any("all 3 epochs are done" in line for line in lines)
    with pytest.raises(UsageError, match="has 3 epochs behind it, and 1 were asked for: use --epochs 3 or more"):
        train(replace(config, resume=True, epochs=1), say=lambda line: None)


def test_a_longer_schedule_is_said_with_its_rates(packed_small, tmp_path):
    config = small_config(
        packed_small, tmp_path / "run", recipe="fast", lr=0.008, overrides={"width": 0.0625, "warmup": 0.0}
    )
    quietly(config)
    _, lines = quietly(replace(config, resume=True, epochs=4))
    (line,) = (line for line in lines if line.startswith("going on"))
    assert "linear schedule of 4 epochs, 0.00133 before and 0.004 next" in line


def test_data_packed_from_elsewhere_is_the_same_data(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", max_steps=1)
    quietly(config)
    other = tmp_path / "other"
    shutil.copytree(packed_small, other)
    info = read_dataset_info(other)
    write_dataset_info(other, replace(info, packing={**info.packing, "source": "elsewhere.zip"}))
    result, _ = quietly(replace(config, resume=True, dataset=other, max_steps=2))
    assert result.step == 2
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    stored["dataset_id"] = hashlib.sha256((packed_small / "dataset.json").read_bytes()).hexdigest()[:16]
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))  # as runs of before hold it
    result, _ = quietly(replace(config, resume=True, max_steps=3))
    assert result.step == 3


def test_resuming_on_other_data_is_refused(packed_small, packed, tmp_path):
    config = small_config(packed_small, tmp_path / "run", max_steps=1)
    quietly(config)
    with pytest.raises(UsageError, match="trained on other data"):
        train(replace(config, resume=True, dataset=packed), say=lambda line: None)


def test_a_folder_that_holds_a_run_or_is_in_use_is_refused(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", max_steps=1)
    quietly(config)
    with pytest.raises(UsageError, match="already holds a run"):
        train(config, say=lambda line: None)
    other = RunFolder(tmp_path / "run", resume=True)
    try:
        with pytest.raises(UsageError, match="in use by another training process"):
            train(replace(config, resume=True), say=lambda line: None)
    finally:
        other.close()


def test_a_loss_that_is_no_number_stops_the_run(packed_small, tmp_path):
    with pytest.raises(AlexNetFastError, match=r"the loss is no number any more .* lower --lr than 1e\+30"):
        train(small_config(packed_small, tmp_path / "run", lr=1e30), say=lambda line: None)


def test_the_folder_of_a_run_that_blew_up_takes_a_lower_rate(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", epochs=1)
    with pytest.raises(AlexNetFastError, match=r"lower --lr than 1e\+30$"):
        train(replace(config, lr=1e30), say=lambda line: None)
    result, _ = quietly(replace(config, lr=0.001))
    assert result.finished
    # Now it holds checkpoints, and the advice is another one.
    with pytest.raises(UsageError, match="already holds a run"):
        train(replace(config, lr=0.0001), say=lambda line: None)
    late = replace(config, run_dir=tmp_path / "late", epochs=3, checkpoint_every=1, recipe="fast")
    with pytest.raises(AlexNetFastError, match=r"lower --lr than 1e\+30, into another --run-dir"):
        train(replace(late, lr=1e30, overrides={**SMALL, "warmup": 1.0, "ema": 0.0}), say=lambda line: None)


def test_by_products_that_cannot_be_written_end_no_run(packed_small, tmp_path):
    run = tmp_path / "run"
    for name in ("curves.png", "summary.json"):
        (run / name / "taken").mkdir(parents=True)
    (run / "tensorboard").write_text("taken")
    result, lines = quietly(small_config(packed_small, run))
    assert result.finished and result.best is not None
    for what in ("curves.png", "TensorBoard's file", "summary.json"):
        assert len([line for line in lines if line.startswith(f"{what} is not written")]) == 1
    assert not list(run.glob(".*.tmp")) and load_run(run).epoch >= 1


def test_what_auto_chose_is_not_called_as_asked(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run", max_steps=1, precision="auto")
    quietly(config)
    _, lines = quietly(replace(config, resume=True, max_steps=2))
    assert any("as this run has computed from its start" in line for line in lines)
    assert not any("as asked" in line for line in lines)


@pytest.mark.parametrize("stop_in", ["validation", "last step"])
def test_a_run_stopped_at_the_end_of_an_epoch_validates_it_when_it_goes_on(packed_small, tmp_path, stop_in):
    config = small_config(packed_small, tmp_path / "run", model="alexnet-bn")
    whole, _ = quietly(replace(config, run_dir=tmp_path / "whole"))
    calls = []

    def stop(module, inputs):
        if isinstance(module, AlexNet) and (not module.training) == (stop_in == "validation"):
            calls.append(module)
            if len(calls) == (1 if stop_in == "validation" else 3):
                os.kill(os.getpid(), signal.SIGTERM)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(stop)
    try:
        with pytest.raises(StoppedError, match="stopped by SIGTERM after step 3; go on with: ") as error:
            train(config, say=lambda line: None)
    finally:
        hook.remove()
    assert error.value.exit_code == 143
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["rows"] == [] and (state["order"]["epoch"], state["order"]["step"]) == (0, 3)
    result, _ = quietly(replace(config, resume=True))
    assert_same(whole.rows, result.rows)
    assert_same(*(load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "run")))


def test_what_cannot_be_trained_is_refused(packed_small, tmp_path):
    config = small_config(packed_small, tmp_path / "run")
    for change, message in (
        ({"dataset": tmp_path / "nowhere"}, "not a packed data set"),
        ({"batch_size": 54}, "more than the 53 training images"),
        ({"checkpoint_every": "soon"}, "a number of steps, a time such as 90s, 10m or 1h, or epoch, got 'soon'"),
        ({"checkpoint_every": "-5m"}, "checkpoint_every must be"),
        ({"overrides": {"colour": 1}}, "no hyper-parameter is called 'colour'"),
        ({"overrides": {"ema": 1.0}}, "ema must be a number from 0 below 1"),
        ({"model": "alexnet-bn", "batch_size": 1}, "--batch-size 2 or more"),
        ({"image_size": 16}, "images of 16 pixels leave nothing"),
        ({"precision": "fp16"}, "CPUs do not train in fp16"),
        ({"run_dir": None, "resume": True}, "--run-dir"),
        ({"loader_settings": tmp_path / "none.json"}, "cannot be read"),
    ):
        with pytest.raises(UsageError, match=message):
            train(replace(config, **change), say=lambda line: None)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_without_a_val_split_it_says_so(tmp_path):
    dataset = pack_images(tmp_path / "data", {"train": make_samples("train", 20, 2, size=(32, 32))}, num_classes=2)
    result, lines = quietly(small_config(dataset, tmp_path / "run", epochs=1, batch_size=10))
    assert result.best is None and result.rows[0]["val_top1"] is None
    assert any("validation on split val: " in line and "nothing will be validated" in line for line in lines)
    assert "nothing was validated" in result.closing_lines()
    assert load_run(tmp_path / "run").path.name == "last.pt"
    assert "No epoch was validated" in json.loads((tmp_path / "run" / "summary.json").read_text())["verdict"]
    only_test = pack_images(tmp_path / "other", {"test": make_samples("test", 8, 2)}, num_classes=2)
    with pytest.raises(UsageError, match="has no train split"):
        train(small_config(only_test, tmp_path / "never"), say=lambda line: None)


def test_loader_settings_fill_what_is_left_at_auto(packed_small, tmp_path):
    advice = tmp_path / "bench-loader.json"
    recommendation = {"backend": "torchvision", "num_workers": 0, "pin_memory": False, "batch_size": 32}
    advice.write_text(json.dumps({"recommendation": recommendation}))
    config = small_config(packed_small, tmp_path / "run", max_steps=1, loader_settings=advice, num_workers="auto")
    _, lines = quietly(config)
    assert any("num_workers 0" in line and "backend torchvision" in line for line in lines)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["num_workers"] == 0 and stored["backend"] == "torchvision" and stored["recipe"]["batch_size"] == 16
    advice.write_text("{}")
    with pytest.raises(UsageError, match="is not a bench-loader"):
        train(replace(config, run_dir=tmp_path / "other"), say=lambda line: None)


def test_a_large_class_and_another_split_for_validation_are_said(tmp_path):
    def samples(split, counts):
        found = [(encode(draw_image(label, i, (40, 40))), label) for label, n in enumerate(counts) for i in range(n)]
        return [(jpeg, label, f"{split}/{i}.jpg") for i, (jpeg, label) in enumerate(found)]

    splits = {"train": samples("train", (30, 4, 4)), "test": samples("test", (12, 2, 2))}
    dataset = pack_images(tmp_path / "data", splits, num_classes=3, shards=1)
    _, lines = quietly(small_config(dataset, tmp_path / "none", epochs=1))
    assert any("validation on split val: no such split" in line and "--val-split test" in line for line in lines)
    assert any("train: class 0 has 78.9% of the images" in line for line in lines)
    # At so low a rate nothing is learnt in an epoch, and the answers are what the weights at the start make of it.
    result, lines = quietly(small_config(dataset, tmp_path / "run", epochs=1, val_split="test"))
    assert any("test: class 0 has 75.0% of the images, so always answering it gives that top-1" in x for x in lines)
    (row,) = result.rows
    scores = evaluate(tmp_path / "run", dataset, split="test", device="cpu", num_workers=0, precision="fp32")
    assert row["val_balanced"] == pytest.approx(scores.balanced_top1) != row["val_top1"]
    assert f"(balanced {row['val_balanced']:.2%})" in "\n".join(lines) + result.closing_lines()
    with pytest.raises(UsageError, match="val_split test there, val asked for"):
        quietly(small_config(dataset, tmp_path / "run", epochs=1, resume=True))
