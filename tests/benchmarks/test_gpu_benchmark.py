"""benchmarks/gpu.py without a GPU: what travels arrives as it was, and the cells run on a CPU at a tiny scale."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import alexnet_fast
from alexnet_fast.loaders.dali import loader as dali

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="an installed package comes without benchmarks/")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the command, by their short names."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu
    import gpu_data
    import gpu_kit
    import gpu_plan
    import gpu_tables

    return SimpleNamespace(gpu=gpu, data=gpu_data, kit=gpu_kit, plan=gpu_plan, tables=gpu_tables)


def command(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *map(str, words)], capture_output=True, text=True, check=False,
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# What travels


def make_kit(kit: Any, folder: Path, *, most: int) -> dict[str, Path]:
    """Pieces of two bundles in `folder`/pieces: one of text and links of depth, one of noise in a large file."""
    bundles = {}
    for name, files in (
        ("site", {"a/b.py": b"x = 1\n" * 1000, "c.so": np.random.default_rng(0).bytes(50_000)}),
        ("tiny", {"dataset.json": b"{}", "data.mdb": np.random.default_rng(1).bytes(300_000), "empty": b""}),
    ):
        bundles[name] = folder / name
        for path, content in files.items():
            (bundles[name] / path).parent.mkdir(parents=True, exist_ok=True)
            (bundles[name] / path).write_bytes(content)
    kit.cut_pieces(bundles, folder / "pieces", most=most, about={"sources": "", "records": {}})
    return bundles


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def small_chunks(modules: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(modules.kit, "CHUNK", 64 << 10)
    return modules.kit


def test_pieces_arrive_as_they_were_in_any_order(small_chunks: Any, tmp_path: Path) -> None:
    bundles = make_kit(small_chunks, tmp_path, most=150_000)
    pieces = sorted((tmp_path / "pieces").glob("*.xz"))
    assert len(pieces) >= 3 and all(piece.stat().st_size <= 150_000 for piece in pieces)
    for number, piece in enumerate(reversed(pieces)):
        done = command("receive", piece, "--kit", tmp_path / "there")
        assert done.returncode == 0, done.stderr
        assert f"{piece.name}: sound" in done.stdout
        if number < len(pieces) - 1:
            assert "site" not in done.stdout.partition("so far:")[2]
    assert "complete so far: site, tiny" in done.stdout
    for name, source in bundles.items():
        assert content(tmp_path / "there" / name) == content(source)
    assert command("receive", pieces[0], "--kit", tmp_path / "there").returncode == 0  # and once more


def test_a_piece_that_arrives_damaged_is_refused_and_can_come_again(small_chunks: Any, tmp_path: Path) -> None:
    make_kit(small_chunks, tmp_path, most=1 << 20)
    (piece,) = (tmp_path / "pieces").glob("*.xz")
    sound = piece.read_bytes()
    for broken in (sound[:-1], sound[:100] + b"?" + sound[101:], b""):
        piece.write_bytes(broken)
        done = command("receive", piece, "--kit", tmp_path / "there")
        assert done.returncode == 1 and "is damaged" in done.stderr and "carry it again" in done.stderr
        assert not (tmp_path / "there" / "site").exists()
    piece.write_bytes(sound)
    assert command("receive", piece, "--kit", tmp_path / "there").returncode == 0
    piece.rename(piece.with_name("other.xz"))
    done = command("receive", piece.with_name("other.xz"), "--kit", tmp_path / "there")
    assert done.returncode == 2 and "is no piece of the kit" in done.stderr


def test_pieces_of_another_kit_do_not_mix_with_those_that_lie_there(small_chunks: Any, tmp_path: Path) -> None:
    for name in ("old", "new"):
        make_kit(small_chunks, tmp_path / name, most=150_000)
        if name == "new":
            (tmp_path / name / "site" / "c.so").write_bytes(b"newer" * 30_000)
            small_chunks.cut_pieces(
                {n: tmp_path / name / n for n in ("site", "tiny")}, tmp_path / name / "pieces", most=150_000, about={}
            )
        for piece in sorted((tmp_path / name / "pieces").glob("*.xz")):
            small_chunks.receive(piece, tmp_path / "there")
    assert content(tmp_path / "there" / "site") == content(tmp_path / "new" / "site")


def fat_binary(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of (kind, compute capability, code) entries, as the CUDA compiler lays it out."""
    body = b""
    for kind, arch, code in entries:
        header = struct.pack("<HHIQ", kind, 0x101, 64, len(code)) + bytes(12) + struct.pack("<I", arch) + bytes(32)
        body += header + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_code_for_other_gpus_is_blanked_and_nothing_else(modules: Any, tmp_path: Path) -> None:
    ours, theirs, assembly = b"ninety!!" * 40, b"eighty!!" * 50, b"// ptx.." * 30
    fits = fat_binary((2, 80, theirs), (2, 90, ours), (1, 120, assembly))
    without = fat_binary((2, 80, theirs), (1, 80, assembly))
    torn = fits[:-100]  # its header says more than there is
    before = b"\x7fELF" + b"code" * 100
    library = tmp_path / "lib.so"
    library.write_bytes(before + fits + b"between" + without + b"end" + torn)
    assert modules.kit.blank_other_gpus(library, 90) == len(theirs) + len(assembly)
    found = library.read_bytes()
    assert found.startswith(before) and found.endswith(b"between" + without + b"end" + torn)
    middle = found[len(before) : len(before) + len(fits)]
    assert ours in middle and theirs not in middle and assembly not in middle and len(middle) == len(fits)
    assert modules.kit.blank_other_gpus(library, 90) == len(theirs) + len(assembly)  # the same again: it is idempotent


