"""Training and evaluating on a part of the records, and torchvision's augmentations as hyper-parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alexnet_fast as af
from alexnet_fast import TrainConfig, UsageError, train
from alexnet_fast.cli import app
from alexnet_fast.training.plan import resume_command

SMALL = {"width": 0.0625}


def config(dataset: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "recipe": "notebook", "epochs": 2, "batch_size": 8, "image_size": 32, "overrides": SMALL, "num_workers": 0,
        "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    return TrainConfig(dataset=dataset, run_dir=run_dir, **{**settings, **changes})


def trained_images(run: Path) -> int:
    return int(json.loads((run / "summary.json").read_text())["totals"]["images"])


def run_cli(*words: object) -> int:
    return int(app([str(word) for word in words], standalone_mode=False) or 0)


def test_a_run_on_a_file_of_records_and_a_share(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("# every third\n" + "\n".join(map(str, range(0, 53, 3))) + "\n")
    lines: list[str] = []
    made_config = config(packed, tmp_path / "run", records=tmp_path / "some.txt", max_steps=3)
    train(made_config, say=lines.append)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["records"] == 18
    assert f"--records {tmp_path / 'some.txt'}" in resume_command(made_config, tmp_path / "run")
    with pytest.raises(UsageError, match="other records, 18 of them"):
        train(config(packed, tmp_path / "run", share=0.34, resume=True), say=lines.append)
    again = train(config(packed, tmp_path / "run", records=tmp_path / "some.txt", resume=True), say=lines.append)
    assert again is not None and trained_images(tmp_path / "run") == 2 * 16  # two batches of 8 out of 18, twice
    train(config(packed, tmp_path / "half", share=0.5, epochs=1), say=lines.append)
    assert trained_images(tmp_path / "half") == 24


def test_evaluate_on_a_part_reports_that_part(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(packed, tmp_path / "run", epochs=1), say=lambda line: None)
    whole = af.evaluate(tmp_path / "run", packed, device="cpu")
    numbers = np.array([20, 3, 11])
    np.save(tmp_path / "some.npy", numbers)
    part = af.evaluate(tmp_path / "run", packed, device="cpu", records=tmp_path / "some.npy", report=tmp_path / "page")
    assert part.images == 3 and part.records.tolist() == numbers.tolist()
    assert part.labels.tolist() == whole.labels[numbers].tolist()
    assert np.allclose(part.probabilities, whole.probabilities[numbers], atol=1e-5)
    reader = af.ShardReader(packed, "val")
    page = (tmp_path / "page" / "index.html").read_text()
    assert sum(reader.key(record) in page for record in numbers.tolist()) == 3
    assert not any(f'"{reader.key(record)}"' in page for record in (0, 1, 2))
    words = ["evaluate", tmp_path / "run", packed, "--device", "cpu", "--json", tmp_path / "out.json"]
    assert run_cli(*words, "--share", "0.5") == 0
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 11  # half of 6, 6, 6 and 5
    assert run_cli(*words, "--records", tmp_path / "some.npy") == 0
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("1\ntwo\n", "line 2 holds 'two', which is no record number"),
        ("1\n53\n", "names record 53, and the split's go from 0 to 52"),
        ("-1\n", "line 1 holds '-1'"),
        ("# nothing\n", "lists no record"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_of_records_is_told_in_a_sentence(
    packed: Path, tmp_path: Path, content: str | None, text: str
) -> None:
    if content is not None:
        (tmp_path / "some.txt").write_text(content)
    with pytest.raises(UsageError, match=text):
        train(config(packed, tmp_path / "runs" / "run", records=tmp_path / "some.txt"), say=lambda line: None)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_refused_leaves_nothing(packed: Path, tmp_path: Path) -> None:
    """Whether the plan, the loader or the weights refuse it; a folder that was there stays, with all that is in it."""
    wrong: list[dict[str, Any]] = [
        {"share": 0.01},
        {"batch_size": 54},
        {"init": tmp_path / "none.pt"},
        {"backend": "synthetic", "overrides": {**SMALL, "randaugment": 9}},
    ]
    for changes in wrong:
        with pytest.raises(UsageError):
            train(config(packed, tmp_path / "runs" / "run", **changes), say=lambda line: None)
        assert not (tmp_path / "runs").exists(), changes
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError):
        train(config(packed, tmp_path / "mine", share=0.01), say=lambda line: None)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_both_kinds_of_choice_exclude_each_other(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        train(config(packed, tmp_path / "run", records="x.txt", share=0.5), say=lambda line: None)


@pytest.mark.parametrize("overrides", [{"mixup": 0.2}, {"mixup": 0.2, "cutmix": 1.0, "randaugment": 9}])
def test_augmentations_of_torchvision_are_hyper_parameters(
    packed: Path, tmp_path: Path, overrides: dict[str, Any]
) -> None:
    """Interrupted and resumed, the run is the same: what they draw follows the seed, the epoch and the records."""
    losses = {}
    for name, steps in (("whole", (None,)), ("resumed", (4, None)), ("plain", (None,))):
        chosen = SMALL if name == "plain" else {**SMALL, **overrides}
        for stop in steps:
            folder = tmp_path / name
            train(
                config(packed, folder, overrides=chosen, max_steps=stop, resume=folder.exists(), num_workers=1),
                say=lambda line: None,
            )
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(row)["train_loss"] for row in rows]
    assert losses["whole"] == losses["resumed"]
    assert losses["whole"] != losses["plain"]


def test_a_run_of_before_these_hyper_parameters_resumes(packed: Path, tmp_path: Path) -> None:
    train(config(packed, tmp_path / "run", max_steps=3), say=lambda line: None)
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    for name in ("mixup", "cutmix", "randaugment"):
        del stored["recipe"][name]
    for name in ("records", "records_id"):
        del stored[name]
    path.write_text(json.dumps(stored))
    train(config(packed, tmp_path / "run", resume=True), say=lambda line: None)
    assert trained_images(tmp_path / "run") == 2 * 48


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"mixup": -1}, "mixup must be a number from 0"),
        ({"randaugment": 31}, "randaugment must be at most 30"),
        ({"randaugment": 0.5}, "randaugment must be a whole number"),
    ],
)
def test_their_values_are_checked(packed: Path, tmp_path: Path, overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        train(config(packed, tmp_path / "run", overrides=overrides), say=lambda line: None)
