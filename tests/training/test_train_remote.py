"""A run on shards in object storage: stopped in mid-epoch, resumed by another number of processes, evaluated."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from object_storage import BUCKET, as_aws, rclone

pytest.importorskip("obstore")
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory, packed_small):
    root = tmp_path_factory.mktemp("store")
    shutil.copytree(packed_small, root / BUCKET / "small")
    with rclone(root) as address, as_aws(address):
        yield root


def run(home, *arguments, processes=1):
    program = [sys.executable, "-m", "alexnet_fast"]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        program[1:1] = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*program, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment, cwd=ROOT,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_is_evaluated(tmp_path, server):
    url, folder, cache = f"s3://{BUCKET}/small", tmp_path / "run", tmp_path / "cache"
    home = tmp_path / "home"
    words = ["train", url, "--run-dir", folder, "--epochs", "2", "--batch-size", "8", "--image-size", "32", "--set",
             "width=0.0625", "--set", "dropout=0", "--precision", "fp32", "--num-workers", "1", "--backend",
             "torchvision", "--device", "cpu", "--cache", cache]  # fmt: skip
    run(home, *words, "--max-steps", "3")
    said = run(home, *words, "--resume", processes=2)
    assert "going on from last.pt" in said
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    records = json.loads((server / BUCKET / "small" / "dataset.json").read_text())["splits"]["train"]["records"]
    assert [row["epoch"] for row in rows] == [1, 2] and summary["totals"]["steps"] == 2 * (records // 8)
    result = tmp_path / "result.json"
    run(home, "evaluate", folder, url, "--cache", cache, "--json", result, "--report", tmp_path / "report")
    assert json.loads(result.read_text())["top1"] == pytest.approx(summary["last"]["val_top1"], abs=1e-6) or (
        summary["best"] != summary["last"]
    )
    assert (tmp_path / "report" / "index.html").exists()
    assert not list(home.rglob("data.mdb"))  # all of it went through the cache that was named
