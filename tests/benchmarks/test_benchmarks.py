"""The benchmarks' machinery: tables say what the committed results say, and a side-by-side run does its work."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="an installed package comes without benchmarks/")


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loaders() -> ModuleType:
    return _module("loaders")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return _module("tables")


def _run(rate: float, cpu: float = 2.0) -> dict:
    warm_up = {"pictures": 10, "seconds": 10.0, "first_batch_s": 0.5, "open_s": 1.0, "cpu_seconds_per_1k": 9.0}
    measured = {"pictures": 1000, "seconds": 1000 / rate, "first_batch_s": 0.1, "cpu_seconds_per_1k": cpu}
    return {"epochs": [warm_up, measured, measured], "peak_memory_mb": 500, "problems": []}


@pytest.fixture
def case() -> dict:
    return {
        "data": {"records": 1536, "distinct_pictures": 100, "mean_bytes": 1000, "mean_pixels": 4096},
        "batch_size": 128,
        "peers": {
            "alexnet-fast": {"runs": [_run(300), _run(330), _run(360)], "settings": {"workers": 2}},
            "ffcv": {"runs": [_run(200), _run(220), _run(180)], "settings": {"os_cache": True}},
            "timm": {"runs": [_run(90), {**_run(900), "problems": ["labels"]}], "settings": {}},
            "dali": {"runs": [{"error": "no", "epochs": []}], "settings": {}},
            "bare-decode": {"runs": [_run(400)], "settings": {}},
        },
    }


def test_every_table_is_what_the_results_say(tables):
    wanted = tables.all_tables()
    for name in tables.PAGES:
        text = (ROOT / name).read_text() if (ROOT / name).exists() else ""
        assert tables.replaced(text, wanted) == text, f"{name} differs: run python benchmarks/tables.py"


def test_a_table_that_was_changed_by_hand_is_noticed(tables):
    page = "before\n<!-- table: x -->\n\n| 901 |\n\n<!-- end: x -->\nafter"
    assert tables.replaced(page, {"x": "| 901 |"}) == page
    assert tables.replaced(page, {"x": "| 900 |"}) == page.replace("901", "900")
    with pytest.raises(SystemExit, match="no committed result gives the table x"):
        tables.replaced(page, {"y": "| 900 |"})


def test_failed_runs_count_for_nothing(tables, case):
    rows = tables.summaries(case)
    assert list(rows) == ["alexnet-fast", "ffcv", "timm", "bare-decode"]
    assert rows["timm"]["rate"] == 90 and rows["timm"]["runs"] == 1
    assert rows["alexnet-fast"] == {
        "runs": 3, "rate": 330, "low": 300, "high": 360, "first_batch_s": 1.5, "memory_mb": 500, "cpu": 2.0,
    }  # fmt: skip


def test_the_ratio_is_to_the_fastest_peer_and_not_to_the_limit(tables, case):
    found = tables.ratios(case, "alexnet-fast")
    assert found == {"peer": "ffcv", "ratio": 1.65, "low": 1.5, "high": 2.0}
    table = tables.loaders_overview({"cases": {"full-224-uint8": case}})
    assert "| alexnet-fast to the fastest that reads JPEGs | 1.65x (FFCV) |" in table
    assert "| alexnet-fast to bare decode | 82% |" in table


def test_tuning_takes_one_setting_after_another(loaders):
    speed = {(1, "a"): 10.0, (2, "a"): 30.0, (3, "a"): 20.0, (2, "b"): 40.0}
    known: dict[str, float] = {}
    options = {"workers": (1, 2, 3), "decoder": ("a", "b")}
    while True:
        best, trial = loaders.descend(options, {}, known)
        if trial is None:
            break
        known[loaders._key(trial)] = speed[trial["workers"], trial["decoder"]]
    assert best == {"workers": 2, "decoder": "b"}
    assert len(known) == 4  # (1, "b") and (3, "b") were never tried


def test_results_name_the_machine_and_every_version(loaders):
    for path in sorted((BENCHMARKS / "results").glob("loaders-*.json")):
        result = json.loads(path.read_text())
        assert {"cpu", "cores", "memory_gib"} <= set(result["environment"]), path.name
        for case in result["cases"].values():
            for name, peer in case["peers"].items():
                if peer.get("runs"):
                    assert peer["versions"]["python"] and peer["settings"] is not None, (path.name, name)
        assert "/work" not in path.read_text() and "/root" not in path.read_text(), path.name


def test_requirements_name_packages_and_versions_alone():
    files = sorted((BENCHMARKS / "peers").glob("requirements-*.txt"))
    assert len(files) >= 9
    for path in files:
        for line in path.read_text().splitlines():
            name, _, version = line.partition("==")
            assert name and version and "/" not in line and not line.startswith("-"), f"{path.name}: {line}"


def test_a_side_by_side_run_from_images_to_table(loaders, tables, make_images, tmp_path):
    source = make_images(tmp_path / "pictures", classes=3, per_class=4, size=(48, 40))
    envs, work, out = tmp_path / "envs", tmp_path / "work", tmp_path / "result.json"
    for name in ("ours", "torchvision"):
        python = envs / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    peers = ["alexnet-fast", "torchvision-v2"]
    loaders.prepare(work, "p", source, None, envs, [loaders.BY_NAME[name] for name in peers])
    command = [sys.executable, str(BENCHMARKS / "loaders.py"), "run", "--envs", str(envs), "--work", str(work)]
    what = ["--peer", *peers, "--case", "p-32-uint8", "--epochs", "2", "--rounds", "1", "--timeout", "200"]
    subprocess.run([*command, *what, "--out", str(out)], check=True, timeout=300)
    case = json.loads(out.read_text())["cases"]["p-32-uint8"]
    assert case["data"]["records"] == 1536 and case["data"]["distinct_pictures"] == 12
    assert set(tables.summaries(case)) == set(peers)
    ours, theirs = (case["peers"][name]["runs"][0]["epochs"][0]["check"] for name in peers)
    assert ours["labels"] == theirs["labels"]
    assert ours["pixel_mean"] == pytest.approx(theirs["pixel_mean"], abs=3)
    assert ours["pixel_std"] == pytest.approx(theirs["pixel_std"], abs=3)
    # A run that read fewer images than there are is told.
    (work / "p" / "data.json").write_text(json.dumps({**case["data"], "records": 3072}))
    found = loaders.problems(case["peers"]["alexnet-fast"]["runs"][0], work / "p", loaders.BY_NAME["alexnet-fast"])
    assert found == ["epoch 0: 1536 of 3072", "epoch 1: 1536 of 3072"]


def test_packing_side_by_side_from_images_to_table(tables, make_images, tmp_path):
    source, out = make_images(tmp_path / "pictures", classes=3, per_class=4), tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "pack.py"), str(source), "--envs", str(tmp_path / "none")]
    subprocess.run([*command, "--work", str(tmp_path / "work"), "--out", str(out), "--rounds", "1"], check=True)
    result = json.loads(out.read_text())
    assert result["runs"]["alexnet-fast"][0]["pictures"] == 12
    ours = result["summary"]["seconds"]["alexnet-fast"]
    assert ours["working"] < ours["median"]
    rows = tables.pack_tables.table(result).splitlines()
    assert rows[0].startswith("12 images")
    assert sorted(row.split("|")[1].strip() for row in rows[4:]) == ["**alexnet-fast pack**", "`cp -r`"]


def test_what_a_lever_is_worth_is_told_from_the_noise():
    ablations, training = _module("ablations"), _module("training_tables")
    rows = [
        {"lever": lever, "seed": seed, "val_top1": top1, "val_top1_flip": top1 + 0.01, "val_loss": 2 - top1}
        | {"cpu_seconds": 9.0}
        for lever, found in {"base": (0.5, 0.52), "x": (0.6, 0.64), "y": (0.51, 0.51), "z": (0.4,)}.items()
        for seed, top1 in enumerate(found)
    ]
    summary = ablations.summarise(rows)
    x, y, z = summary["levers"][1:]
    assert x["val_top1_gain"] == 0.11 and y["val_top1_gain"] == 0.0 and z["val_top1_gain"] == -0.1
    # Differences 0.10 and 0.12, 0.01 and -0.01: two degrees of freedom, each lever 0.01 from its mean.
    assert x["val_top1_noise"] == pytest.approx(0.01, abs=1e-4) and z["val_top1_noise"] == pytest.approx(
        0.0141, abs=1e-4
    )
    assert summary["flip_at_test_gain"] == 0.01 and summary["flip_at_test_wins"] == len(rows)
    table = training.ablations_table({"summary": summary}, _module("tables").markdown)
    assert "| x | 2 | 62.0% | +11.0 ± 1.0 | 1.380 | -0.110 ± 0.010 | better | 9 |" in table
    assert "| within the noise |" in table and "| worse, one run |" in table


def test_a_pair_is_judged_against_guessing(packed_small, tmp_path):
    out = tmp_path / "pairs.json"
    sizes = ("--image-size", "32", "--batch-size", "8", "--steps", "1", "--models", "alexnet-bn", "--out", str(out))
    command = [sys.executable, str(BENCHMARKS / "pairs.py"), str(packed_small), *sizes]
    for recipes in ("fast", "fast,paper"):
        subprocess.run([*command, "--recipes", recipes], check=True)
    rows = json.loads(out.read_text())["rows"]
    assert [row["recipe"] for row in rows] == ["fast", "paper"]
    assert all(row["steps"] == 6 and row["val_images"] == 23 for row in rows)
    assert rows[0]["adapted"] is None and "recipe paper adapted: init scaled" in rows[1]["adapted"]


def test_one_run_of_the_ablations_and_of_the_record(packed_small, tmp_path):
    ablations, record = _module("ablations"), _module("tiny_imagenet_record")
    common = {"dataset": packed_small, "model": "alexnet-bn", "epochs": 1, "backend": "auto"}
    args = Namespace(**common, width=0.0625, image_size=32, num_workers=1, threads=0, batch_size=None)
    row = ablations.run_one(args, "half the batch", 3)
    assert row["lever"] == "half the batch" and row["seed"] == 3 and row["batch_size"] == 8 and row["width"] == 0.0625
    assert 0 <= row["val_top1"] <= 1 and row["cpu_seconds"] > 0
    args = Namespace(**common, batch_size=16, lr=None, recipe="record", set='{"width": 0.0625}')
    args.device, args.compile = "cpu", "auto"
    row = record.run_once(args, 0, tmp_path)
    assert row["recipe"]["name"] == "record" and str(tmp_path) not in json.dumps(row)
    assert row["recipe"]["epochs"] == 1 and row["parameters"] < 10**6 and 0 <= row["top1"] <= 1 and row["log"]
