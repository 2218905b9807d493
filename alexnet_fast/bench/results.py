"""What a sweep measured, as dataclasses, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from ..errors import UsageError

OK = "ok"
BASELINE = "imagefolder"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One combination of what a sweep varies; `recommendation` in bench-loader.json is one of these."""

    backend: str
    num_workers: int
    pin_memory: bool
    batch_size: int

    def __str__(self) -> str:
        workers = "1 worker" if self.num_workers == 1 else f"{self.num_workers or 'no'} workers"
        pin = ", pin_memory" if self.pin_memory else ""
        return f"{self.backend}, {workers}, batch {self.batch_size}{pin}"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one repeat of one setting gives. None: not known on this system, or not measured.

    Attributes:
        images_per_s: in the middle of an epoch: neither start-up nor the epoch's end in it.
        open_s: seconds that opening the loader takes: reading an index, or looking through a folder.
        first_batch_s: seconds from opening the loader to its first batch on the device.
        first_epoch_s: seconds of the first whole epoch, start-up in it; measured where the epoch is short.
        peak_pss_mb: highest memory of all the processes, pages that they share counted once, MB (10^6 bytes).
        peak_rss_mb: the same, shared pages counted for each process.
        cpu_seconds_per_1k_images: CPU time of all the processes.
        cpu_wait_seconds_per_1k_images: time that their threads stood ready to run and found no core free.
        other_cores: how many of the cores that this process may use went to other programs meanwhile.
        disk_bytes_per_image: read from disks, not from the page cache.
        worker_kind: 'thread' or 'process'.
    """

    images_per_s: float
    open_s: float | None = None
    first_batch_s: float | None = None
    first_epoch_s: float | None = None
    peak_pss_mb: float | None = None
    peak_rss_mb: float | None = None
    cpu_seconds_per_1k_images: float | None = None
    cpu_wait_seconds_per_1k_images: float | None = None
    other_cores: float | None = None
    disk_bytes_per_image: float | None = None
    worker_kind: str | None = None


_FIGURES = [f.name for f in fields(Measurement)]
_PEAKS = ("peak_pss_mb", "peak_rss_mb")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting of the sweep, and what its repeats measured.

    Attributes:
        setting: its backend 'imagefolder' is torchvision's ImageFolder under a plain DataLoader.
        measurements: a repeat each.
        status: 'ok', or why there are no figures, or no more of them.
    """

    setting: Setting
    measurements: tuple[Measurement, ...] = ()
    status: str = OK

    @property
    def ok(self) -> bool:
        return self.status == OK and bool(self.measurements)

    @cached_property
    def figures(self) -> Measurement:
        """The median of each figure over the repeats, of a memory the highest; only of a row that has some."""
        found: dict[str, Any] = {}
        for name in _FIGURES:
            known = [value for m in self.measurements if (value := getattr(m, name)) is not None]
            if known:
                found[name] = known[0] if name == "worker_kind" else max(known) if name in _PEAKS else median(known)
        return Measurement(**found)

    @property
    def repeats(self) -> tuple[float, ...]:
        """Images/s of each repeat."""
        return tuple(m.images_per_s for m in self.measurements)

    @property
    def spread(self) -> float | None:
        """(highest - lowest) / median of the repeats; None with fewer than two."""
        return (max(self.repeats) - min(self.repeats)) / self.rate if len(self.repeats) > 1 else None

    @property
    def backend(self) -> str:
        return self.setting.backend

    @property
    def workers(self) -> int:
        return self.setting.num_workers

    @property
    def pin_memory(self) -> bool:
        return self.setting.pin_memory

    @property
    def batch_size(self) -> int:
        return self.setting.batch_size

    @property
    def rate(self) -> float:
        """Images/s."""
        return self.figures.images_per_s

    @property
    def start(self) -> float:
        """Seconds to the first batch, 0 where that is not known."""
        return self.figures.first_batch_s or 0.0

    @property
    def cores_busy(self) -> float | None:
        """Cores' worth of CPU time that reading takes."""
        cpu = self.figures.cpu_seconds_per_1k_images
        return None if cpu is None else self.rate * cpu / 1000

    @property
    def cores_wanted(self) -> float | None:
        """`cores_busy`, and what the threads that stood ready to run would have used besides."""
        busy = self.cores_busy
        return None if busy is None else busy + self.rate * (self.figures.cpu_wait_seconds_per_1k_images or 0.0) / 1000

    def to_json(self) -> dict[str, Any]:
        """The row in bench-loader.json: the setting, the medians, and images/s of each repeat."""
        figures: dict[str, Any] = asdict(self.figures) if self.measurements else dict.fromkeys(_FIGURES)
        spread = {"spread": self.spread if self.measurements else None, "repeats": list(self.repeats)}
        return {**asdict(self.setting), **figures, **spread, "status": self.status}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Row:
        """The row of `to_json`: its medians and rates, though not which repeat each other figure was of."""
        rates = content.get("repeats") or [content[name] for name in _FIGURES[:1] if content[name] is not None]
        others = {name: content.get(name) for name in _FIGURES[1:]}
        return Row(
            setting=_build(Setting, content),
            measurements=tuple(Measurement(images_per_s=rate, **others) for rate in rates),
            status=content["status"],
        )


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Milliseconds an image of each stage, one thread, one after another. None: not measured here.

    What a worker does is given in CPU time, so neither other programs nor a quota are in it; what waits for a disk or a
    device, in time of the clock.

    Attributes:
        fetch: of a data set at a URL, time of the clock at the rate that its shards came with.
        read: from the shards, pages in the page cache.
        read_cold: the same records just after they were dropped from the page cache, time of the clock.
        decode: JPEG to pixels, of the crop's region where the decoder can.
        augment: crop and resize to the network's size, and flip, uint8.
        collate: of images to a batch: 0, as workers write into the batch itself.
        copy: host to device; 0 on a CPU, where there is none.
        device_augment: on a CPU normalising, which a worker does; else flip and normalise, batched on the device.
    """

    fetch: float | None = None
    read: float | None = None
    read_cold: float | None = None
    decode: float | None = None
    augment: float | None = None
    collate: float | None = None
    copy: float | None = None
    device_augment: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How fast the shards of a data set at a URL came, and of which of them the sweep's sample was made.

    Attributes:
        url: of the data set.
        shards, of_shards: that the sample has, and that the split has.
        records, bytes: of the whole split; stored_bytes: of its shards, which is what travels.
        cache_bytes: that the cache may hold.
        bytes_per_s: that arrived, several shards at once; images_per_s: what that is of the split's images.
    """

    url: str
    shards: int
    of_shards: int
    records: int
    bytes: int
    stored_bytes: int
    cache_bytes: int
    bytes_per_s: float
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the network takes: forward and backward on images that are already on the device.

    Attributes:
        model, batch_size, image_size, precision: of the network that was run.
        images_per_s: median over the repeats.
        spread: (highest - lowest) / median.
        error: why there are no figures, else None.
    """

    model: str
    batch_size: int
    image_size: int
    precision: str = ""
    images_per_s: float | None = None
    spread: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where it was measured, and on what.

    Attributes:
        device: 'cpu', 'mps' or 'cuda'; device_name in words.
        cores: of the machine; affinity: those this process may run on; cpu_quota: cores' worth of time its cgroup
            grants, None without a limit; usable_cores: what follows from the three.
        memory_bytes, memory_available_bytes: what this process may have in all, and may still take, by the machine and
            its cgroups; None where it cannot be known.
        records, bytes, classes: of the split that was read.
        median_width, median_height: of its images, pixels.
        dtype: of the images that training asks for here.
        backends: those that run here; auto_workers: what num_workers='auto' means here.
        versions: of what takes part.
        settings: what was asked for.
    """

    device: str
    device_name: str
    machine: str
    cores: int
    affinity: int
    cpu_quota: float | None
    usable_cores: int
    memory_bytes: int | None
    memory_available_bytes: int | None
    dataset: str
    split: str
    records: int
    bytes: int
    classes: int
    median_width: int
    median_height: int
    dtype: str
    backends: tuple[str, ...]
    auto_backend: str
    auto_workers: int
    versions: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def capacity(self) -> float:
        """Cores' worth of time that this process can get."""
        return self.affinity if self.cpu_quota is None else min(self.affinity, self.cpu_quota)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that the verdict may rest on.

    Attributes:
        rows: what was swept, in the order of the table.
        notes: what does not apply here, a line each.
        processes: the best row's setting with worker processes, where that ran on threads; in no table.
        fetch: of a data set at a URL; `environment` and `rows` are then of a sample of its shards.
    """

    environment: Environment
    rows: tuple[Row, ...] = ()
    stages: Stages = field(default_factory=Stages)
    demand: Demand | None = None
    notes: tuple[str, ...] = ()
    processes: Row | None = None
    fetch: Fetch | None = None


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What `bench_loader` returns and writes.

    Attributes:
        measured: the figures.
        recommendation: the setting to train with; None where no cell could be measured.
        explanation: sentences.
        complete: False where it was stopped before all cells were measured.
        seconds: that it took; announced_s: what it said beforehand that it would, None where it ended before that.
        out: folder of the three files; None where none was asked for.
    """

    measured: Measured
    recommendation: Setting | None
    explanation: tuple[str, ...]
    complete: bool = True
    seconds: float = 0.0
    announced_s: float | None = None
    out: Path | None = None

    def to_json(self) -> str:
        """The text of bench-loader.json; figures keep four significant digits."""
        measured = self.measured
        content = {
            "environment": asdict(measured.environment),
            "rows": [row.to_json() for row in measured.rows],
            "notes": list(measured.notes),
            "processes": None if measured.processes is None else measured.processes.to_json(),
            "stages": asdict(measured.stages),
            "fetch": None if measured.fetch is None else asdict(measured.fetch),
            "demand": None if measured.demand is None else asdict(measured.demand),
            "recommendation": None if self.recommendation is None else asdict(self.recommendation),
            "explanation": list(self.explanation),
            "complete": self.complete,
            "seconds": self.seconds,
            "announced_s": self.announced_s,
        }
        return json.dumps(_rounded(content), indent=2, ensure_ascii=False) + "\n"

    def closing_lines(self, columns: int | None = None) -> str:
        """The verdict, for the terminal: a line a sentence, or as a list wrapped to so many columns."""
        lines = list(self.explanation)
        if columns is not None:
            lines = [fill(line, columns, initial_indent="- ", subsequent_indent="  ") for line in lines]
        if self.out is not None:
            lines.append(f"Written: {self.out / 'bench-loader.json'}, .md and .png")
            if self.recommendation is not None:
                lines.append(f"Use it: alexnet-fast train DATASET --loader-settings {self.out / 'bench-loader.json'}")
        return "\n".join(lines)


