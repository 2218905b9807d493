"""The examples of engines on two processes: a stopped run goes on in mid-epoch, and ends where an unbroken one does."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "engines"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
ENGINES = {
    "accelerate": (TORCHRUN, []),  # `accelerate launch` starts no second process on a CPU without MPI
    "fabric": ([], ["--devices", "2"]),
    "lightning": ([], ["--devices", "2"]),
    "timm": (TORCHRUN, []),
}
PACKAGES = {"fabric": "lightning"}

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ does not come with this copy")


def run(name: str, dataset: Path, out: Path, *words: str) -> tuple[float, int, str]:
    """(loss of the last step, steps taken, all that was printed)."""
    launcher, own = ENGINES[name]
    options = ["--out", str(out), "--batch-size", "4", "--image-size", "32", *own, *words]
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / f"{name}_train.py"), str(dataset), *options],
        capture_output=True, text=True, timeout=240, check=False, cwd=out.parent,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"loss ([\d.]+) after (\d+) steps", done.stdout)
    assert len(found) == 1, done.stdout + done.stderr[-3000:]
    return float(found[0][0]), int(found[0][1]), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_an_example_trains_on_two_processes_and_goes_on_in_mid_epoch(name: str, packed: Path, tmp_path: Path) -> None:
    package = PACKAGES.get(name, name)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    whole, steps, _ = run(name, packed, tmp_path / "whole", "--epochs", "1")
    assert steps == 6  # 53 records, 2 ranks, 4 a batch
    _, first, _ = run(name, packed, tmp_path / "parts", "--epochs", "1", "--max-steps", "4")
    assert first == 4
    resumed, rest, printed = run(name, packed, tmp_path / "parts", "--epochs", "1")
    assert rest == (6 if name == "lightning" else 2), printed  # Lightning counts on
    assert resumed == pytest.approx(whole, abs=2e-4)
