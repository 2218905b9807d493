"""The loop: a step, an epoch, a run; and the checkpoint that holds where it stands."""

from __future__ import annotations

import copy
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import torch

from ..dataset import DatasetInfo
from ..errors import AlexNetFastError, DamagedDataError, StoppedError
from ..loaders import Loader
from ..models import create_model
from ..plots import best_row, plot_curves
from ..system import CoreWatch, NoProgress, Progress, StopSignals, progress_bar
from .checkpoint import save_checkpoint
from .clock import Clock
from .data import RunData
from .diagnosis import Watch, beats_guessing
from .distributed import Ranks
from .fit import fit_verdict
from .initial import freeze_features, take_weights
from .log import cores_note, duration, epoch_line, step_note
from .plan import Plan, resume_command
from .recipes import made_harder_by, training_size, usual_rate
from .run_folder import CURVES, RunFolder
from .scoring import ScoringStopped, score
from .step import Step
from .stopping import Vote

_LOOK_EVERY = 50  # steps between looks at the loss off the CPU: a look at a GPU's waits for it
_PACE_STEPS, _LONG = 10, 10.0  # steps from which the length of a run is foretold; seconds from which it is worth it
_DRAW_SECONDS = 20.0  # a drawing costs about a second of CPU; after each of many short epochs that would tell