def read_report(path: Path | str) -> BenchReport:
    """The report that bench-loader.json holds.

    Raises:
        UsageError: there is no such file, or it is none that bench-loader wrote.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        demand, chosen, fetch = content["demand"], content["recommendation"], content.get("fetch")
        rows, notes, processes = content["rows"], list(content.get("notes", ())), content.get("processes")
        # Reports of before 0.2 hold a row for what does not apply, which has no number of workers.
        notes += [f"pin_memory on: {row['status']}" for row in rows if row["num_workers"] is None]
        return BenchReport(
            measured=Measured(
                environment=_build(Environment, content["environment"]),
                rows=tuple(Row.from_json(row) for row in rows if row["num_workers"] is not None),
                stages=_build(Stages, content["stages"]),
                demand=None if demand is None else _build(Demand, demand),
                notes=tuple(notes),
                processes=None if processes is None else Row.from_json(processes),
                fetch=None if fetch is None else _build(Fetch, fetch),
            ),
            recommendation=None if chosen is None else _build(Setting, chosen),
            explanation=tuple(content["explanation"]),
            complete=bool(content["complete"]),
            seconds=float(content["seconds"]),
            announced_s=content.get("announced_s"),
        )
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): run `alexnet-fast bench-loader DATASET --out DIR`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{path} is not what `alexnet-fast bench-loader DATASET --out DIR` writes: run it again"
        ) from None


def _build(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
