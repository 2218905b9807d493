"""What a sweep measured, as dataclasses, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
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
class Row:
    """One cell of the sweep.

    Attributes:
        backend: of the loader; 'imagefolder' is torchvision's ImageFolder under a plain DataLoader.
        worker_kind: 'thread' or 'process'; None where that is not known.
        num_workers, pin_memory, batch_size: the setting; None in a row that stands for several.
        images_per_s: median over the repeats, in the middle of an epoch: neither start-up nor the epoch's end in it.
        spread: (highest - lowest) / median of the repeats; None with one repeat.
        repeats: images/s of each.
        open_s: seconds that opening the loader takes: reading an index, or looking through a folder; median.
        first_batch_s: seconds from opening the loader to its first batch on the device; median of the repeats.
        epoch_gap_s: seconds from the last batch of an epoch to the first of the next, where one was seen.
        first_epoch_s, later_epoch_s: seconds of the first whole epoch, start-up in it, and of the second; measured
            where the epoch is short, else None.
        peak_rss_mb: highest sum of resident memory over the processes, MB (10^6 bytes).
        cpu_seconds_per_1k_images: CPU time of all the processes.
        cpu_wait_seconds_per_1k_images: time that their threads stood ready to run and found no core free.
        other_cores: how many of the cores that this process may use went to other programs meanwhile; None: unknown.
        status: 'ok', or why there are no figures.
    """

    backend: str
    num_workers: int | None
    pin_memory: bool | None
    batch_size: int | None
    images_per_s: float | None = None
    spread: float | None = None
    repeats: tuple[float, ...] = ()
    open_s: float | None = None
    first_batch_s: float | None = None
    epoch_gap_s: float | None = None
    first_epoch_s: float | None = None
    later_epoch_s: float | None = None
    peak_rss_mb: float | None = None
    cpu_seconds_per_1k_images: float | None = None
    cpu_wait_seconds_per_1k_images: float | None = None
    other_cores: float | None = None
    worker_kind: str | None = None
    status: str = OK

    @property
    def ok(self) -> bool:
        return self.status == OK and self.images_per_s is not None

    @property
    def rate(self) -> float:
        """images_per_s of a row that has it."""
        assert self.images_per_s is not None
        return self.images_per_s

    @property
    def workers(self) -> int:
        """num_workers of a row that has it."""
        assert self.num_workers is not None
        return self.num_workers

    @property
    def start(self) -> float:
        """first_batch_s, 0 where it is not known."""
        return self.first_batch_s or 0.0

    @property
    def cores_busy(self) -> float | None:
        """Cores' worth of CPU time that reading at `images_per_s` takes."""
        if self.images_per_s is None or self.cpu_seconds_per_1k_images is None:
            return None
        return self.images_per_s * self.cpu_seconds_per_1k_images / 1000

    @property
    def cores_wanted(self) -> float | None:
        """`cores_busy`, and what the threads that stood ready to run would have used besides."""
        if self.images_per_s is None or self.cores_busy is None:
            return None
        return self.cores_busy + self.images_per_s * (self.cpu_wait_seconds_per_1k_images or 0.0) / 1000

    @property
    def setting(self) -> Setting:
        """What a training would be told."""
        assert self.num_workers is not None and self.pin_memory is not None and self.batch_size is not None
        return Setting(
            backend=self.backend, num_workers=self.num_workers, pin_memory=self.pin_memory, batch_size=self.batch_size
        )


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Milliseconds an image of each stage, one thread, one after another. None: not measured here.

    Attributes:
        read: from the shards, pages in the page cache.
        read_cold: the same records just after their shard was dropped from the page cache.
        decode: JPEG to pixels, of the crop's region where the decoder can.
        augment: crop and resize to the network's size, and flip, uint8.
        collate: torch.stack of images to a batch, as a DataLoader does; our workers write into the batch itself.
        hand_over: a finished batch from a DataLoader's worker process to this one; our workers share its memory.
        copy: host to device; 0 on a CPU, where there is none.
        device_augment: on a CPU normalising, which a worker does; else flip and normalise, batched on the device.
        threads: number of threads of `thread_scaling`, and of processes of `process_scaling`.
        thread_scaling: how many times the images/s of one thread that many threads reach in one process.
        process_scaling: how many times that many processes reach, in the same seconds.
    """

    read: float | None = None
    read_cold: float | None = None
    decode: float | None = None
    augment: float | None = None
    collate: float | None = None
    hand_over: float | None = None
    copy: float | None = None
    device_augment: float | None = None
    threads: int | None = None
    thread_scaling: float | None = None
    process_scaling: float | None = None


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
        memory_bytes, memory_available_bytes: of the machine; None where it cannot be known.
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
    """All that the verdict may rest on."""

    environment: Environment
    rows: tuple[Row, ...] = ()
    stages: Stages = field(default_factory=Stages)
    demand: Demand | None = None


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
            "rows": [asdict(row) for row in measured.rows],
            "stages": asdict(measured.stages),
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
                lines.append(f"Use it: alexnet-fast train ... --loader-settings {self.out / 'bench-loader.json'}")
        return "\n".join(lines)


def read_report(path: Path | str) -> BenchReport:
    """The report that bench-loader.json holds.

    Raises:
        UsageError: there is no such file, or it is none that bench-loader wrote.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        demand, chosen = content["demand"], content["recommendation"]
        return BenchReport(
            measured=Measured(
                environment=_build(Environment, content["environment"]),
                rows=tuple(_build(Row, row) for row in content["rows"]),
                stages=_build(Stages, content["stages"]),
                demand=None if demand is None else _build(Demand, demand),
            ),
            recommendation=None if chosen is None else _build(Setting, chosen),
            explanation=tuple(content["explanation"]),
            complete=bool(content["complete"]),
            seconds=float(content["seconds"]),
            announced_s=content.get("announced_s"),
        )
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): run `alexnet-fast bench-loader --out DIR`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is not what `alexnet-fast bench-loader --out DIR` writes: run it again") from None


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
