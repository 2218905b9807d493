"""Ray Data reads a packed split: every record once, with its bytes, label and name."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
from object_storage import rclone

import alexnet_fast as af


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_data_reads_every_record(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    import ray

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        source = ray.data.read_datasource(af.ray_datasource(packed, "train"), override_num_blocks=3)
        rows = sorted(source.take_all(), key=lambda row: row["record"])
    finally:
        ray.shutdown()
    reader = af.ShardReader(packed, "train")
    assert [row["record"] for row in rows] == list(range(53))
    assert [row["image"] for row in rows] == reader.read_many(range(53))
    assert [row["label"] for row in rows] == reader.labels.tolist()
    assert [row["key"] for row in rows] == reader.keys(range(53))
    assert [(row["height"], row["width"]) for row in rows] == list(zip(reader.heights, reader.widths, strict=True))


def test_tasks_share_the_records(packed: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    for parallelism in (1, 4, 500):
        tasks = af.ray_datasource(packed, "val").get_read_tasks(parallelism)
        assert len(tasks) == min(parallelism, 23)
        records = [record for task in tasks for block in task() for record in block["record"].to_pylist()]
        assert records == list(range(23))


def test_a_task_that_is_sent_away_reads_a_url_by_itself(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    pytest.importorskip("obstore")
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(packed, tmp_path / "store" / "data")
    with rclone(tmp_path / "store", "http") as address:
        tasks = af.ray_datasource(f"{address}/data", "val").get_read_tasks(3)
        sent = [pickle.loads(cloudpickle.dumps(task)) for task in tasks]
        images = [image for task in sent for block in task() for image in block["image"].to_pylist()]
    assert images == af.ShardReader(packed, "val").read_many(range(23))
