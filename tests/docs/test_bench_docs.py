"""The suite of benchmarks runs, and docs/num-workers*.md say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "num-workers.json"


def test_suite_ends_with_one_summary(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    images = make_images(tmp_path / "images", classes=2, per_class=40, size=(96, 96))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "suite.py", "--images", images, "--only", "pack", "--seconds", "0.3",
         "--out", tmp_path / "suite.json"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "checked, into shards" in done.stdout and "plain copy of the folder" in done.stdout
    result = json.loads((tmp_path / "suite.json").read_text())
    assert result["pack"]["pictures"] == 80
    assert all(rate > 0 for rate in result["pack"]["pictures_per_s"].values())


@pytest.mark.skipif(not RESULT.exists(), reason="nothing measured yet")
def test_pages_on_workers_show_the_committed_result() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "num_workers.py", "doc", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