class Trainer:
    """A run in progress.

    Attributes:
        step: what moves the weights; it counts the optimiser steps done in all.
        epoch: epochs completed.
        rows: one per completed epoch, as in metrics.jsonl.
        clock: the times of the run.
        data: what it reads; to be closed after the run.
    """

    def __init__(
        self,
        plan: Plan,
        info: DatasetInfo,
        ranks: Ranks,
        folder: RunFolder | None,
        stops: StopSignals,
        say: Callable[[str], None],
        *,
        resumed: bool = False,
    ) -> None:
        """
        Args:
            resumed: a checkpoint will be loaded, so no weights to start from are needed.
        """
        self.plan, self.info, self.ranks, self.folder, self.stops, self.say = plan, info, ranks, folder, stops, say
        recipe, config = plan.recipe, plan.config
        torch.manual_seed(config.seed)
        model = create_model(config.model, info.num_classes, plan.image_size, **recipe.network)
        if config.init is not None and not resumed:
            say(take_weights(model, config.model, info.classes, config.init))
        if config.freeze == "features":
            freeze_features(model)
        self.step = Step(
            model, recipe, plan.precision, ranks, total_steps=plan.total_steps, seed=config.seed, compile=plan.compile
        )
        self.data = RunData(plan, info, ranks, say)
        self._watch = Watch(
            self.step.model, self.data.labels("train"), recipe, total_steps=plan.total_steps,
            usual_rate=usual_rate(config, info.split("train").records),
        )  # fmt: skip
        self.clock = Clock(ranks.device)
        # Of an image, summed over the epochs before each: every look at a run's length asks how many are left.
        sizes = [training_size(recipe, epoch, plan.image_size) for epoch in range(recipe.epochs)]
        self._pixels = np.cumsum([0, *(size**2 for size in sizes)])
        self.epoch = 0
        self.rows: list[dict[str, Any]] = []
        self._vote = Vote(ranks)
        self._saved = (0, 0)  # epoch and step of the newest checkpoint
        self._failed: set[str] = set()  # by-products that cannot be written
        self._told = False  # how long the run will take
        self._still: str | None = None  # what the last look said of a run that stands still
        # Ranks on one computer are other programs to each other, so only a process alone looks.
        alone_on_cpu = ranks.device.type == "cpu" and not ranks.joined
        self._cores: CoreWatch | None = CoreWatch() if alone_on_cpu else None
        self._drawn_at = time.monotonic()
        # How far other numbers of ranks read this epoch, where that sets the order (`LoaderConfig.done`).
        self._stretches: list[tuple[int, int]] = []

    def run(self) -> None:
        """Train from where the run stands to its end.

        Raises:
            StoppedError: by a signal, after writing a checkpoint.
            AlexNetFastError: the loss is not a number any more.
        """
        self.stops.last_words = self._last_words
        self.stops.answer = "stopping after this step, with a checkpoint; Ctrl-C again ends at once"
        self.stops.gentle = True
        while self.step.done < self.plan.stop_at or self._steps_of_epoch() == self.plan.steps_per_epoch:
            self._run_epoch()
        self.stops.gentle = False

    # -----------------------------------------------------------------------------------------------------------------
    # One epoch

    def _steps_of_epoch(self) -> int:
        """Steps done of the epoch under way; all of them where only its validation is left."""
        return self.step.done - self.epoch * self.plan.steps_per_epoch

    def _run_epoch(self) -> None:
        plan, step, first = self.plan, self.step, self._steps_of_epoch()
        if first < plan.steps_per_epoch:
            loader = self.data.train_loader(self.epoch)
            loader.load_state(self._position(first))
            step.train()
            with self._progress(f"epoch {self.epoch + 1}/{plan.recipe.epochs}") as progress:
                images = plan.recipe.batch_size
                progress.start(plan.steps_per_epoch * images, done=first * images)
                self._take_steps(loader, progress)
        if self._steps_of_epoch() == plan.steps_per_epoch:
            self._end_epoch()

    def _take_steps(self, loader: Loader, progress: Progress) -> None:
        """Those that are left of the epoch, up to where the run ends."""
        plan, step = self.plan, self.step
        look_every = 1 if self.ranks.device.type == "cpu" else _LOOK_EVERY
        every = plan.config.checkpoint_steps
        for images, labels in self.clock.timed(loader):
            loss, hits, _ = step(images, labels)
            self._watch.add(loss, hits, len(labels))
            progress.advance(plan.recipe.batch_size)
            if step.done % look_every == 0:
                self._look(progress)
            stop, save = self._vote(self.stops.received, self._is_save_due())
            if stop:
                self._stop(stop)
            if self._steps_of_epoch() == plan.steps_per_epoch:
                continue
            if self._watch.is_due(step.done):
                self._look_for_standstill()
            if save or step.done >= plan.stop_at or (every is not None and step.done % every == 0):
                self.save()
            if step.done >= plan.stop_at:
                return

    def _position(self, first: int) -> dict[str, Any]:
        """Where the train loader goes on, for its `load_state`: step `first` of the epoch."""
        earlier = sum(ranks * read for ranks, read in self._stretches) // self.plan.recipe.batch_size
        return {"epoch": self.epoch, "step": first - earlier, "done": self._stretches}

    def _is_save_due(self) -> bool:
        """By this rank's clock."""
        seconds = self.plan.config.checkpoint_seconds
        return seconds is not None and self.clock.since_saved >= seconds

    def _end_epoch(self) -> None:
        plan, clock = self.plan, self.clock
        loss, hits = self._epoch_means()
        self._check(loss)
        with clock.between_epochs():
            row: dict[str, Any] = {"epoch": self.epoch + 1, "train_loss": loss, "train_top1": hits}
            try:
                row |= self._validate()
            except ScoringStopped:
                self._stop(self.stops.received or signal.SIGTERM)
            speed = clock.images_per_s(plan.recipe.batch_size)
            row |= {
                "lr": self.step.rate,
                "images_per_s": speed and round(speed, 2),
                "data_wait": round(clock.wait, 4),
                "seconds": round(clock.epoch_seconds, 3),
            }
            still = self._look_for_standstill(row)
            if still is not None:
                row["still"] = still
            with self.step.lock:
                self.step.plateau.update(plan.recipe, 1 - row["val_top1"] if row["val_top1"] is not None else loss)
                self.rows.append(row)
                self.epoch += 1
                self._stretches = []
                self.step.sums.zero_()
                clock.start_epoch()
                self.save(best=best_row(self.rows) is row)
        self._report(row)

    def _look_for_standstill(self, row: Mapping[str, Any] | None = None) -> str | None:
        """Say so where the run is no better than guessing, in training or, by an epoch's row, in validation."""
        if not self.ranks.is_main:
            return None
        watch, steps = self._watch, self.step.done
        still = watch.look(steps, lambda: self.data.probe("train"))
        if row is not None and row["val_top1"] is not None:
            split = self.plan.config.val_split
            if still is not None and beats_guessing(row["val_top1"], self.data.labels(split)):
                still = None  # a short run's mean over its first steps is at chance when its last weights no longer are
            elif still is None and steps >= self.plan.total_steps:
                still = watch.look_at_validation(
                    steps, row["val_top1"], row["train_top1"], self.data.labels(split), lambda: self.data.probe(split)
                )
        if row is None:
            self._tell_standstill(still)
        return still

    def _tell_standstill(self, still: str | None) -> None:
        """Once, however often a look finds nothing new."""
        if still is not None and still != self._still:
            self.say(still)
        self._still = still

    def _epoch_means(self) -> tuple[float, float]:
        n = self._steps_of_epoch() * self.plan.recipe.batch_size
        loss, hits = self.ranks.sum(self.step.sums.clone()).tolist()
        return loss / n, hits / n

    def _validate(self) -> dict[str, Any]:
        loader = self.data.val_loader()
        if loader is None:
            return {"val_loss": None, "val_top1": None, "val_top5": None, "val_balanced": None}
        network, mean = self.step.model, self.step.mean
        if mean is not None:
            network = copy.deepcopy(network)
            network.load_state_dict(mean.state)
        found = score(network, loader, self.plan.precision, self.ranks, stopped=lambda: self.stops.received)
        return {"val_loss": found.loss, "val_top1": found.top1, "val_top5": found.top5, "val_balanced": found.balanced}

    # -----------------------------------------------------------------------------------------------------------------
    # Saying and keeping

    def _progress(self, label: str) -> Any:
        return progress_bar(label) if self.ranks.is_main else nullcontext(NoProgress())

    def _look(self, progress: Progress) -> None:
        n = self._steps_of_epoch() * self.plan.per_rank
        loss, hits = (self.step.sums / n).tolist()
        self._check(loss)
        left = self._seconds_left()
        progress.note(step_note(loss, hits, self.clock.wait, left))
        if not self._told and left is not None and self.clock.timed_steps >= _PACE_STEPS and left > _LONG:
            self._told = True
            speed = self.clock.images_per_s(self.plan.recipe.batch_size)
            grows = ", slower as images grow" if self.plan.recipe.start_size < 1 else ""
            pace = f"{speed:,.1f} images/s, the pace of its first steps{grows}"
            self.say(f"training will take about {duration(left)} at {pace}")
            self._look_at_cores()

    def _look_at_cores(self) -> None:
        """Say it, once, where other programs take cores that training waits for."""
        if self._cores is None:
            return
        spins = torch.get_num_threads() > 1 and os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive"
        note = cores_note(self._cores.use(), spins=spins)
        self._cores = CoreWatch() if note is None else None
        if note is not None:
            self.say(note)

    def _seconds_left(self) -> float | None:
        """At the pace of the last steps: a step's time goes with the pixels of its images, which may grow."""
        plan, clock = self.plan, self.clock
        pace = clock.pace(plan.steps_per_epoch, self.rows[-1]["seconds"] if self.rows else None)
        if pace is None:
            return None
        paced = self.epoch if clock.timed_steps else self.epoch - 1
        epochs = np.array([self.step.done, plan.stop_at]) / plan.steps_per_epoch
        done, stop = np.interp(epochs, np.arange(len(self._pixels)), self._pixels)
        size = training_size(plan.recipe, paced, plan.image_size)
        steps = float(stop - done) / size**2 * plan.steps_per_epoch  # as many of the paced epoch's size
        return steps * pace + (math.ceil(float(epochs[1])) - self.epoch) * clock.between

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            where = f"epoch {self.epoch + 1}, step {self.step.done}"
            rate = self.plan.recipe.lr
            kept = self.folder is not None and self.folder.has_checkpoint()
            raise AlexNetFastError(
                f"the loss is no number any more ({loss}, {where}): train anew with a lower --lr than {rate:g}"
                + ("" if self.plan.precision.name == "fp32" else " or with --precision fp32")
                + (", into another --run-dir, since this one holds checkpoints of the old rate" if kept else "")
            )

    def _report(self, row: Mapping[str, Any]) -> None:
        self.say(epoch_line(row, self.plan.recipe.epochs, self._seconds_left()))
        if self.step.done < self.plan.stop_at:
            self._tell_standstill(row.get("still"))
        self._look_at_cores()
        if self.folder is None:
            return
        self.folder.write_rows(self.rows)
        try:
            self.folder.log_to_tensorboard(row, first=len(self.rows) == 1)
        except Exception as error:  # of TensorBoard, of what it is built on, or of the disk
            self._do_without("TensorBoard's file", error)
        if time.monotonic() - self._drawn_at > _DRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Bring curves.png up to date. A drawing that fails is said, and is no reason to end a run."""
        if self.folder is None or not self.rows:
            return
        try:
            what, _, advice = fit_verdict(self.rows).partition(". ")
            run = f"{self.plan.config.model}, recipe {self.plan.recipe.name}, run {self.folder.path.name}. {advice}"
            plot_curves(
                self.rows, self.folder.path / CURVES, title=f"{what.rstrip('.')}.", foot=run,
                training=made_harder_by(asdict(self.plan.recipe)),
            )  # fmt: skip
        except Exception as error:  # of the disk, of the fonts, of matplotlib's cache
            self._do_without(CURVES, error)
        self._drawn_at = time.monotonic()

    def _do_without(self, what: str, error: Exception) -> None:
        """Say once that a by-product of the run cannot be written."""
        if what not in self._failed:
            self._failed.add(what)
            self.say(f"{what} is not written ({type(error).__name__}: {error}); training goes on without it")

    def _stop(self, number: int) -> NoReturn:
        self.save()
        self.draw()
        raise StoppedError(self._stopped(number), number)

    def _stopped(self, number: int) -> str:
        command = resume_command(self.plan.config, self.folder.path) if self.folder is not None else ""
        return f"stopped by {signal.Signals(number).name} after step {self.step.done}; go on with: {command}"

    def _last_words(self, number: int) -> str | None:
        """For `StopSignals`: the main thread is at something that takes long, such as a step of a large batch on a CPU.

        The step that it is in is given up: the checkpoint is of the state before it.
        """
        if self._saved != (self.epoch, self.step.done) and (
            self.ranks.joined or self.ranks.device.type != "cpu" or self.folder is None
        ):
            return None
        self.step.lock.acquire()  # for good: the process ends
        if self._saved != (self.epoch, self.step.done):
            try:
                self.save()
            except AlexNetFastError as error:
                return str(error)
        return self._stopped(number)

    def save(self, *, best: bool = False) -> None:
        """Write the checkpoint of this moment; every rank takes part."""
        with self.step.lock:
            sums = self.ranks.sum(self.step.sums.clone())
            self._check(float(sums[0]))
            self.clock.save()
            if self.folder is not None:
                save_checkpoint(self.folder.path, self._state(sums), best=best)
            self._saved = (self.epoch, self.step.done)
            self.ranks.barrier()

    def _state(self, sums: torch.Tensor) -> dict[str, Any]:
        return {
            **self.step.state(),
            "order": {
                "epoch": self.epoch,
                "step": self._steps_of_epoch(),
                "seed": self.plan.config.seed,
                "ranks": self.ranks.world_size,
                "stretches": self._stretches,
            },
            "epoch": self.epoch,
            "sums": sums,
            "clock": self.clock.state(),
            "rows": self.rows,
            "config": self.plan.record,
            "classes": [asdict(c) for c in self.info.classes],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Stand where `state`, a checkpoint of this run, was taken.

        Raises:
            DamagedDataError: it does not fit this run.
        """
        try:
            self.step.load(state)
            if self.plan.config.init is not None:  # else the run began with the weights that the seed draws
                self._watch.begin_here()
            self.step.sums.copy_(state["sums"] if self.ranks.is_main else torch.zeros(2))
            self.clock.load(state["clock"])
            self.epoch = int(state["epoch"])
            self._take_over(state["order"])
            self.rows = [dict(row) for row in state["rows"]]
            self._saved = (self.epoch, self.step.done)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedDataError(f"the checkpoint does not fit this run ({reason}): give another --run-dir") from None
        if self.folder is not None:
            self.folder.write_rows(self.rows)

    def _take_over(self, order: Mapping[str, Any]) -> None:
        """Go on with an epoch that perhaps another number of ranks began."""
        self._stretches = [(int(ranks), int(read)) for ranks, read in order.get("stretches", ())]
        ranks = int(order.get("ranks", self.ranks.world_size))
        steps = self._position(int(order["step"]))["step"]
        if self.plan.shuffle == "window" and ranks != self.ranks.world_size and steps:
            self._stretches.append((ranks, steps * self.plan.recipe.batch_size // ranks))