def test_other_pythons_payload_stays_behind(modules: Any) -> None:
    keep = ("nvidia/dali/backend_impl.cpython-312-x86_64-linux-gnu.so", "nvidia/dali/libdali.so", "x/y.py", "z.json")
    leave = (
        "nvidia/dali/backend_impl.cpython-310-x86_64-linux-gnu.so", "a.cpython-313t-x86_64-linux-gnu.so",
        "nvidia/dali/include/dali/c_api.h", "x/__init__.pyi", "x/tests/test_x.py",
    )  # fmt: skip
    assert all(modules.kit.wanted(name, (3, 12)) for name in keep)
    assert not any(modules.kit.wanted(name, (3, 12)) for name in leave)


def test_prepare_says_what_is_wrong(tmp_path: Path) -> None:
    for words, text in (
        (("--tiny", tmp_path / "nothing"), "nothing is not there"),
        (("--piece-mib", "64"), "--piece-mib is from 1 to 60"),
    ):
        done = command("prepare", "--out", tmp_path / "kit", *words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and text in done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def test_cells_have_names_of_their_own_and_come_in_order_of_worth(modules: Any) -> None:
    for scale in (modules.plan.full_scale(16), modules.plan.dry_scale(2)):
        cells = list(modules.plan.cells(scale))
        names = [cell.name for cell in cells]
        assert len(set(names)) == len(names)
        sections = list(dict.fromkeys(cell.section for cell in cells))
        assert sections == list(modules.tables.SECTIONS)
    dry = {cell.section for cell in modules.plan.cells(modules.plan.dry_scale(2))}
    assert dry == {cell.section for cell in modules.plan.cells(modules.plan.full_scale(16))}


def test_records_are_repeated_as_they_are(modules: Any, packed: Path, tmp_path: Path) -> None:
    from alexnet_fast import ShardReader

    once = shutil.copytree(packed, tmp_path / "data")
    found = ShardReader(modules.data.repeat(once, 3), "train")
    source = ShardReader(once, "train")
    assert len(found) == 3 * len(source)
    for i in (0, len(source) + 5, len(found) - 1):
        assert bytes(found.read(i)) == bytes(source.read(i % len(source)))
        assert found.labels[i] == source.labels[i % len(source)]


def test_a_dry_run_goes_through_its_cells_and_on_where_it_stopped(modules: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    site = tmp_path / "kit" / "site"
    shutil.copytree(Path(alexnet_fast.__file__).parent, site / "alexnet_fast")
    words = ("run", "--dry-run", "--kit", site.parent, "--out", out, "--only")
    chosen = ["imports", "tiny-60", "pixels-region", "train-small-workers", "step-alexnet-auto-plain"]
    chosen += ["step-alexnet-auto-graphs", "peer-small-dali", "peer-small-ffcv", "syncs-dali", "bench-loader"]
    chosen += ["loader-full-workers-1"]
    first = command(*words, "imports", cwd=BENCHMARKS.parent)
    assert first.returncode == 0, first.stderr
    before = json.loads((out / "gpu.json").read_text())["rows"]
    assert [row["cell"] for row in before] == ["imports"] and before[0]["doctor_agrees"], before[0]
    if sys.version_info >= (3, 11):
        assert before[0]["package"] == str(site / "alexnet_fast")  # and not this tree's, which lies in the folder
    done = command(*words, ",".join(chosen))
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "gpu.json").read_text())
    assert result["rows"][0] == before[0]  # not measured again
    assert {row["status"] for row in result["rows"]} == {"ok"}, result["rows"]
    rows = {row["cell"]: row for row in result["rows"]}
    assert rows["train-small-workers"]["lowest"] <= rows["train-small-workers"]["images_per_s"]
    assert rows["train-small-workers"]["share"] > 0 and rows["train-small-workers"]["gpu_waits"] is None
    assert rows["tiny-60"]["epochs"] == 2 and rows["tiny-60"]["training_seconds"] > 0
    assert rows["bench-loader"]["recommendation"]["backend"] == "torchvision"
    left_out = result["left_out"]
    assert left_out["step-alexnet-auto-graphs"] == left_out["syncs-dali"] == "it needs a CUDA GPU"
    assert left_out["peer-small-ffcv"] == "ffcv is not installed"
    if dali.why_not("cpu") is None:
        assert rows["pixels-region-0"]["trusted"] and "peer-small-dali" in rows
    else:
        assert "pixels-region-0" in left_out and "peer-small-dali" in left_out
    text = (out / "gpu.md").read_text()
    assert text.startswith("**Dry run**") and "say nothing of a GPU" in text and "Targets" not in text
    assert "| left out | peer-small-ffcv | ffcv is not installed |" in text


