"""A sweep from beginning to end: probe, demand, cells, verdict, files."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import BenchConfig
from ..dataset import ShardReader, ShardWriter, read_dataset_info, write_dataset_info
from ..errors import UsageError, WorkerError
from ..system import temporary_folder
from .display import Display, open_display
from .results import BASELINE, BenchReport, Demand, Environment, Measured, Row, Stages
from .sentences import explain
from .sweep import Cell, CellError, repeats_of, run_cell, sweep
from .tables import write_files
from .verdict import choose, recommendation, work_ms

# An epoch of fewer steps has no middle to measure in: the same images are then read several times over.
_FEW_STEPS, _STEADY_STEPS = 16, 64
_MOST_REPEATED_BYTES = 512 << 20
# What ImageFolder takes, for the time that is announced: to find a file, and to read an image, against our workers.
_LISTING_S, _BASELINE_WORK = 20e-6, 3.0
# Loaders for which pin_memory changes something, and whose speed follows num_workers.
_PINS = ("torchvision", BASELINE)
_SCALES = ("torchvision", "dali", BASELINE)
_IMAGES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}  # ImageFolder's


def bench_loader(config: BenchConfig) -> BenchReport:
    """Measure how fast a packed split is read for every setting; say which is best here, and why.

    Progress goes to stderr; with ``config.out`` the folder gets bench-loader.json, .md and .png.

    Raises:
        UsageError: the data set, the device, a backend or the baseline's folder is not there, or every batch size is
            more than the split has images.
        DamagedDataError: the data set is damaged.
        WorkerError: the process that looks at the machine crashed or hung.
        KeyboardInterrupt: stopped; what was measured till then has been written and its verdict shown.
    """
    info = read_dataset_info(config.dataset)
    records = info.split(config.split).records
    if not records:
        raise UsageError(f"split {config.split!r} of {config.dataset} holds no images: pack some first")
    if config.baseline is not None:
        _count_images(Path(config.baseline))
    if min(config.batch_sizes) > records:
        raise UsageError(
            f"a batch of {min(config.batch_sizes)} is more than the {records} images of split {config.split!r}: "
            f"give a --batch-size of {records} or less"
        )
    with ExitStack() as stack, open_display() as display:
        session = _Session(config, display, stack)
        try:
            session.run()
        except KeyboardInterrupt:
            if session.environment is not None:
                display.close()
                display.say(session.report(complete=False).closing_lines())
            raise
        return session.report(complete=True)


def default_workers(usable: int) -> tuple[int, ...]:
    """0, 1, 2, 4 ... up to the usable cores, and one step above: there the gain ends, or is seen not to."""
    steps = [0, 1]
    while steps[-1] <= usable:
        steps.append(steps[-1] * 2)
    return tuple(steps)


def default_backends(environment: Environment) -> list[str]:
    """Those that run here, but for DALI on a CPU, which must be asked for: there it is never the fastest."""
    return [name for name in environment.backends if name != "dali" or environment.device == "cuda"]


def _count_images(folder: Path) -> int:
    """Images in a folder of class folders.

    Raises:
        UsageError: it is none.
    """
    if not folder.is_dir():
        raise UsageError(f"--baseline takes a folder of class folders, and {folder} is not a folder")
    count = sum(
        1 for sub in folder.iterdir() if sub.is_dir() for path in sub.rglob("*") if path.suffix.lower() in _IMAGES
    )
    if not count:
        raise UsageError(f"--baseline takes a folder with a folder of images for each class: {folder} has none")
    return count


class _Session:
    """The state of one sweep: what is measured so far can be reported at any moment."""

    def __init__(self, config: BenchConfig, display: Display, stack: ExitStack) -> None:
        self._config, self._display, self._stack = config, display, stack
        records = read_dataset_info(config.dataset).split(config.split).records
        self._batch_size = next(size for size in config.batch_sizes if size <= records)  # for all but the cells
        self._begin = time.monotonic()
        self._repeats, self._slice = repeats_of(config.seconds)
        self.environment: Environment | None = None
        self._stages = Stages()
        self._demand: Demand | None = None
        self._cells: list[Cell] = []
        self._extra: list[Row] = []
        self._import_s = 3.0
        self._announced_s: float | None = None

    def run(self) -> None:
        c = self._config
        self._display.say(f"looking at {c.dataset} and this machine ...")
        self._probe()
        self._measure_demand()
        self._plan()
        estimate = self._estimate()
        self._announced_s = time.monotonic() - self._begin + estimate
        self._display.say(
            f"{len(self._cells)} settings, up to {self._repeats} times {self._slice:.2g} s each: "
            f"about {estimate:.0f} s from here"
        )
        deadline = time.monotonic() + estimate
        self._display.rows(self.rows())
        for cell in sweep(self._cells, repeats=self._repeats, timeout=self._timeout(), deadline=deadline):
            self._display.turn(cell, self.rows())

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _task(self, kind: str) -> dict[str, Any]:
        c = self._config
        return {
            "kind": kind, "device": c.device, "dataset": str(Path(c.dataset).resolve()), "split": c.split,
            "image_size": c.image_size, "batch_size": self._batch_size, "seed": c.seed,
        }  # fmt: skip

    def _probe(self) -> None:
        begin = time.monotonic()

        def note(event: str) -> None:
            if event == "ready":
                self._import_s = time.monotonic() - begin

        try:
            task = {**self._task("probe"), "warm_seconds": 2 * self._slice}
            events = run_cell(task, self._config.timeout, note)
        except CellError as error:
            # What the probe cannot do no setting can: a device that is not there, a damaged data set.
            text = str(error)
            if error.kind is WorkerError:
                text = f"the process that looks at this machine did not come to its end ({text}): start it again"
            raise error.kind(text) from None
        c = self._config
        settings = {
            "image_size": c.image_size, "prefetch": c.prefetch, "persistent_workers": c.persistent_workers,
            "seconds": c.seconds, "seed": c.seed, "batch_sizes": list(c.batch_sizes),
        }  # fmt: skip
        if c.baseline is not None:
            settings["baseline_images"] = _count_images(Path(c.baseline))
        found = events.by_name["environment"]
        self.environment = Environment(**{**found, "backends": tuple(found["backends"])}, settings=settings)
        self._stages = Stages(**events.by_name["stages"])

    def _measure_demand(self) -> None:
        c, e = self._config, self._environment
        if c.model == "none":
            return
        shape: dict[str, Any] = {"model": c.model, "batch_size": self._batch_size, "image_size": c.image_size}
        self._display.say(f"measuring what {c.model} takes on {e.device_name} ...")
        task = {**self._task("demand"), **shape, "classes": e.classes, "seconds": min(c.seconds, 6.0)}
        try:
            self._demand = Demand(**shape, **run_cell(task, self._timeout()).by_name["demand"])
        except CellError as error:
            self._demand = Demand(**shape, error=str(error))

    def _plan(self) -> None:
        c, e = self._config, self._environment
        pins = c.pin_memory if c.pin_memory is not None else (False, True)
        if e.device != "cuda":
            if True in pins:
                why = f"not applicable: it speeds up copies to a CUDA device, and the device here is {e.device}"
                self._extra = [Row(backend="all", num_workers=None, pin_memory=True, batch_size=None, status=why)]
            pins = (False,)
        workers = c.num_workers if c.num_workers is not None else default_workers(e.usable_cores)
        for backend in c.backends or default_backends(e):
            counts: Sequence[int] = workers
            if backend not in _SCALES:  # its workers only decode the split at the start
                counts = (max(c.num_workers) if c.num_workers else e.usable_cores,)
            if backend == "dali":  # which cannot do without a thread, so 0 and 1 are the same
                counts = sorted({max(1, count) for count in counts})
            self._add(backend, counts, pins if backend in _PINS else (False,))
        if c.baseline is not None:
            self._add(BASELINE, workers, pins)

    def _add(self, backend: str, workers: Sequence[int], pins: Sequence[bool]) -> None:
        for batch in self._config.batch_sizes:
            for pin in pins:
                for count in workers:
                    row = Row(backend=backend, num_workers=count, pin_memory=pin, batch_size=batch)
                    images = self._images(row)
                    if batch > images:
                        why = f"a batch of {batch} is more than the {images} images that there are"
                        self._extra.append(replace(row, status=why))
                    else:
                        self._cells.append(Cell(row, self._cell_task(row, images)))

    def _images(self, row: Row) -> int:
        e = self._environment
        return int(e.settings["baseline_images"]) if row.backend == BASELINE else e.records

    def _cell_task(self, row: Row, images: int) -> dict[str, Any]:
        c, e = self._config, self._environment
        loader = {
            "backend": row.backend, "num_workers": row.num_workers, "pin_memory": row.pin_memory,
            "batch_size": row.batch_size, "image_size": c.image_size, "prefetch": c.prefetch,
        }  # fmt: skip
        task: dict[str, Any] = {
            "kind": "loader", "loader": loader, "device": e.device, "persistent": c.persistent_workers,
            "seconds": self._slice, "whole_epochs": False,
        }  # fmt: skip
        if row.backend == BASELINE:
            loader["folder"] = str(c.baseline)
            if images // max(c.batch_sizes) < _FEW_STEPS:
                task["steady"] = {"times": self._times(images)}
        else:
            loader |= {
                "dataset": str(Path(c.dataset).resolve()), "split": c.split, "train": True, "device": c.device,
                "dtype": e.dtype, "seed": c.seed,
            }  # fmt: skip
            if images // max(c.batch_sizes) < _FEW_STEPS and self._can_repeat():
                task["steady"] = {"dataset": str(self._repeated())}
        task["whole_epochs"] = images * self._image_ms() / 1000 <= self._slice
        return task

    # -- a split too short to measure in ------------------------------------------------------------------------------

    def _can_repeat(self) -> bool:
        return self._environment.bytes * self._times(self._environment.records) <= _MOST_REPEATED_BYTES

    def _times(self, images: int) -> int:
        return math.ceil(_STEADY_STEPS * max(self._config.batch_sizes) / images)

    def _repeated(self) -> Path:
        """A data set that holds the split's images several times over, made on first use, in a temporary folder."""
        if not hasattr(self, "_folder"):
            self._folder = self._stack.enter_context(temporary_folder("bench-loader-"))
            repeat_split(
                Path(self._config.dataset), self._config.split, self._times(self._environment.records), self._folder
            )
        return self._folder

    # -- what is known now --------------------------------------------------------------------------------------------

    @property
    def _environment(self) -> Environment:
        assert self.environment is not None
        return self.environment

    def _image_ms(self) -> float:
        return work_ms(self._stages, self._environment.device) or 1.0

    def _timeout(self) -> float:
        # A resident loader decodes the whole split before its first batch.
        return max(self._config.timeout, 3 * self._environment.records * self._image_ms() / 1000)

    def _estimate(self) -> float:
        """Seconds from here on, by what the probe took: each repeat imports, starts, fills, and measures."""
        e, total = self._environment, 0.0
        for cell in self._cells:
            batch = cell.row.batch_size or 0
            opened = 1 + ("steady" in cell.task)
            filling = opened * batch * self._image_ms() / 1000 * 3
            if cell.row.backend == BASELINE:  # each worker begins with a batch of its own
                filling *= _BASELINE_WORK * max(1, cell.row.workers) / max(1, min(cell.row.workers, e.usable_cores))
                filling += opened * e.settings["baseline_images"] * _LISTING_S
            if cell.row.backend == "resident":
                filling += e.records * self._image_ms() / 1000 / e.usable_cores
            whole = 2 * self._slice if cell.task["whole_epochs"] else 0.0
            total += self._repeats * (self._import_s + 1.0 + filling + whole + self._slice)
        return total

    def rows(self) -> tuple[Row, ...]:
        """The table as far as it is measured."""
        return (*(cell.result() for cell in self._cells), *self._extra)

    def report(self, *, complete: bool) -> BenchReport:
        """The verdict on what is measured, written where it was asked for."""
        measured = Measured(environment=self._environment, rows=self.rows(), stages=self._stages, demand=self._demand)
        best = choose(measured)
        report = BenchReport(
            measured=measured, recommendation=recommendation(best), explanation=explain(measured, best),
            complete=complete, seconds=time.monotonic() - self._begin, announced_s=self._announced_s,
            out=None if self._config.out is None else Path(self._config.out),
        )  # fmt: skip
        if report.out is not None:
            write_files(report, report.out)
        return report


def repeat_split(dataset: Path, split: str, times: int, folder: Path) -> None:
    """Write a data set to `folder` whose one split is that of `dataset`, `times` over."""
    reader = ShardReader(dataset, split)
    name = f"{split}-00000-of-00001"
    with ShardWriter(folder, name, expected_bytes=reader.split_info.bytes * times) as writer:
        for _ in range(times):
            for record, row in enumerate(reader.index):
                writer.add(
                    reader.read(record), label=int(row["label"]), width=int(row["width"]), height=int(row["height"]),
                    key=bytes(row["key"]),
                )  # fmt: skip
        shard = writer.finish()
    reader.close()
    info = replace(reader.split_info, records=shard.records, bytes=shard.bytes, shards=(shard,))
    write_dataset_info(folder, replace(reader.info, splits={split: info}))
