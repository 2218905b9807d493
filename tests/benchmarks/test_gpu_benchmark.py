"""benchmarks/gpu.py without a GPU: its cells run on the CPU, and a rate whose pixels were wrong is not quoted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from alexnet_fast.loaders.dali import loader as dali

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="an installed package comes without benchmarks/")
needs_dali = pytest.mark.skipif(dali.why_not("cpu") is not None, reason="DALI cannot run here")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu

    return gpu


@pytest.fixture
def base(packed_small: Path) -> dict[str, Any]:
    return {
        "dataset": str(packed_small), "data": "full", "device": "cpu", "dtype": "bfloat16", "model": "alexnet",
        "batch_size": 8, "image_size": 32, "threads": 1, "seconds": 0.05, "turns": 1, "options": {},
    }  # fmt: skip


@needs_dali
def test_a_training_cell_runs_and_one_that_cannot_costs_its_row(gpu: ModuleType, base: dict[str, Any]) -> None:
    row = gpu.run_cell("train", base)
    assert row["status"] == "ok" and row["lowest"] <= row["pictures_per_s"] <= row["highest"]
    assert row["gpu_waits"] is None and "dali" in row["description"]
    assert gpu.run_cell("no such section", base) == {"status": "failed: KeyError: 'no such section'"}


def test_every_section_has_cells_and_varies_known_settings(gpu: ModuleType, base: dict[str, Any]) -> None:
    data = {"full": Path("a"), "shorter-256": Path("b")}
    for small in (True, False):
        for section in gpu.SECTIONS:
            cells = list(gpu.cells_of(section, base, data, small))
            assert cells and all(cell["data"] in data for cell in cells)
            varied = [{k: v for k, v in cell.items() if base.get(k) != v or k == "data"} for cell in cells]
            assert all(varied.count(one) == 1 for one in varied), section  # a run that goes on tells cells by these


def test_a_rate_whose_pixels_were_wrong_is_not_counted(gpu: ModuleType) -> None:
    import gpu_tables

    sound = {"status": "ok", "batches": 4, "mean_difference_to_cpu": 1.0, "largest_of_a_picture": 3.0}
    rate = {"status": "ok", "lowest": 1.0, "highest": 3.0, "gpu_waits": 0.25}
    engines, none = {"region": False, "hw_decoder_load": 0.5}, {"region": False, "hw_decoder_load": 0.0}
    rows = [
        {"section": "pixels", "cell": {"data": "full", "options": engines}, **sound, "batches_that_changed": 1,
         "trusted": False},
        {"section": "pixels", "cell": {"data": "full", "options": none}, **sound, "batches_that_changed": 0,
         "trusted": True},
        {"section": "step", "cell": {"data": "full"}, **rate, "pictures_per_s": 50.0},
        {"section": "train", "cell": {"data": "full", "options": engines}, **rate, "pictures_per_s": 49.0},
        {"section": "train", "cell": {"data": "full", "options": none}, **rate, "pictures_per_s": 40.0},
        {"section": "train", "cell": {"data": "full", "prefetch": 4}, "status": "crashed with signal 11"},
    ]  # fmt: skip
    result = {"rows": rows, "environment": {"gpu": {"name": "some GPU"}}}
    assert "End to end 40 images/s, 80% of the step alone" in gpu_tables.summary(result)
    assert "GPU waits 25.0%" in gpu_tables.line_of(rows[3]) and "crashed" in gpu_tables.line_of(rows[5])
