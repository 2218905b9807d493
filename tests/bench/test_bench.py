"""The sweep through its command line and its cells: real processes, real loaders, real faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import make_samples, pack_images

from alexnet_fast.bench import Setting, read_report
from alexnet_fast.bench.measure import FolderConfig
from alexnet_fast.bench.sweep import Cell, default_workers, measure_in_child, repeats_of
from alexnet_fast.bench.verdict import break_even
from alexnet_fast.config import LoaderConfig
from alexnet_fast.dataset import ShardReader
from alexnet_fast.errors import UsageError
from alexnet_fast.loaders.dali import loader as dali
from alexnet_fast.system.processes import shared_once_bytes, tree_usage

ROW = {
    "backend", "num_workers", "pin_memory", "batch_size", "images_per_s", "spread", "first_batch_s", "peak_rss_mb",
    "cpu_seconds_per_1k_images", "status",
}  # fmt: skip
CELL = "alexnet_fast.bench.measure"
BALLAST = 256 << 10


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "alexnet_fast", "bench-loader", *map(str, arguments)]


def run(*arguments: object, prefix: tuple[str, ...] = (), timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, *command(*arguments)], capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images: an epoch of a fraction of a second."""
    samples = make_samples("train", 96, 4, size=(96, 96))
    return pack_images(tmp_path_factory.mktemp("tiny"), {"train": samples}, num_classes=4)


