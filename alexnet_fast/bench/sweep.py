"""A sweep from beginning to end: probe, demand, cells, verdict, files. Each measurement is made in a child process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config import BenchConfig, LoaderConfig
from ..dataset import read_dataset_info
from ..errors import AlexNetFastError, UsageError, WorkerError
from ..options import is_url
from ..system import Child, ChildError, MemoryPeak, limit_behind
from ..words import counted
from .measure import FolderConfig, measure_demand, measure_loader
from .probe import Probe, dtype_of_training, probe
from .remote import fetched_sample
from .report import Display, open_display, write_files
from .results import BASELINE, OK, BenchReport, Demand, Environment, Fetch, Measured, Measurement, Row, Setting, Stages
from .sentences import explain
from .verdict import FROM_DISK, choose, recommendation, work_ms

_MIN_SLICE = 0.5  # seconds; a shorter stretch holds too few batches to mean much
_MAX_REPEATS = 3
_CLOSE = 0.03  # two repeats that agree as well as this need no third
# An epoch of fewer steps has no middle to measure in: the same images are then read several times over.
_FEW_STEPS, _STEADY_STEPS = 16, 64
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
    if config.baseline is not None:
        _count_images(Path(config.baseline))
    _check_records(config, read_dataset_info(config.dataset).split(config.split).records)
    with open_display() as display, ExitStack() as stack:
        dataset, fetch = Path(config.dataset), None
        if is_url(config.dataset):
            display.say(f"fetching shards of {config.dataset} ...")
            dataset, fetch = stack.enter_context(
                fetched_sample(
                    str(config.dataset), config.split, cache=config.cache, cache_bytes=config.cache_bytes,
                    seconds=config.seconds, say=display.say,
                )
            )  # fmt: skip
        records = read_dataset_info(dataset).split(config.split).records
        _check_records(config, records)
        session = _Session(config, display, records, dataset.resolve(), fetch)
        try:
            session.run()
        except KeyboardInterrupt:
            if session.found is not None:
                display.close()
                display.say(session.report(complete=False).closing_lines())
            raise
        return session.report(complete=True)


def _check_records(config: BenchConfig, records: int) -> None:
    if not records:
        raise UsageError(f"split {config.split!r} of {config.dataset} holds no images: pack some first")
    if min(config.batch_sizes) > records:
        raise UsageError(
            f"a batch of {min(config.batch_sizes)} is more than the {counted(records, 'image')} of split "
            f"{config.split!r}: give a --batch-size of {records} or less"
        )


def default_workers(usable: int) -> tuple[int, ...]:
    """0, 1, 2, 4 ... up to the usable cores, and one step above: there the gain ends, or is seen not to."""
    steps = [0, 1]
    while steps[-1] <= usable:
        steps.append(steps[-1] * 2)
    return tuple(steps)


def repeats_of(seconds: float) -> tuple[int, float]:
    """(how many repeats at most, seconds of each) that `seconds` a cell are cut into."""
    count = max(1, min(_MAX_REPEATS, int(seconds / _MIN_SLICE)))
    return count, seconds / count


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


# ---------------------------------------------------------------------------------------------------------------------
# The cells


@dataclass
class Cell:
    """One setting of the sweep: how it is measured, and what that gave so far.

    Attributes:
        config: of the loader.
        device: kind of the device that batches go to.
        seconds: of each repeat's images/s.
        whole_epoch, repeat: as in `measure_loader`.
        image_bytes: mean size of an image in the data set, where it is known.
        took: seconds of its last repeat, start-up and all.
    """

    setting: Setting
    config: LoaderConfig | FolderConfig
    device: str
    seconds: float
    whole_epoch: bool = False
    repeat: int = 1
    image_bytes: float = math.inf
    measurements: list[Measurement] = field(default_factory=list)
    status: str = OK
    took: float = 0.0

    def settled(self) -> bool:
        """Whether another repeat would add nothing."""
        spread = self.row().spread if self.measurements else None
        return self.status != OK or (spread is not None and spread <= _CLOSE)

    def measure(self, timeout: float) -> None:
        """Measure once more; what goes wrong becomes the status."""
        begin = time.monotonic()
        try:
            self.measurements.append(measure_in_child(self, timeout))
        except AlexNetFastError as error:
            # A figure that was measured before stays; one failure of several is still worth saying.
            self.status = str(error)
        except Exception as error:  # whatever a backend raises becomes the row's reason
            text = str(error).strip().splitlines()
            self.status = limit_behind(error) or f"{type(error).__name__}: {text[0] if text else 'no message'}"
        finally:
            self.took = time.monotonic() - begin

    def row(self) -> Row:
        """The row as far as it is measured."""
        waits = self.status == OK and not self.measurements
        status = "not measured: stopped before its turn" if waits else self.status
        # A repeat that had to read from the disk is left out where another found its records in memory.
        warm = [m for m in self.measurements if (m.disk_bytes_per_image or 0.0) < FROM_DISK * self.image_bytes]
        return Row(setting=self.setting, measurements=tuple(warm or self.measurements), status=status)


def measure_in_child(cell: Cell, timeout: float) -> Measurement:
    """One repeat of a cell, in a process of its own.

    Args:
        timeout: seconds without a sign of life after which it counts as hung.
    """
    with Child("alexnet_fast.bench.measure", keep_stderr=True) as child, MemoryPeak(child.pid) as memory:
        measure = partial(measure_loader, seconds=cell.seconds, whole_epoch=cell.whole_epoch, repeat=cell.repeat)
        found: Measurement = child.call(measure, cell.config, cell.device, timeout=timeout)
    return replace(found, peak_rss_mb=_mb(memory.rss_bytes), peak_pss_mb=_mb(memory.pss_bytes))


def _mb(size: int | None) -> float | None:
    return None if size is None else size / 1e6


def sweep(cells: Sequence[Cell], *, repeats: int, timeout: float, deadline: float) -> Iterator[Cell]:
    """Measure all cells, round after round, so that a machine that drifts favours none; yields each cell as it is due.

    A cell is yielded twice a turn: before it runs and after. The first round runs whole; a later one begins and goes on
    only while it ends, by what the cells took before, ahead of `deadline` (time.monotonic()).
    """
    for turn in range(repeats):
        due = [cell for cell in cells if not cell.settled()]
        # Every other round runs backwards: what each cell finds of its neighbours' heat and cache evens out.
        for cell in due if turn % 2 == 0 else reversed(due):
            if turn and time.monotonic() + cell.took > deadline:
                continue
            yield cell
            cell.measure(timeout)
            yield cell


# ---------------------------------------------------------------------------------------------------------------------
# The whole of it


class _Session:
    """The state of one sweep: what is measured so far can be reported at any moment."""

    def __init__(self, config: BenchConfig, display: Display, records: int, dataset: Path, fetch: Fetch | None) -> None:
        self._config, self._display, self._dataset, self._fetch = config, display, dataset, fetch
        self._batch_size = next(size for size in config.batch_sizes if size <= records)  # for all but the cells
        self._begin = time.monotonic()
        self._repeats, self._slice = repeats_of(config.seconds)
        self.found: Probe | None = None
        self._demand: Demand | None = None
        self._cells: list[Cell] = []
        self._refused: list[Row] = []
        self._notes: list[str] = []
        self._processes: Cell | None = None
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
            f"{counted(len(self._cells), 'setting')}, up to {counted(self._repeats, 'time')} {self._slice:.2g} s each: "
            f"about {estimate:.0f} s from here"
        )
        for line in (*self._notes, *(f"{row.setting}: {row.status}" for row in self._refused)):
            self._display.say(line)
        deadline = time.monotonic() + estimate
        self._display.rows(self.rows())
        for cell in sweep(self._cells, repeats=self._repeats, timeout=self._timeout(), deadline=deadline):
            self._display.turn(cell.row(), self.rows())
        self._measure_processes()

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _loader(self, **settings: Any) -> LoaderConfig:
        c = self._config
        common: dict[str, Any] = {
            "dataset": self._dataset, "split": c.split, "train": True, "device": c.device, "seed": c.seed,
            "image_size": c.image_size, "batch_size": self._batch_size,
        }  # fmt: skip
        return LoaderConfig(**{**common, **settings})

    def _probe(self) -> None:
        c, begin = self._config, time.monotonic()
        settings: dict[str, Any] = {
            "image_size": c.image_size, "persistent_workers": c.persistent_workers, "seconds": c.seconds,
            "seed": c.seed, "batch_sizes": list(c.batch_sizes),
        }  # fmt: skip
        if c.baseline is not None:
            settings["baseline_images"] = _count_images(Path(c.baseline))

        def note(message: str) -> None:
            if message == "ready":
                self._import_s = time.monotonic() - begin

        with Child("alexnet_fast.bench.probe", keep_stderr=True) as child:
            try:
                dtype = child.call(dtype_of_training, c.device)
                found: Probe = child.call(
                    probe, self._loader(dtype=dtype), settings, 2 * self._slice, timeout=c.timeout, on_message=note
                )
            except ChildError as error:
                raise WorkerError(
                    f"the process that measures this machine ended too early ({error.how}): run the same command again"
                ) from None
            except AlexNetFastError:
                raise  # what the probe cannot do no setting can: a device that is not there, a damaged data set
            except Exception as error:
                raise WorkerError(
                    f"the process that measures this machine failed ({type(error).__name__}: {error}): "
                    "`alexnet-fast doctor` may say why"
                ) from error
        if self._fetch is not None:
            found = replace(
                found,
                environment=replace(found.environment, dataset=self._fetch.url),
                stages=replace(found.stages, fetch=1000 / self._fetch.images_per_s),
            )
        self.found = found

    def _measure_demand(self) -> None:
        c, e = self._config, self._environment
        if c.model == "none":
            return
        self._display.say(f"measuring what {c.model} takes on {e.device_name} ...")
        shape: dict[str, Any] = {"batch_size": self._batch_size, "image_size": c.image_size}
        measure = partial(measure_demand, **shape, classes=e.classes, seconds=min(c.seconds, 6.0))
        try:
            with Child("alexnet_fast.bench.measure", keep_stderr=True) as child:
                self._demand = child.call(measure, c.model, c.device, timeout=self._timeout())
        except Exception as error:
            text = str(error).strip().splitlines()
            self._demand = Demand(model=c.model, **shape, error=text[0] if text else type(error).__name__)

    def _plan(self) -> None:
        c, e = self._config, self._environment
        pins = c.pin_memory if c.pin_memory is not None else (False, True)
        if e.device != "cuda":
            if True in pins:
                self._notes.append(
                    "pin_memory on: not applicable: it speeds up copies to a CUDA device, and the device here is "
                    f"{e.device}"
                )
            pins = (False,)
        workers = c.num_workers if c.num_workers is not None else default_workers(e.usable_cores)
        # DALI on a CPU must be asked for: there it is never the fastest.
        backends = c.backends or [name for name in e.backends if name != "dali" or e.device == "cuda"]
        for backend in backends:
            counts: Sequence[int] = workers
            if backend not in _SCALES:  # its workers only decode the split at the start
                counts = (max(c.num_workers) if c.num_workers else e.usable_cores,)
            if backend == "dali":  # which cannot do without a thread, so 0 and 1 are the same
                counts = sorted({max(1, count) for count in counts})
            self._add(backend, counts, pins if backend in _PINS else (False,))
        if c.baseline is not None:
            self._add(BASELINE, workers, pins)

    def _add(self, backend: str, workers: Sequence[int], pins: Sequence[bool]) -> None:
        e = self._environment
        images = int(e.settings["baseline_images"]) if backend == BASELINE else e.records
        for batch in self._config.batch_sizes:
            for pin in pins:
                for count in workers:
                    setting = Setting(backend=backend, num_workers=count, pin_memory=pin, batch_size=batch)
                    if batch > images:
                        why = f"a batch of {batch} is more than the {images} images that there are"
                        self._refused.append(Row(setting=setting, status=why))
                    else:
                        self._cells.append(self._cell(setting, images))

    def _cell(self, setting: Setting, images: int, **options: Any) -> Cell:
        c, e = self._config, self._environment
        config: LoaderConfig | FolderConfig
        values = {
            "num_workers": setting.num_workers,
            "pin_memory": setting.pin_memory,
            "batch_size": setting.batch_size,
        }
        if setting.backend == BASELINE:
            config = FolderConfig(
                folder=str(c.baseline), image_size=c.image_size, device=e.device, persistent=c.persistent_workers,
                **values,  # type: ignore[arg-type]
            )  # fmt: skip
        else:
            if setting.backend == "dali" and c.hw_decoder_load is not None:
                options = {**options, "hw_decoder_load": c.hw_decoder_load}
            config = self._loader(backend=setting.backend, dtype=e.dtype, options=options, **values)
        most = max(c.batch_sizes)
        return Cell(
            setting=setting, config=config, device=e.device, seconds=self._slice,
            whole_epoch=images * self._image_ms() / 1000 <= self._slice,
            repeat=math.ceil(_STEADY_STEPS * most / images) if images // most < _FEW_STEPS else 1,
            image_bytes=e.bytes / e.records,
        )  # fmt: skip

    def _measure_processes(self) -> None:
        """Where the best setting ran on threads: whether as many processes are faster, for Python's lock."""
        best = choose(self._measured())
        if best is None or best.workers < 2 or best.figures.worker_kind != "thread":
            return
        self._processes = self._cell(best.setting, self._environment.records, workers="process")
        self._display.say("measuring the best setting with worker processes ...")
        for _ in best.measurements:
            self._processes.measure(self._timeout())

    # -- what is known now --------------------------------------------------------------------------------------------

    @property
    def _environment(self) -> Environment:
        assert self.found is not None
        return self.found.environment

    @property
    def _stages(self) -> Stages:
        assert self.found is not None
        return self.found.stages

    def _image_ms(self) -> float:
        return work_ms(self._stages, self._environment.device) or 1.0

    def _timeout(self) -> float:
        # A resident loader decodes the whole split before its first batch.
        return max(self._config.timeout, 3 * self._environment.records * self._image_ms() / 1000)

    def _estimate(self) -> float:
        """Seconds from here on, by what the probe took: each repeat imports, starts, fills, and measures."""
        e, total = self._environment, 0.0
        for cell in self._cells:
            setting = cell.setting
            filling = (1 + (cell.repeat > 1)) * setting.batch_size * self._image_ms() / 1000 * 3
            if setting.backend == BASELINE:  # each worker begins with a batch of its own
                workers = max(1, setting.num_workers)
                filling *= _BASELINE_WORK * workers / min(workers, e.usable_cores)
                filling += e.settings["baseline_images"] * _LISTING_S
            if setting.backend == "resident":
                filling += e.records * self._image_ms() / 1000 / e.usable_cores
            whole = self._slice if cell.whole_epoch else 0.0
            total += self._repeats * (self._import_s + 1.0 + filling + whole + self._slice)
        return total

    def rows(self) -> tuple[Row, ...]:
        """The table as far as it is measured."""
        return (*(cell.row() for cell in self._cells), *self._refused)

    def _measured(self) -> Measured:
        return Measured(
            environment=self._environment, rows=self.rows(), stages=self._stages, demand=self._demand,
            notes=tuple(self._notes), processes=None if self._processes is None else self._processes.row(),
            fetch=self._fetch,
        )  # fmt: skip

    def report(self, *, complete: bool) -> BenchReport:
        """The verdict on what is measured, written where it was asked for."""
        measured = self._measured()
        best = choose(measured)
        report = BenchReport(
            measured=measured, recommendation=recommendation(best), explanation=explain(measured, best),
            complete=complete, seconds=time.monotonic() - self._begin, announced_s=self._announced_s,
            out=None if self._config.out is None else Path(self._config.out),
        )  # fmt: skip
        if report.out is not None:
            write_files(report, report.out)
        return report