def test_without_a_gpu_only_a_dry_run_is_made(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = command("run", "--out", tmp_path / "out")
    assert done.returncode == 2 and "add --dry-run" in done.stderr


def test_a_cell_that_crashes_or_hangs_costs_its_row(modules: Any, tmp_path: Path) -> None:
    script = """
import ctypes, os, sys, time
sys.path.insert(0, {benchmarks!r})
import gpu, gpu_cells
from pathlib import Path
def crash(cell): ctypes.string_at(0)
def hang(cell): os.system("sleep 97 &"); time.sleep(60)
def wrong(cell): raise ValueError("a reason")
if __name__ == "__main__":
    runner = gpu.Runner(Path({out!r}))
    gpu._STOP_SECONDS = 1
    print(runner("a", "crash", {{}}, 30)["status"])
    print(runner("b", "hang", {{}}, 2)["status"])
    print(runner("c", "wrong", {{}}, 30)["status"])
"""
    # Cells are found by their kind in the module that the processes import.
    (tmp_path / "sitecustomize.py").write_text("")
    extended = (BENCHMARKS / "gpu_cells.py").read_text() + (
        "\ndef crash(cell):\n    import ctypes\n    ctypes.string_at(0)\n"
        "\ndef hang(cell):\n    os.system('sleep 97 &')\n    time.sleep(60)\n"
        "\ndef wrong(cell):\n    raise ValueError('a reason')\n"
        "KINDS.update(crash=crash, hang=hang, wrong=wrong)\n"
    )
    folder = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, folder, ignore=shutil.ignore_patterns("results", "__pycache__"))
    (folder / "gpu_cells.py").write_text(extended)
    program = tmp_path / "program.py"
    lines = script.format(benchmarks=str(folder), out=str(tmp_path / "out")).splitlines()
    program.write_text("\n".join(line for line in lines if not line.startswith("def ")))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "crashed with SIGSEGV",
        "hung: no answer in 2 s",
        "failed: ValueError: a reason",
    ]
    left = subprocess.run(["pgrep", "-f", "sleep 97"], capture_output=True, text=True, check=False)
    assert left.stdout == ""  # what a cell started ends with it


def test_a_rate_whose_pixels_were_wrong_is_not_counted(modules: Any) -> None:
    engines, none = {"region": False, "hw_decoder_load": 0.5}, {"region": False, "hw_decoder_load": 0.0}
    sound = {"status": "ok", "seconds": 1.0, "batches": 4, "mean_difference_to_cpu": 1.0, "largest_of_an_image": 3.0}
    rate = {"status": "ok", "seconds": 1.0, "lowest": 1.0, "highest": 3.0, "gpu_waits": 0.25}

    def row(section: str, cell: str, options: dict[str, Any], **found: Any) -> dict[str, Any]:
        return {"section": section, "cell": cell, "settings": {"backend": "dali", "options": options}, **found}

    rows = [
        row("pixels", "pixels-whole-0.5", engines, **sound, batches_that_changed=1, trusted=False),
        row("pixels", "pixels-whole-0", none, **sound, batches_that_changed=0, trusted=True),
        row("train", "train-small-dali-engines", engines, **rate, images_per_s=49.0, share=0.98),
        row("train", "train-small-dali-whole", none, **rate, images_per_s=40.0, share=0.8),
        row("train", "train-small-dali-region", none, status="crashed with SIGSEGV", seconds=2.0),
    ]
    environment = {"gpu": "some GPU", "driver": "1", "cores": 16, "cpu": "some CPU", "versions": {}}
    scale = modules.plan.full_scale(16)
    result = {
        "kind": "GPU run", "begun": "2026-01-01", "rows": rows, "left_out": {}, "environment": environment,
        "scale": vars(replace(scale)),
    }  # fmt: skip
    text = modules.tables.table(result)
    assert "40 images/s (train-small-dali-whole), 80% of the step alone. Targets" in text
    assert "not counted: its pixels were not sound" in text and "crashed with SIGSEGV" in text
    assert "GPU waits 25.0%" in modules.tables.line_of(rows[2])
