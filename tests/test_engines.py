"""The examples of engines, each on two processes: a stopped run goes on with exactly the images that were left."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_fast as af

EXAMPLES = Path(__file__).parents[1] / "examples" / "engines"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# How each starts two processes: what stands before the script, and after it.
ENGINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "accelerate": (TORCHRUN, ()),
    "fabric": ((), ("--devices", "2")),
    "lightning": ((), ("--devices", "2")),
    "ray": ((), ("--workers", "2")),
    "timm": (TORCHRUN, ()),
    "transformers": (TORCHRUN, ()),
}
# Those that are not named as the example is. Ray is there for packing too, without what Ray Train needs.
PACKAGES = {"fabric": "lightning", "ray": "tensorboardX"}
RECORDS, BATCH, STEPS = 53, 4, 6  # of train, and in an epoch of each of two ranks

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ does not come with this copy")


def run(name: str, dataset: Path, out: Path, *words: str) -> str:
    """What the example printed."""
    before, after = ENGINES[name]
    paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [
            sys.executable, *before, str(EXAMPLES / f"{name}_train.py"), str(dataset), "--out", str(out),
            "--batch-size", str(BATCH), "--image-size", "32", "--epochs", "2", *after, *words,
        ],
        capture_output=True, text=True, timeout=600, check=False, cwd=out.parent,
        env={
            **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def trained(out: Path) -> list[list[tuple[int, list[int]]]]:
    """For each rank its steps in order: the epoch, and the records that it trained on."""
    ranks = []
    for rank in range(2):
        rows = [list(map(int, line.split())) for line in (out / f"records-{rank}.txt").read_text().splitlines()]
        ranks.append([(row[0], row[1:]) for row in rows])
    return ranks


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_a_stopped_run_goes_on_with_exactly_the_records_that_were_left(
    name: str, packed_small: Path, tmp_path: Path
) -> None:
    if importlib.util.find_spec(PACKAGES.get(name, name)) is None:
        pytest.skip(f"what {name}_train.py needs is not installed: `make engines` does it")
    out = tmp_path / "run"
    run(name, packed_small, out, "--steps", "4")
    stopped = trained(out)
    assert [len(steps) for steps in stopped] == [4, 4]
    run(name, packed_small, out)
    for epoch in range(2):
        seen: list[int] = []
        for rank, steps in enumerate(trained(out)):
            assert steps[:4] == stopped[rank] and len(steps) == 2 * STEPS
            own = [record for number, records in steps if number == epoch for record in records]
            # The order of an unbroken epoch: nothing is missing where the two runs meet, and nothing comes twice.
            order = af.epoch_order(RECORDS, seed=0, epoch=epoch, rank=rank, world_size=2)
            assert own == order[: STEPS * BATCH].tolist()
            seen += own
        assert len(set(seen)) == len(seen) == 2 * STEPS * BATCH