def cell(dataset: Path, *, repeat: int = 1, whole_epoch: bool = False, **changes: Any) -> Cell:
    settings: dict[str, Any] = {"backend": "torchvision", "num_workers": 1, "pin_memory": False, "batch_size": 8}
    settings |= {name: changes.pop(name) for name in list(changes) if name in settings}
    config = LoaderConfig(dataset=dataset, image_size=32, device="cpu", **settings, **changes)
    return Cell(
        setting=Setting(**settings), config=config, device="cpu", seconds=0.2, whole_epoch=whole_epoch, repeat=repeat,
        image_bytes=1000.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(
    tiny: Path, make_images: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A sweep with everything in it, and its folder."""
    folder = make_images(tmp_path_factory.mktemp("folder"), classes=3, per_class=16, size=(200, 150))
    out = tmp_path_factory.mktemp("out") / "deeper"
    done = run(
        tiny, "--num-workers", "0,2", "--batch-size", "16,97", "--image-size", 32, "--seconds", 0.4, "--baseline",
        folder, "--device", "cpu", "--backend", "torchvision", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, out


def test_writes_what_its_contract_says(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    content = json.loads((whole[1] / "bench-loader.json").read_text())
    assert {"environment", "rows", "stages", "recommendation", "explanation"} <= set(content)
    assert all(set(row) >= ROW for row in content["rows"])
    stages = content["stages"]
    assert all(stages[name] > 0 for name in ("read", "decode", "augment", "device_augment"))
    assert stages["copy"] == stages["collate"] == 0
    assert set(content["recommendation"]) == {"backend", "num_workers", "pin_memory", "batch_size"}
    assert content["complete"] is True
    environment = content["environment"]
    assert (environment["records"], environment["median_width"], environment["classes"]) == (96, 96, 4)


def test_measures_each_setting_and_recommends_one_of_them(
    whole: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    report = read_report(whole[1] / "bench-loader.json")
    rows = {(row.backend, row.workers): row for row in report.measured.rows if row.batch_size != 97}
    assert set(rows) == {
        ("torchvision", 0), ("torchvision", 2), ("imagefolder", 0), ("imagefolder", 2),
    }  # fmt: skip
    for row in rows.values():
        assert row.ok, row.status
        assert row.rate > 10 and row.start > 0
        f = row.figures
        assert f.peak_rss_mb is not None and f.peak_pss_mb is not None
        assert 50 < f.peak_pss_mb <= f.peak_rss_mb * 1.02 < 20_000
        assert f.cpu_seconds_per_1k_images is not None and 0 < f.cpu_seconds_per_1k_images < 1000 / row.rate * 5
        # An epoch of 96 or 48 images is over at once, so the first whole one is measured too.
        assert f.first_epoch_s is not None and f.first_epoch_s >= row.start
    # A DataLoader's workers are processes of their own; most of the memory that they are seen with is shared.
    two, none = rows["imagefolder", 2].figures, rows["imagefolder", 0].figures
    assert two.peak_rss_mb > none.peak_rss_mb * 1.5
    assert two.peak_pss_mb < two.peak_rss_mb / 1.5
    assert report.recommendation in [rows["torchvision", n].setting for n in (0, 2)]


def test_a_setting_that_cannot_run_is_a_row_with_its_reason(
    whole: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    rows = [row for row in read_report(whole[1] / "bench-loader.json").measured.rows if row.batch_size == 97]
    assert [row.status for row in rows if row.backend == "torchvision"] == [
        "a batch of 97 is more than the 96 images that there are"
    ] * 2
    assert len(rows) == 4 and not any(row.measurements for row in rows)
    assert (
        "torchvision, no workers, batch 97: a batch of 97 is more than the 96 images that there are" in whole[0].stderr
    )


def test_marks_pinned_memory_as_not_applicable_once(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    content = json.loads((whole[1] / "bench-loader.json").read_text())
    (note,) = content["notes"]
    assert note.startswith("pin_memory on: not applicable")
    assert not any(row["pin_memory"] for row in content["rows"])
    assert note in whole[0].stderr and note in (whole[1] / "bench-loader.md").read_text()


def test_explains_in_the_terminal_and_in_the_files(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = whole
    report = read_report(out / "bench-loader.json")
    text = (out / "bench-loader.md").read_text()
    assert report.explanation[0].startswith("Best setting: torchvision")
    for sentence in report.explanation:
        assert sentence in done.stdout
        assert sentence in text
    assert "--loader-settings" in done.stdout
    assert "Traceback" not in done.stderr
    # 62 million weights against specks of images.
    assert re.search(r"so the device is slower than the loader: the best setting reads [\d.]+ times as fast", text)
    # Short epochs: what the start of worker processes costs is said with the epoch length that pays for it.
    said = " ".join(report.explanation)
    assert re.search(r"ImageFolder by number of worker processes: 0: [\d,.]+, 2: [\d,.]+ images/s", said)
    none, two = (row for row in report.measured.rows if row.backend == "imagefolder" and row.ok)
    if two.start > none.start:  # on cores that others use as well, it may come out the other way round
        pays = break_even(none, two)
        assert ("never won back" if pays is None else f"2 workers pay from {pays:,.0f}"[:19]) in said
    assert (out / "bench-loader.png").read_bytes().startswith(b"\x89PNG")


def test_says_beforehand_how_long_it_takes_and_keeps_to_it(
    whole: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    said = re.search(r"4 settings, up to 1 times? 0.4 s each: about (\d+) s", whole[0].stderr)
    assert said is not None, whole[0].stderr
    assert 4 < int(said[1]) < 120


def test_one_core_is_named_as_the_limit(tiny: Path, tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a system with affinity and two cores")
    core = str(min(os.sched_getaffinity(0)))
    done = run(
        tiny, "--num-workers", "1,2", "--batch-size", 16, "--image-size", 32, "--seconds", 0.4, "--device", "cpu",
        "--backend", "torchvision", "--model", "none", "--out", tmp_path, prefix=("taskset", "-c", core),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Too few cores for more" in done.stdout
    assert re.search(r"It is decode-bound: an image \(96x96 pixels in the median\) takes [\d.]+ ms", done.stdout)
    assert re.search(r"keeps? [01]\.\d of the 1 usable core busy \(its affinity allows this process 1", done.stdout)


def test_a_disk_slower_than_the_work_is_named(tmp_path: Path) -> None:
    # A quarter of a megabyte behind the end of each small image: little to decode, and much to read.
    ballast = os.urandom(BALLAST)
    samples = [(jpeg + ballast, label, key) for jpeg, label, key in make_samples("train", 64, 4, size=(64, 64))]
    dataset = pack_images(tmp_path / "heavy", {"train": samples}, num_classes=4, shards=1)
    if not on_a_disk(dataset):
        pytest.skip("needs a temporary folder on a disk: this one lies in memory")
    done = run(
        dataset, "--num-workers", "0", "--batch-size", 16, "--image-size", 32, "--seconds", 0.3, "--device", "cpu",
        "--backend", "torchvision", "--model", "none", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = read_report(tmp_path / "bench-loader.json").measured.stages
    assert stages.read_cold is not None and stages.read is not None
    assert stages.read_cold > stages.read
    # Where memory is slow as well, so much to read outweighs the work from the page cache too.
    first = r"The first epoch is read-bound: a record takes .* later epochs are not, because the split \(16.9 MB\) fits"
    assert re.search(rf"{first}|Every epoch is read-bound, even with its records in memory: a record", done.stdout)


def on_a_disk(path: Path) -> bool:
    """Whether a file system has pages to drop: what lies in memory alone has none."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    folders = [(Path(folder), kind) for _, folder, kind, *_ in mounts if path.is_relative_to(folder)]
    return max(folders, key=lambda found: len(found[0].parts))[1] not in ("tmpfs", "ramfs")


def test_a_crash_is_a_row_and_a_stop_keeps_what_is_measured(tiny: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(
            tiny, "--num-workers", "0,1,2,3,4,5,6", "--batch-size", 16, "--image-size", 32, "--seconds", 0.3,
            "--device", "cpu", "--model", "none", "--backend", "torchvision", "--out", tmp_path / "out",
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell makes what it starts in the background ignore Ctrl-C, and this may run there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "settings, up to" in line:
            os.kill(wait_for_cell(process.pid), signal.SIGSEGV)  # the first setting
        if "images/s" in line:  # the second
            break
    cells = [wait_for_cell(process.pid)]  # the third
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    report = read_report(tmp_path / "out" / "bench-loader.json")
    assert not report.complete
    rows = report.measured.rows
    assert "killed by SIGSEGV" in rows[0].status and not rows[0].measurements
    assert report.recommendation == rows[1].setting
    assert all(row.status.startswith("not measured") for row in rows[2:7])
    assert "Best setting: torchvision, 1 worker" in stderr + stdout
    assert not any(alive(pid) for pid in cells)


def wait_for_cell(pid: int) -> int:
    """The measuring process that a sweep has begun, or is about to."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for child in children(pid):
            with contextlib.suppress(OSError):
                if CELL in Path(f"/proc/{child}/cmdline").read_text():
                    return child
        time.sleep(0.02)
    raise AssertionError("no cell was begun")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_cell_that_hangs_is_ended_and_says_so(tiny: Path) -> None:
    def stop_it() -> None:
        os.kill(wait_for_cell(os.getpid()), signal.SIGSTOP)

    hung = cell(tiny)
    stopper = threading.Timer(0.1, stop_it)
    stopper.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_fast.system.child._START_SECONDS", 2.0)
        hung.measure(2)
    stopper.join()
    assert re.match(r"hung: nothing happened for [23] s \(before it had begun\)", hung.status)
    assert not hung.measurements
    assert not [pid for pid in children(os.getpid()) if CELL in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.parametrize("backend", ["torchvision", "resident", "synthetic", "dali"])
def test_a_split_too_short_to_measure_is_read_several_times_an_epoch(tiny: Path, backend: str) -> None:
    """12 steps have no middle; 8 times as many have one, and the first epoch is still that of the split alone."""
    if backend == "dali" and dali.why_not("cpu") is not None:
        pytest.skip("DALI cannot run here")
    found = measure_in_child(cell(tiny, backend=backend, repeat=8, whole_epoch=True), 120)
    assert found.images_per_s > 10
    assert found.first_batch_s is not None and found.first_epoch_s is not None
    assert found.first_epoch_s >= found.first_batch_s


def test_workers_that_start_anew_each_epoch_are_the_baselines_option(
    tiny: Path, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_images(tmp_path, classes=2, per_class=16, size=(64, 48))
    setting = Setting(backend="imagefolder", num_workers=1, pin_memory=False, batch_size=8)
    for persistent in (True, False):
        config = FolderConfig(
            folder=str(folder), num_workers=1, pin_memory=False, batch_size=8, image_size=32, device="cpu",
            persistent=persistent,
        )  # fmt: skip
        measured = Cell(
            setting=setting, config=config, device="cpu", seconds=0.2, whole_epoch=True, repeat=16, image_bytes=1.0
        )
        measured.measure(120)
        assert measured.row().ok, measured.status


def test_a_cell_whose_loader_fails_is_a_row_with_the_reason(tiny: Path) -> None:
    refused = cell(tiny, batch_size=97)
    refused.measure(120)
    assert refused.status.startswith("a batch of 97 is more than the split has images")


def test_a_repeat_that_read_from_the_disk_gives_way_to_one_that_did_not(tiny: Path) -> None:
    measured = cell(tiny)
    measured.measure(120)
    (warm,) = measured.measurements
    cold = replace(warm, images_per_s=1.0, disk_bytes_per_image=900.0)
    measured.measurements = [cold, replace(warm, disk_bytes_per_image=10.0)]
    assert measured.row().rate == warm.images_per_s
    measured.measurements = [cold]
    assert measured.row().rate == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder"], "not a packed data set"),
        (["TINY", "--baseline", "no-such-folder"], "--baseline takes a folder of class folders"),
        (["TINY", "--backend", "magic"], "--backend must be some of"),
        (["TINY", "--seconds", "0"], "--seconds must be a positive number"),
        (["TINY", "--batch-size", "97,128"], "a batch of 97 is more than the 96 images of split 'train'"),
        (["TINY", "--num-workers", "two"], "--num-workers must be whole numbers"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(tiny: Path, arguments: list[str], message: str) -> None:
    done = run(*[str(tiny) if a == "TINY" else a for a in arguments])
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_report(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(UsageError, match="is not what `alexnet-fast bench-loader DATASET --out DIR` writes"):
        read_report(tmp_path / "other.json")


def test_default_numbers_of_workers_go_one_step_above_the_cores() -> None:
    assert default_workers(1) == (0, 1, 2)
    assert default_workers(2) == (0, 1, 2, 4)
    assert default_workers(6) == (0, 1, 2, 4, 8)
    assert default_workers(16) == (0, 1, 2, 4, 8, 16, 32)


def test_time_a_cell_is_cut_into_repeats_that_mean_something() -> None:
    assert repeats_of(0.3) == (1, 0.3)
    assert repeats_of(1.0) == (2, 0.5)
    assert repeats_of(6.0) == (3, 2.0)


def test_usage_counts_children_that_live_and_that_ended() -> None:
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
    before = tree_usage(os.getpid())
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = tree_usage(os.getpid())
    assert before is not None and after is not None
    assert after.cpu_seconds - before.cpu_seconds >= 0.35
    child = subprocess.Popen([sys.executable, "-c", "b = bytearray(200_000_000)\nprint(1, flush=True)\ninput()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    during = tree_usage(os.getpid())
    assert during is not None and len(during.processes) == len(after.processes) + 1
    assert during.rss_bytes - after.rss_bytes > 200_000_000
    shared_once = shared_once_bytes(during.processes)
    assert shared_once is not None and 200_000_000 < shared_once <= during.rss_bytes * 1.02
    child.communicate(b"\n")


def test_evicted_records_are_read_from_the_disk_again(tmp_path: Path) -> None:
    samples = make_samples("train", 40, 4, size=(64, 64))
    dataset = pack_images(tmp_path / "data", {"train": samples}, num_classes=4, shards=1)
    if not hasattr(os, "RWF_NOWAIT") or not on_a_disk(dataset):
        pytest.skip("needs Linux, and a temporary folder on a disk")
    reader = ShardReader(dataset, "train")
    record = 17
    begin = int(reader.index["offset"][record])
    with open(dataset / reader.split_info.shards[0].path / "data.mdb", "rb") as file:

        def in_memory() -> bool:
            try:
                return os.preadv(file.fileno(), [bytearray(64)], begin, os.RWF_NOWAIT) > 0
            except BlockingIOError:
                return False

        reader.read(record)
        assert in_memory()
        assert reader.evict([record])
        assert not in_memory()
        reader.read(record)
        assert in_memory()
