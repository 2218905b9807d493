"""The sweep through its command line and its cells: real processes, real loaders, real faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_samples, pack_images

from alexnet_fast.bench import Row, read_report
from alexnet_fast.bench.processes import tree_usage
from alexnet_fast.bench.results import Environment, Measured, Stages
from alexnet_fast.bench.sentences import explain
from alexnet_fast.bench.session import default_workers, repeat_split
from alexnet_fast.bench.sweep import CellError, repeats_of, run_cell
from alexnet_fast.bench.verdict import break_even, choose
from alexnet_fast.dataset import ShardReader
from alexnet_fast.errors import UsageError

ROW = {
    "backend", "num_workers", "pin_memory", "batch_size", "images_per_s", "spread", "first_batch_s", "peak_rss_mb",
    "cpu_seconds_per_1k_images", "status",
}  # fmt: skip
CELL = ["-m", "alexnet_fast.bench.cell"]
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


def loader_task(dataset: Path, **changes: Any) -> dict[str, Any]:
    loader = {
        "backend": "torchvision", "num_workers": 1, "pin_memory": False, "batch_size": 8, "image_size": 32,
        "prefetch": 2, "dataset": str(dataset), "device": "cpu",
    }  # fmt: skip
    task = {"kind": "loader", "device": "cpu", "persistent": True, "seconds": 0.2, "whole_epochs": False}
    return {**task, "loader": {**loader, **changes}}


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
    assert all(stages[name] > 0 for name in ("read", "decode", "augment", "collate", "hand_over", "device_augment"))
    assert stages["copy"] == 0
    assert set(content["recommendation"]) == {"backend", "num_workers", "pin_memory", "batch_size"}
    assert content["complete"] is True
    environment = content["environment"]
    assert (environment["records"], environment["median_width"], environment["classes"]) == (96, 96, 4)


def test_measures_each_setting_and_recommends_one_of_them(
    whole: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    report = read_report(whole[1] / "bench-loader.json")
    rows = {(row.backend, row.num_workers): row for row in report.measured.rows if row.batch_size != 97}
    assert set(rows) == {
        ("torchvision", 0), ("torchvision", 2), ("imagefolder", 0), ("imagefolder", 2), ("all", None),
    }  # fmt: skip
    for key, row in rows.items():
        if key[1] is None:
            continue
        assert row.ok, row.status
        assert row.rate > 10 and row.start > 0
        assert row.peak_rss_mb is not None and 100 < row.peak_rss_mb < 20_000
        assert row.cpu_seconds_per_1k_images is not None and 0 < row.cpu_seconds_per_1k_images < 1000 / row.rate * 5
        # An epoch of 96 or 48 images is over at once, so whole epochs are measured too.
        assert row.first_epoch_s is not None and row.first_epoch_s >= row.start
    # A DataLoader's workers are processes of their own, and cost their memory.
    assert rows["imagefolder", 2].peak_rss_mb > rows["imagefolder", 0].peak_rss_mb * 1.5
    assert report.recommendation in [rows["torchvision", n].setting for n in (0, 2)]


def test_a_setting_that_cannot_run_is_a_row_with_its_reason(
    whole: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    rows = [row for row in read_report(whole[1] / "bench-loader.json").measured.rows if row.batch_size == 97]
    assert [row.status for row in rows if row.backend == "torchvision"] == [
        "a batch of 97 is more than the 96 images that there are"
    ] * 2
    assert len(rows) == 4 and all(row.images_per_s is None for row in rows)


def test_marks_pinned_memory_as_not_applicable_once(whole: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    rows = json.loads((whole[1] / "bench-loader.json").read_text())["rows"]
    pinned = [row for row in rows if row["pin_memory"]]
    assert len(pinned) == 1
    assert pinned[0]["status"].startswith("not applicable")
    assert pinned[0]["images_per_s"] is None


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
        assert ("never win that back" if pays is None else f"2 workers pay from {pays:,.0f}"[:19]) in said
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
    assert re.search(r"keep [01]\.\d of the 1 usable core busy \(its affinity allows this process 1", done.stdout)


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
    assert "killed by signal 11" in rows[0].status and rows[0].images_per_s is None
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
                if CELL[1] in Path(f"/proc/{child}/cmdline").read_text():
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
    def stop_it(event: str) -> None:
        if event == "ready":
            for pid in children(os.getpid()):
                if CELL[1] in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGSTOP)

    begin = time.monotonic()
    with pytest.raises(CellError, match=r"hung: nothing happened for [23] s \(after 'ready'\)"):
        run_cell(loader_task(tiny), 2, stop_it)
    assert time.monotonic() - begin < 60
    assert not [pid for pid in children(os.getpid()) if CELL[1] in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_cell_ends_with_the_sweep_that_started_it(tiny: Path) -> None:
    process = subprocess.Popen([sys.executable, *CELL], stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(loader_task(tiny) | {"seconds": 1000}).encode() + b"\n")
    process.stdin.flush()
    time.sleep(1)
    process.stdin.close()
    assert process.wait(timeout=20) != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder"], "not a packed data set"),
        (["TINY", "--baseline", "no-such-folder"], "--baseline takes a folder of class folders"),
        (["TINY", "--backend", "magic"], "backend must be one of"),
        (["TINY", "--seconds", "0"], "seconds must be positive"),
        (["TINY", "--batch-size", "97,128"], "a batch of 97 is more than the 96 images of split 'train'"),
        (["TINY", "--num-workers", "two"], "--num-workers takes whole numbers"),
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
    with pytest.raises(UsageError, match="is not what `alexnet-fast bench-loader --out DIR` writes"):
        read_report(tmp_path / "other.json")


def test_the_gil_is_named_where_images_are_specks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_FAST_NATIVE", "off")  # compiled code leaves Python little to do
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    specks = pack_images(tmp_path, {"train": make_samples("train", 96, 4, size=(12, 12))}, num_classes=4)
    task = {
        "kind": "probe", "dataset": str(specks), "split": "train", "device": "cpu", "image_size": 8, "batch_size": 16,
        "seed": 0, "warm_seconds": 0.1,
    }  # fmt: skip
    with ahead_of_others():
        for _ in range(3):
            events = run_cell(task, 60).by_name
            stages = Stages(**events["stages"])
            if stages.process_scaling is not None and stages.process_scaling > 1.4:
                break
        else:
            pytest.skip(f"other programs left no second core three times, the last time: {stages}")
    rows = tuple(
        Row(backend="torchvision", num_workers=n, pin_memory=False, batch_size=16, images_per_s=9000.0) for n in (0, 2)
    )
    measured = Measured(environment=Environment(**events["environment"]), rows=rows, stages=stages)
    said = "\n".join(explain(measured, choose(measured)))
    assert "The GIL is in the way: 2 threads" in said, stages


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """What is started here comes before other programs, where the system allows that."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


def test_default_numbers_of_workers_go_one_step_above_the_cores() -> None:
    assert default_workers(1) == (0, 1, 2)
    assert default_workers(2) == (0, 1, 2, 4)
    assert default_workers(6) == (0, 1, 2, 4, 8)
    assert default_workers(16) == (0, 1, 2, 4, 8, 16, 32)


def test_time_a_cell_is_cut_into_repeats_that_mean_something() -> None:
    assert repeats_of(0.3) == (1, 0.3)
    assert repeats_of(1.0) == (2, 0.5)
    assert repeats_of(6.0) == (3, 2.0)


def test_repeated_split_holds_every_image_so_many_times(tiny: Path, tmp_path: Path) -> None:
    repeat_split(tiny, "train", 3, tmp_path)
    one, three = ShardReader(tiny, "train"), ShardReader(tmp_path, "train")
    assert len(three) == 3 * len(one)
    assert sorted(three.read_many(range(len(three)))) == sorted(one.read_many(range(len(one))) * 3)
    assert three.labels.tolist() == one.labels.tolist() * 3


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
    assert during is not None and during.processes == after.processes + 1
    assert during.rss_bytes - after.rss_bytes > 200_000_000
    child.communicate(b"\n")
