"""A short, seeded run of the kill harness; the long runs' results are in docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[2] / "tools" / "kill_harness.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc")
@pytest.mark.skipif(not HARNESS.exists(), reason="tools/ is not part of this copy")
def test_killed_runs_go_on_to_the_same_outcome(tmp_path):
    """Pack and train killed at random moments, when files appear and during validation: every image and weight is
    that of a run that nobody killed, to the bit, and nothing is left behind.
    """
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, str(HARNESS), "--rounds", "pack=2,train=1", "--seed", "3", "--json", str(report)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert report.exists(), done.stderr
    outcomes = json.loads(report.read_text())["commands"]
    assert {outcome["command"]: outcome["rounds"] for outcome in outcomes} == {"pack": 2, "train": 1}
    for outcome in outcomes:
        assert outcome["lost"] == []
        assert outcome["kills"] >= 1
