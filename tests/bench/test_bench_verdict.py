"""From figures to a setting and to sentences: every branch, on figures written out here."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast.bench import BenchReport, Row, Setting, read_report
from alexnet_fast.bench.report import draw, live_table, markdown
from alexnet_fast.bench.results import Demand, Environment, Measured, Measurement, Stages
from alexnet_fast.bench.sentences import explain
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
    read=0.02, read_cold=0.1, decode=1.4, augment=0.48, collate=0.0, copy=0.0, device_augment=0.1,
)  # fmt: skip


def row(workers: int, rate: float, *, busy: float | None = None, spread: float = 0.01, **changes: Any) -> Row:
    """A row whose median is `rate`, of repeats that lie `spread` apart."""
    cpu = None if busy is None else busy / rate * 1000
    setting = {"backend": "torchvision", "num_workers": workers, "pin_memory": False, "batch_size": 128}
    setting = {name: changes.pop(name, value) for name, value in setting.items()}
    status = changes.pop("status", "ok")
    figures: dict[str, Any] = {"first_batch_s": 0.2, "peak_rss_mb": 500.0, "cpu_seconds_per_1k_images": cpu, **changes}
    rates = changes.pop("rates", (rate * (1 - spread / 2), rate, rate * (1 + spread / 2)))
    figures.pop("rates", None)
    return Row(
        setting=Setting(**setting),
        measurements=tuple(Measurement(images_per_s=r, **figures) for r in rates),
        status=status,
    )


def changed(old: Row, **figures: Any) -> Row:
    return replace(old, measurements=tuple(replace(m, **figures) for m in old.measurements))


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
    assert chosen(measured(few, many, environment=replace(ENVIRONMENT, records=5000))).num_workers == 4


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
    assert (
        "The fastest is torchvision, 4 workers, batch 128: 1,005, 1.02 times as fast, which lies within the spread"
        in said(measured(row(2, 990), row(4, 1005)))
    )
    fed = measured(row(4, 8000), row(16, 21_000), environment=GPU, demand=6000)
    assert "16 workers, batch 128: 21,000, 2.6 times as fast; training would gain nothing from it" in said(fed)
    short = replace(ENVIRONMENT, records=500)
    slow = measured(row(0, 500), row(4, 1500, first_batch_s=9.0), environment=short)
    assert "1,500, 3 times as fast; it takes 9.0 s to its first batch, which 10 epochs do not win back" in said(slow)


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
    assert "Chosen, as the simplest setting that serves as well: torchvision, no workers" in text
    assert "the default, auto, takes torchvision with 2 workers, which reads 2 times as fast (9,900)" in text
    assert (
        "The fastest is torchvision, 2 workers, batch 128: 9,900, 2 times as fast; training would gain nothing" in text
    )
    assert "Best setting" not in text and "less than the default" not in text
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
    idle = (rows[0], row(2, 505, busy=2.0, first_batch_s=2.5, first_epoch_s=2.9))
    assert "2 workers read no faster, so that this is never won back" in said(measured(*idle, environment=short))
    quick = (rows[0], changed(rows[1], first_epoch_s=1.2))
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
    assert "one reader gets 80 images/s at most; later epochs are not, because the split (9 GB) fits" in text
    large = replace(ENVIRONMENT, bytes=140_000_000_000)
    assert "Every epoch is read-bound" in said(measured(*rows, environment=large, read_cold=12.5))
    warm = said(measured(row(2, 390, busy=2.0), row(4, 390, busy=2.0), read=3.0, read_cold=4.0))
    assert "It is read-bound: an image" in warm
    assert "Every epoch is read-bound, even with its records in memory: a record takes 4.00 ms" in warm
    # 12.5 ms and 1.98 ms of other work are 69 images/s, and the network takes no more than 50.
    slow = said(measured(*rows, read_cold=12.5, demand=50))
    assert "Training does not wait for the disk, not even in the first epoch" in slow
    assert "so a single reader gets 69.1 images/s from a cold disk, and alexnet takes 50" in slow
    assert "The first epoch is read-bound" in said(measured(*rows, read_cold=12.5, demand=60))


def test_what_the_table_contradicts_is_not_said() -> None:
    # Stages that were timed from a cold disk: 26 ms an image, beside 700 images/s.
    rows = row(0, 350, busy=1.0), row(2, 700, busy=2.0)
    text = said(measured(*rows, read=26.0, read_cold=55.0))
    assert "read-bound" not in text
    assert "What holds the loader up is left unsaid: by its stages, timed one by one, no workers could read" in text
    assert text.count("left unsaid") == 1


def test_rows_that_wait_for_the_disk() -> None:
    # Images have 90,000 bytes in the mean.
    cold = row(0, 20, busy=0.1, disk_bytes_per_image=95_000.0), row(2, 20.5, busy=0.1, disk_bytes_per_image=90_000.0)
    text = said(measured(*cold, read_cold=50.0))
    assert "It waits for the disk: with no workers 100% of the bytes came from there, and 0.1 of the 2" in text
    assert "All figures are the disk's, not the page cache's: 100% of the bytes" in text
    assert "The first epoch is read-bound" in text
    assert "decode-bound" not in text and "not the limit" not in text
    # The stages may find the disk quick that many readers, or a limit on bytes, make slow.
    assert "Reading is not the limit" not in said(measured(*cold, read_cold=0.1))
    mixed = said(measured(cold[0], row(2, 990, busy=2.0, disk_bytes_per_image=0.0)))
    assert "The figures of 1 of 2 settings are the disk's" in mixed and "cannot be compared" in mixed
    assert "It waits for the disk" not in mixed
    little = replace(ENVIRONMENT, memory_available_bytes=1_000_000_000)
    text = said(measured(*cold, environment=little, read_cold=50.0))
    assert "Every epoch is read-bound: a record takes 50.00 ms" in text and "promises too much" not in text


def test_a_cold_disk_that_is_quicker_than_the_work() -> None:
    text = said(measured(row(0, 500, busy=1.0), row(2, 990, busy=2.0), read_cold=1.5))
    assert "A cold disk slows the first epoch, though it does not rule it: a record takes 1.50 ms" in text


def test_one_busy_thread_is_no_idle_machine() -> None:
    alone = said(measured(row(0, 500, busy=1.0)))
    assert "Of the 2 usable cores 1.0 are busy: the thread that reads, with no workers, has one to itself." in alone
    assert "More workers would use the others, and were not swept: add a larger number to --num-workers" in alone
    no_help = said(measured(row(0, 500, busy=1.0), row(2, 480, busy=1.1)))
    assert "2 workers use 1.1 of them and read no faster" in no_help
    assert "cores are not the limit" not in alone + no_help
    wide = replace(ENVIRONMENT, cores=16, affinity=16, usable_cores=16)
    text = said(measured(row(0, 500, busy=1.0), row(4, 1900, busy=3.9), environment=wide))
    assert "Of the 16 usable cores 3.9 are busy: each of 4 workers has one to itself. More workers" in text


def test_cores_that_others_took_count_as_taken() -> None:
    rows = row(0, 400, busy=0.9, other_cores=1.0), row(2, 450, busy=1.0, other_cores=1.0)
    waiting = [changed(r, cpu_wait_seconds_per_1k_images=18.7) for r in rows]
    text = said(measured(*waiting))
    assert "2 workers keep 1.0 of the 2 usable cores busy (it would use 2.0, but other programs take 1.0)" in text
    assert "Other programs took 1.0 of the 2 usable cores meanwhile" in text
    assert "cores are not the limit" not in text
    # What a quota withholds from this process others may have.
    granted = replace(ENVIRONMENT, cpu_quota=1.0, usable_cores=1)
    text = said(measured(*rows, environment=granted))
    assert "Other programs" not in text and "other programs" not in text
    assert "keep 1.0 of the 1 usable core busy (its cgroup grants it 1 core's worth of time)" in text


def test_no_sentence_contradicts_its_table() -> None:
    """Made-up tables of all kinds: what is said of rates, cores and the disk agrees with the rows."""
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(1500):
        cores = int(random.choice([1, 2, 8, 16]))
        quota = float(random.choice([0.5, 1.5])) if random.random() < 0.2 else None
        e = replace(
            ENVIRONMENT, cores=cores, affinity=cores, cpu_quota=quota, usable_cores=cores,
            memory_available_bytes=int(random.choice([10**9, 10**11])),
        )  # fmt: skip
        ms = float(10 ** random.uniform(-2, 1.5))
        rows = []
        for count in sorted(set(random.integers(0, 9, 3).tolist())):
            busy = float(min(e.capacity, max(1, count)) * random.uniform(0.05, 1))
            others = float(random.choice([0.0, random.uniform(0, max(0.0, cores - busy))]))
            rate = busy * 1000 / ms * float(random.uniform(0.5, 1))
            disk = float(random.choice([0.0, 0.0, 90_000.0]))
            wait = float(random.uniform(0, 2) / rate * 1000)
            rows.append(
                row(
                    count, rate, busy=busy, other_cores=others, disk_bytes_per_image=disk,
                    cpu_wait_seconds_per_1k_images=wait,
                )
            )  # fmt: skip
        # Stages that are right, or that were measured wrongly.
        wrong = float(random.choice([1.0, 1.0, 20.0]))
        parts = random.dirichlet([1, 1, 1, 1]) * ms * wrong
        m = measured(
            *rows, environment=e, read=parts[0], decode=parts[1], augment=parts[2], device_augment=parts[3],
            read_cold=float(parts[0] * 10 ** random.uniform(0, 3)),
        )  # fmt: skip
        text = said(m)
        for words in (r"-bound: an image .*? takes ([\d.]+) ms", r"even with its records in memory"):
            if (found := re.search(words, text)) is not None:
                seen.add(words)
                most = max(r.rate / min(max(1, r.workers), e.capacity) for r in rows)
                assert most <= 1.5 * 1000 / (parts.sum()) * 1.001, text
        if "The cores are not the limit" in text:
            seen.add("idle")
            found = re.search(r"not the limit: (?:the main process keeps|1 worker keeps|(\d+) workers keep) ", text)
            count = int(found[1]) if found[1] else int("1 worker " in found[0])
            r = next(r for r in rows if r.workers == count)
            assert r.cores_busy < 0.85 * min(max(1, r.workers), e.capacity) + 1e-9, text
            assert r.figures.disk_bytes_per_image == 0, text
        if "It waits for the disk" in text:
            seen.add("disk")
            assert any(r.figures.disk_bytes_per_image > 0 for r in rows)
        if (found := re.search(r"it would use ([\d.]+)", text)) is not None:
            seen.add("wanted")
            assert float(found[1]) <= e.capacity + 0.05
        if (found := re.search(r"More workers help up to (\d+)", text)) is not None:
            top = next(r for r in rows if r.workers == int(found[1]))
            assert top.rate > rows[0].rate
    assert len(seen) == 5, seen


def test_hand_over_bound() -> None:
    rows = row(2, 5000, busy=1.2), row(4, 5100, busy=1.2)
    text = said(measured(*rows, environment=GPU, device_augment=0.18, copy=0.01))
    assert "It is hand-over-bound: copying batches to the device and finishing them there takes 0.19 ms" in text
    assert "alone allows 5,263 images/s" in text


def test_the_lock_is_named_from_a_measured_row_or_not_at_all() -> None:
    threads = row(0, 9000, busy=1.0, worker_kind="thread"), row(2, 9500, busy=1.2, worker_kind="thread")
    m = measured(*threads, read=0.001, decode=0.05, augment=0.02, device_augment=0.01)
    assert "GIL" not in said(m)
    text = said(replace(m, processes=row(2, 17_000, busy=1.9, worker_kind="process")))
    assert "the GIL) is in the way of threads: 2 workers read 17,000 images/s as processes and 9,500 as threads" in text
    assert "GIL" not in said(replace(m, processes=row(2, 9900, busy=1.9, worker_kind="process")))
    assert "GIL" not in said(replace(m, processes=row(2, 17_000, status="hung: nothing happened for 120 s")))


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
    slow = [changed(r, open_s=3.9, first_batch_s=5.0) for r in folder]
    assert "Looking through its 100,000 files takes 3.9 s before it begins." in said(measured(row(2, 990), *slow))


# -- on the terminal ---


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_its_terminal_with_whole_words(width: int) -> None:
    from rich.console import Console

    rows = [
        row(n, 123_456.0, backend=b, busy=15.7, peak_pss_mb=12_345.0, first_batch_s=12.34)
        for b in ("imagefolder", "torchvision")
        for n in (0, 16)
    ]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(live_table([*rows, row(8, 1.0, status="hung: nothing happened for 120 s")], rows[0].setting, console))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "imagefolder" in text and "123,456" in text and "12.34 s" in text and "12,345" in text and "15.7" in text
    assert "now" in text and "failed" in text and "hung: nothing happened for 120 s" in text
    # A column that is the same in all rows gives way first, and is said below.
    assert ("batch 128, pin off" in text) == (width == 80)


# -- files ---


def test_report_survives_its_json_and_draws(tmp_path: Path) -> None:
    m = measured(row(0, 500.0, rates=(495.0, 505.0)), row(2, 990.0, busy=2.0), demand=9000)
    best = choose(m)
    assert best is not None
    report = BenchReport(measured=m, recommendation=best.setting, explanation=explain(m, best), seconds=12.0)
    (tmp_path / "bench-loader.json").write_text(report.to_json())
    again = read_report(tmp_path / "bench-loader.json")
    assert again.recommendation == report.recommendation
    assert again.explanation == report.explanation
    assert [r.rate for r in again.measured.rows] == [500.0, 990.0]
    assert again.measured.rows[0].repeats == (495.0, 505.0)
    assert "| torchvision | 2 | 128 | off | 990 | 1.0% |" in markdown(report)
    draw(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    # Nothing measured still gives a plot and a table: Ctrl-C may come at any time.
    draw(replace(report, measured=replace(m, rows=(), demand=None), recommendation=None), tmp_path / "empty.png")


def test_a_baseline_that_failed_is_said() -> None:
    from alexnet_fast.bench.results import BASELINE

    broken = replace(row(2, 100, backend=BASELINE), measurements=(), status="failed: 2 of its files are no images")
    assert "ImageFolder could not be measured: failed: 2 of its files are no images." in said(
        measured(row(0, 500), row(2, 990), broken)
    )
