"""From figures to a setting and to sentences: every branch, on figures written out here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.bench import BenchReport, Row, Setting, read_report
from alexnet_fast.bench.plot import draw
from alexnet_fast.bench.results import Demand, Environment, Measured, Stages
from alexnet_fast.bench.sentences import explain
from alexnet_fast.bench.tables import markdown
from alexnet_fast.bench.verdict import break_even, choose, training_rate

ENVIRONMENT = Environment(
    device="cpu", device_name="Some CPU", machine="Some CPU", cores=2, affinity=2, cpu_quota=None, usable_cores=2,
    memory_bytes=16_000_000_000, memory_available_bytes=12_000_000_000, dataset="images", split="train",
    records=100_000, bytes=9_000_000_000, classes=1000, median_width=500, median_height=375, dtype="bfloat16",
    backends=("torchvision",), auto_backend="torchvision", auto_workers=2, versions={"torch": "2.14"},
    settings={"image_size": 224, "persistent_workers": True},
)  # fmt: skip
GPU = replace(ENVIRONMENT, device="cuda", device_name="Some GPU", cores=16, affinity=16, usable_cores=16)
# An image costs 2 ms of a core: 70% of it decoding.
STAGES = Stages(
    read=0.02, read_cold=0.1, decode=1.4, augment=0.48, collate=0.01, hand_over=0.02, copy=0.0, device_augment=0.1,
    threads=2, thread_scaling=1.95, process_scaling=1.97,
)  # fmt: skip


def row(workers: int, rate: float, *, busy: float | None = None, **changes: Any) -> Row:
    cpu = None if busy is None else busy / rate * 1000
    values: dict[str, Any] = {
        "backend": "torchvision", "num_workers": workers, "pin_memory": False, "batch_size": 128, "images_per_s": rate,
        "spread": 0.01, "first_batch_s": 0.2, "peak_rss_mb": 500.0, "cpu_seconds_per_1k_images": cpu,
    }  # fmt: skip
    return Row(**{**values, **changes})


def measured(
    *rows: Row, environment: Environment = ENVIRONMENT, demand: float | None = None, **changes: Any
) -> Measured:
    network = None
    if demand is not None:
        network = Demand(
            model="alexnet", batch_size=128, image_size=224, precision="bf16", images_per_s=demand, spread=0.01
        )
    return Measured(environment=environment, rows=rows, stages=replace(STAGES, **changes), demand=network)


def chosen(m: Measured) -> Setting:
    best = choose(m)
    assert best is not None
    return best.setting


def said(m: Measured) -> str:
    return "\n".join(explain(m, choose(m)))


# -- which setting ---


def test_the_fastest_is_recommended() -> None:
    m = measured(row(0, 500), row(1, 520), row(2, 990), row(4, 930))
    assert chosen(m) == Setting(backend="torchvision", num_workers=2, pin_memory=False, batch_size=128)


def test_of_equals_the_simplest_is_recommended() -> None:
    assert chosen(measured(row(0, 500), row(2, 990), row(4, 1005), row(8, 1010))).num_workers == 2
    # Half of a spread of 10% covers the lead of 4%.
    assert chosen(measured(row(1, 1000), row(2, 1040, spread=0.1))).num_workers == 1
    assert chosen(measured(row(1, 1000), row(2, 1040))).num_workers == 2
    assert chosen(measured(row(2, 1000, pin_memory=True), row(2, 990))).pin_memory is False


def test_what_is_not_measured_or_not_ours_is_not_recommended() -> None:
    broken = row(8, 5000, status="hung: nothing happened for 120 s")
    m = measured(broken, row(2, 990), row(4, 2000, backend="imagefolder"), row(0, 9000, backend="synthetic"))
    assert chosen(m).num_workers == 2
    nothing = measured(broken)
    assert choose(nothing) is None
    assert explain(nothing, None) == ("No setting could be measured: hung: nothing happened for 120 s.",)


def test_a_start_up_that_a_short_training_does_not_win_back_decides() -> None:
    short = replace(ENVIRONMENT, records=500)
    few, many = row(0, 500), row(4, 1500, first_batch_s=9.0)
    assert chosen(measured(few, many)).num_workers == 4
    assert chosen(measured(few, many, environment=short)).num_workers == 0
    # Workers that start anew each epoch cost that each epoch: 10 x 9 s against 10 x 5,000 / 500 - 10 x 5,000 / 1,500.
    anew = replace(ENVIRONMENT, records=5000, settings={"persistent_workers": False})
    assert chosen(measured(few, many, environment=replace(anew, settings={}))).num_workers == 4
    assert chosen(measured(few, many, environment=anew)).num_workers == 0


def test_on_a_gpu_speed_beyond_what_the_network_takes_counts_for_nothing() -> None:
    rows = row(2, 4000), row(4, 8000), row(8, 15_000), row(16, 21_000)
    assert chosen(measured(*rows, environment=GPU, demand=6000)).num_workers == 4
    assert chosen(measured(*rows, environment=GPU, demand=50_000)).num_workers == 16


def test_on_a_cpu_network_and_loader_share_the_cores() -> None:
    m = measured(row(0, 500, busy=1.0), row(2, 1000, busy=2.0), demand=200)
    none, two = m.rows
    # Without workers they take turns: 2 ms and 5 ms an image.
    assert training_rate(none, m) == pytest.approx(1 / 0.007)
    # With workers 2 ms of one of two cores' time, and 5 ms of both.
    assert training_rate(two, m) == pytest.approx(1 / 0.006)
    assert chosen(m).num_workers == 2


def test_break_even_is_where_both_end_together() -> None:
    few, many = row(0, 500, first_batch_s=0.5), row(2, 1000, first_batch_s=2.5)
    images = break_even(few, many)
    assert images == pytest.approx(2000)
    assert 0.5 + images / 500 == pytest.approx(2.5 + images / 1000)
    assert break_even(few, row(2, 400, first_batch_s=2.5)) is None


# -- and why ---


def test_says_best_gain_and_default() -> None:
    text = said(measured(row(0, 500), row(2, 990), row(4, 900)))
    assert "Best setting: torchvision, 2 workers, batch 128: 990 images/s (repeats 1% apart)" in text
    assert "2 times the 500 of num_workers=0" in text
    assert "it is also what the default, auto, takes here" in text
    other = said(measured(row(0, 500), row(2, 990), row(4, 1490)))
    assert "that is 51% more than the default, auto, which takes torchvision with 2 workers (990)" in other


def test_says_why_the_highest_figure_is_not_taken() -> None:
    assert "4 workers, batch 128 reached 1,005, which lies within the spread" in said(
        measured(row(2, 990), row(4, 1005))
    )
    fed = measured(row(4, 8000), row(16, 21_000), environment=GPU, demand=6000)
    assert "16 workers, batch 128 reached 21,000, but training would gain nothing from it" in said(fed)
    short = replace(ENVIRONMENT, records=500)
    slow = measured(row(0, 500), row(4, 1500, first_batch_s=9.0), environment=short)
    assert "reached 1,500, but takes 9.0 s to its first batch, which 10 epochs do not win back" in said(slow)


def test_device_slower_than_the_loader() -> None:
    text = said(measured(row(4, 8000), row(8, 9000), environment=GPU, demand=6000))
    assert "alexnet by itself trains on 6,000 images/s on this device (Some GPU, bf16, batch 128)" in text
    assert (
        "the device is slower than the loader: the best setting feeds it with 33% to spare; all of the 2 settings feed"
        in text
    )
    on_cpu = said(measured(row(0, 500, busy=1.0), row(2, 1000, busy=2.0), demand=100))
    assert (
        "the device is slower than the loader: the best setting reads 10 times as fast; all of the 2 settings" in on_cpu
    )
    assert "Both share the cores: expect about 90.9 images/s" in on_cpu
    assert "9% less than without reading" in on_cpu


def test_loader_slower_than_the_device() -> None:
    text = said(measured(row(4, 8000), row(8, 15_000), environment=GPU, demand=30_000))
    assert "no setting feeds it; the fastest stays 50% below" in text


def test_a_default_that_training_would_not_tell_apart() -> None:
    text = said(measured(row(0, 5000, busy=1.0), row(2, 9900, busy=2.0), demand=50))
    assert "that is 49% less than the default, auto, which takes torchvision with 2 workers (9,900)" in text
    assert "but training would not tell them apart (49.5 and 49.7 images/s)" in text


def test_a_machine_that_others_use_as_well() -> None:
    text = said(measured(row(0, 500, other_cores=0.9), row(2, 700, other_cores=0.7)))
    assert "Other programs took 0.8 of the 2 usable cores meanwhile" in text
    assert "Other programs" not in said(measured(row(0, 500, other_cores=0.1), row(2, 990, other_cores=0.2)))


def test_demand_that_could_not_be_measured_is_said() -> None:
    m = replace(
        measured(row(0, 500)), demand=Demand(model="alexnet", batch_size=1, image_size=224, error="out of memory")
    )
    assert "What the network takes could not be measured: out of memory." in said(m)


def test_too_few_cores_and_decode_bound() -> None:
    text = said(measured(row(0, 500, busy=1.0), row(2, 990, busy=1.97), row(4, 985, busy=1.99)))
    assert "More workers help up to 2: 2 workers read 2 times as fast as no workers; 4 workers are as fast." in text
    assert "Too few cores for more: 2 workers keep 2.0 of the 2 usable cores busy;" in text
    assert (
        "It is decode-bound: an image (500x375 pixels in the median) takes 2.00 ms of one core: decoding 1.40 ms (70%)"
        in text
    )


def test_limits_on_cores_are_named() -> None:
    bound = replace(ENVIRONMENT, cores=8, affinity=2, usable_cores=2)
    rows = row(0, 500, busy=1.0), row(2, 990, busy=1.97)
    assert "(its affinity allows this process 2 of the machine's 8)" in said(measured(*rows, environment=bound))
    granted = replace(ENVIRONMENT, cores=8, affinity=8, cpu_quota=1.5, usable_cores=2)
    rows = row(0, 500, busy=1.0), row(2, 700, busy=1.45)
    assert "(its cgroup grants it 1.5 cores' worth of time)" in said(measured(*rows, environment=granted))


def test_other_programs_on_the_cores_are_named() -> None:
    waiting = row(2, 700, busy=1.3, cpu_wait_seconds_per_1k_images=1.0)
    text = said(measured(row(0, 400, busy=0.9), waiting))
    assert "2 workers keep 1.3 of the 2 usable cores busy (it would use 2.0, but other programs take their part" in text


def test_workers_that_slow_reading_down() -> None:
    text = said(measured(row(0, 1000, busy=1.0), row(2, 900, busy=1.9), row(4, 700, busy=2.0)))
    assert "More workers do not help: 4 workers read 30% slower than no workers (700 against 1,000 images/s)." in text
    assert "Too few cores" in text


def test_bound_by_crop_and_resize() -> None:
    text = said(measured(row(2, 990, busy=2.0), row(4, 990, busy=2.0), decode=0.2, augment=1.0))
    assert "It is bound by crop and resize" in text


def test_start_up_outweighs_a_short_epoch() -> None:
    short = replace(ENVIRONMENT, records=500)
    rows = (
        row(0, 500, busy=1.0, first_batch_s=0.5, first_epoch_s=1.4),
        row(2, 1000, busy=2.0, first_batch_s=2.5, first_epoch_s=2.9),
    )
    text = said(measured(*rows, environment=short))
    assert (
        "Start-up: the first batch comes after 0.5 s with no workers and after 2.5 s with 2 workers: 2 workers pay "
        "from 2,000 images an epoch on, and this split has 500, so start-up outweighs them" in text
    )
    assert "measured, the first epoch of its 500 images takes 1.4 s and 2.9 s" in text
    idle = (rows[0], replace(rows[1], images_per_s=505.0))
    assert "2 workers read no faster and never win that back" in said(measured(*idle, environment=short))
    quick = (rows[0], replace(rows[1], first_epoch_s=1.2))
    assert "takes 1.4 s and 1.2 s, so that they pay from the first epoch on" in said(
        measured(*quick, environment=short)
    )
    long = said(measured(*rows))
    assert "2 workers pay from 2,000 images on; this split has 100,000" in long


def test_read_bound_cold_and_warm() -> None:
    rows = row(0, 500, busy=1.0), row(2, 990, busy=2.0)
    assert "Reading is not the limit, cold or warm: a record takes 0.10 ms from the disk" in said(measured(*rows))
    text = said(measured(*rows, read_cold=12.5))
    assert (
        "The first epoch is read-bound: a record takes 12.50 ms from the disk and 0.02 ms from the page cache" in text
    )
    assert "each reader gets 80 images/s at most; later epochs are not, because the split (9 GB) fits" in text
    large = replace(ENVIRONMENT, bytes=140_000_000_000)
    assert "Every epoch is read-bound" in said(measured(*rows, environment=large, read_cold=12.5))
    warm = said(measured(row(2, 990, busy=2.0), row(4, 990, busy=2.0), read=3.0, read_cold=4.0))
    assert "It is read-bound: an image" in warm
    assert "Every epoch is read-bound, even with its records in memory: a record takes 4.00 ms" in warm
    # 12.5 ms and 1.98 ms of other work are 69 images/s, and the network takes no more than 50.
    slow = said(measured(*rows, read_cold=12.5, demand=50))
    assert "Training does not wait for the disk, not even in the first epoch" in slow
    assert "so a single reader gets 69.1 images/s from a cold disk, and alexnet takes 50" in slow
    assert "The first epoch is read-bound" in said(measured(*rows, read_cold=12.5, demand=60))


def test_hand_over_bound() -> None:
    rows = row(2, 5000, busy=1.2), row(4, 5100, busy=1.2)
    text = said(measured(*rows, environment=GPU, device_augment=0.18, copy=0.01))
    assert "It is hand-over-bound: copying batches to the device and finishing them there takes 0.19 ms" in text
    assert "alone allows 5,263 images/s" in text


def test_gil() -> None:
    rows = row(0, 9000, busy=1.0), row(2, 9500, busy=1.2)
    quick = {"device_augment": 0.001, "collate": 0.0}
    text = said(measured(*rows, thread_scaling=1.1, process_scaling=1.9, **quick))
    assert "The GIL is in the way: 2 threads" in text
    assert "reach 1.1 times the images of one, 2 processes in the same seconds 1.9 times" in text
    assert "GIL" not in said(measured(*rows, thread_scaling=1.9, process_scaling=1.9, **quick))
    processes = [replace(r, worker_kind="process") for r in rows]
    assert "GIL" not in said(measured(*processes, thread_scaling=1.1, process_scaling=1.9, **quick))
    # Where processes fare no better, cores that others take are in the way, not the GIL.
    assert "GIL" not in said(measured(*rows, thread_scaling=0.7, process_scaling=0.8, **quick))
    assert "GIL" not in said(measured(*rows, thread_scaling=0.7, process_scaling=None, **quick))


def test_what_no_stage_accounts_for_is_not_explained_away() -> None:
    text = said(measured(row(0, 300, busy=0.5), row(2, 310, busy=0.6)))
    assert "The cores are not the limit: 2 workers keep 0.6 of 2 busy" in text
    on_gpu = replace(GPU, backends=("dali",), auto_backend="dali")
    rows = row(2, 9000, busy=1.0, backend="dali"), row(4, 9000, busy=1.0, backend="dali")
    assert "on the device, which does the decoding" in said(measured(*rows, environment=on_gpu))


def test_workers_are_judged_where_the_best_backend_needs_none() -> None:
    resident = row(2, 20_000, busy=1.0, backend="resident")
    text = said(measured(resident, row(0, 500, busy=1.0), row(2, 990, busy=2.0)))
    assert "Best setting: resident" in text
    assert "Of the torchvision backend: More workers help up to 2" in text


def test_what_packing_gains() -> None:
    folder = [row(n, rate, backend="imagefolder") for n, rate in ((0, 200.0), (2, 330.0))]
    text = said(measured(row(2, 990, busy=2.0), *folder))
    assert "ImageFolder with a plain DataLoader reads the folder at 330 images/s at best (2 workers, batch 128)" in text
    assert "packed, the best setting reads 3 times as fast" in text
    assert "ImageFolder by number of worker processes: 0: 200, 2: 330 images/s." in text
    slow = [replace(r, open_s=3.9, first_batch_s=5.0) for r in folder]
    assert "Looking through its 100,000 files takes 3.9 s before it begins." in said(measured(row(2, 990), *slow))


# -- files ---


def test_report_survives_its_json_and_draws(tmp_path: Path) -> None:
    m = measured(row(0, 500.0, repeats=(495.0, 505.0)), row(2, 990.0, busy=2.0), demand=9000)
    best = choose(m)
    assert best is not None
    report = BenchReport(measured=m, recommendation=best.setting, explanation=explain(m, best), seconds=12.0)
    (tmp_path / "bench-loader.json").write_text(report.to_json())
    again = read_report(tmp_path / "bench-loader.json")
    assert again.recommendation == report.recommendation
    assert again.explanation == report.explanation
    assert [r.images_per_s for r in again.measured.rows] == [500.0, 990.0]
    assert again.measured.rows[0].repeats == (495.0, 505.0)
    assert "| torchvision | 2 | 128 | off | 990 | 1.0% |" in markdown(report)
    draw(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    # Nothing measured still gives a plot and a table: Ctrl-C may come at any time.
    draw(replace(report, measured=replace(m, rows=(), demand=None), recommendation=None), tmp_path / "empty.png")
