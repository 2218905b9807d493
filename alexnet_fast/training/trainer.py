"""The loop: a step, an epoch, a run; and the checkpoint that holds where it stands."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..config import LoaderConfig
from ..dataset import DatasetInfo
from ..errors import AlexNetFastError, DamagedDataError, StoppedError
from ..images import uniform
from ..loaders import Batch, Loader, open_loader
from ..models import create_model
from ..system import NoProgress, Progress, progress_bar, synchronize
from .checkpoint import save_checkpoint
from .distributed import Ranks
from .log import epoch_line, step_note
from .optimisation import WeightMean, WorkingCopy, add_color_noise, make_optimizer
from .plan import Plan, resume_command
from .recipes import Plateau, learning_rate, training_size
from .run_folder import CURVES, RunFolder
from .scoring import score
from .stopping import Stops, Vote

_LOG_EVERY = {"cpu": 1}  # steps between looks at the loss; a look at a GPU's waits for it, so there it is rare
_LOG_EVERY_ELSEWHERE = 50
_STEP_STREAM = 2000
_DRAW_SECONDS = 20.0  # a drawing costs about a second of CPU; after each of many short epochs that would tell


class Trainer:
    """A run in progress.

    Attributes:
        model: the network, float32 weights, on the device.
        epoch, step: epochs completed, optimiser steps done in all.
        rows: one per completed epoch, as in metrics.jsonl.
        seconds: wall time of the run so far, over all its starts.
        warm_up_seconds: of them, until the end of each start's first step: workers, compilation, first allocations.
    """

    def __init__(
        self,
        plan: Plan,
        info: DatasetInfo,
        ranks: Ranks,
        folder: RunFolder | None,
        stops: Stops,
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.info, self.ranks, self.folder, self.stops, self.say = plan, info, ranks, folder, stops, say
        recipe, config = plan.recipe, plan.config
        torch.manual_seed(config.seed)
        model = create_model(config.model, info.num_classes, config.image_size, **recipe.network)
        self.model = model.to(ranks.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model, recipe, ranks.device.type)
        self.scaler = plan.precision.scaler()
        self.mean = WeightMean(self.model, recipe.ema) if recipe.ema else None
        # With several processes autocast stays, so that gradients are averaged in float32.
        own_copy = plan.precision.name == "bf16" and ranks.device.type == "cpu" and ranks.world_size == 1
        self.copy = WorkingCopy(self.model, plan.precision) if own_copy else None
        self.forward = self._wrap(self.model if self.copy is None else self.copy.network)
        self.vote = Vote(ranks)
        self.plateau = Plateau()
        self.epoch = self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.seconds = self.warm_up_seconds = 0.0
        wide = torch.float32 if ranks.device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, dtype=wide, device=ranks.device)  # loss and hits of this epoch, on this rank
        self.epoch_seconds = self.epoch_wait = 0.0
        self._timed_steps = 0
        self._drawn_at = time.monotonic()
        self._started_at = self._saved_at = time.perf_counter()
        self._between_epochs = 0.0  # seconds that the last validation and checkpoint took
        self._train_loader: Loader | None = None
        self._val_loader: Loader | None = None

    def _wrap(self, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        module: Any = torch.compile(network) if self.plan.compile else network
        if self.ranks.world_size > 1:
            devices = [self.ranks.device] if self.ranks.device.type == "cuda" else None
            module = torch.nn.parallel.DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)
        return module  # type: ignore[no-any-return]

    def run(self) -> None:
        """Train from where the run stands to its end.

        Raises:
            StoppedError: by a signal, after writing a checkpoint.
            AlexNetFastError: the loss is not a number any more.
        """
        while self.step < self.plan.stop_at:
            self._run_epoch()

    # -----------------------------------------------------------------------------------------------------------------
    # One step, one epoch

    def take_step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One optimiser step on a batch of this rank; returns the learning rate. Nothing in it waits for a GPU."""
        recipe, ranks = self.plan.recipe, self.ranks
        rate = learning_rate(recipe, self.step, self.plan.total_steps, self.plateau.scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout and noise are drawn from (seed, step, rank), not from a generator that runs through the training: so a
        # resumed run needs no state of one.
        seed = int(uniform(self.plan.config.seed, self.step, [0], _STEP_STREAM)[0] * 2**48)
        torch.manual_seed(seed + ranks.rank)
        if recipe.color_noise:
            images = add_color_noise(
                images, recipe.color_noise, seed=seed, rank=ranks.rank, world_size=ranks.world_size
            )
        with self.plan.precision.autocast():
            logits = self.forward(images)
        loss = cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.copy is not None:
            self.copy.hand_over_gradients()
        if recipe.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.copy is not None:
            self.copy.take_weights()
        if self.mean is not None:
            self.mean.update(self.step)
        hits = (logits.detach().argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach().to(self.sums.dtype) * len(labels), hits.to(self.sums.dtype)])
        self.step += 1
        return rate

    def _run_epoch(self) -> None:
        plan = self.plan
        first = self.step % plan.steps_per_epoch
        loader = self._loader_of(self.epoch)
        loader.load_state({"epoch": self.epoch, "step": first})
        self.forward.train()  # type: ignore[attr-defined]
        log_every = _LOG_EVERY.get(self.ranks.device.type, _LOG_EVERY_ELSEWHERE)
        with self._progress(f"epoch {self.epoch + 1}/{plan.recipe.epochs}") as progress:
            progress.start(len(loader) * plan.recipe.batch_size)
            progress.advance(first * plan.recipe.batch_size)
            rate = 0.0
            for images, labels in self._timed(loader):
                rate = self.take_step(images, labels)
                progress.advance(plan.recipe.batch_size)
                if self.step % log_every == 0:
                    self._look(progress)
                stop, save = self.vote(self.stops.wish, self._is_save_due())
                if stop:
                    self._stop(stop)
                done = self.step % plan.steps_per_epoch == 0
                if self.step >= plan.stop_at and not done:
                    self.save()
                    return
                every = plan.config.checkpoint_steps
                if not done and (save or (every is not None and self.step % every == 0)):
                    self.save()
        self._end_epoch(rate)

    def _is_save_due(self) -> bool:
        """By this rank's clock."""
        seconds = self.plan.config.checkpoint_seconds
        return seconds is not None and time.perf_counter() - self._saved_at >= seconds

    def _timed(self, loader: Loader) -> Iterator[Batch]:
        """The batches, with the time of the epoch and the share of it spent waiting for them taken down.

        A wait counts only while the device has nothing left to do; the host runs ahead of a GPU. The first step of a
        start is warm-up and counts in neither.
        """
        device = self.ranks.device
        batches = iter(loader)
        idle: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        mark = time.perf_counter()
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            waited = time.perf_counter() - begin
            if batch is None:
                break
            busy = idle is not None and not idle.query()
            yield batch
            if idle is not None:
                idle.record()
            now = time.perf_counter()
            if self.warm_up_seconds == 0:
                synchronize(device)
                now = time.perf_counter()
                self.warm_up_seconds = now - self._started_at
            else:
                self.epoch_seconds += now - mark
                self.epoch_wait += 0.0 if busy else waited
                self._timed_steps += 1
            mark = now
        synchronize(device)
        self.epoch_seconds += time.perf_counter() - mark

    def _end_epoch(self, rate: float) -> None:
        plan = self.plan
        loss, hits = self._epoch_means()
        self._check(loss)
        begin = time.perf_counter()
        row: dict[str, Any] = {"epoch": self.epoch + 1, "train_loss": loss, "train_top1": hits}
        row |= self._validate()
        speed = self._timed_steps * plan.recipe.batch_size / self.epoch_seconds if self._timed_steps else None
        row |= {
            "lr": rate,
            "images_per_s": speed and round(speed, 2),
            "data_wait": round(self.epoch_wait / self.epoch_seconds, 4) if self.epoch_seconds else 0.0,
            "seconds": round(self.epoch_seconds, 3),
        }
        error = 1 - row["val_top1"] if row["val_top1"] is not None else loss
        self.plateau.update(plan.recipe, error)
        self.rows.append(row)
        self.epoch += 1
        self.sums.zero_()
        self.epoch_seconds = self.epoch_wait = 0.0
        self._timed_steps = 0
        self.save(best=self.best_row() is row)
        self._between_epochs = time.perf_counter() - begin
        self._report(row)

    def _epoch_means(self) -> tuple[float, float]:
        n = (self.step - self.epoch * self.plan.steps_per_epoch) * self.plan.recipe.batch_size
        loss, hits = self.ranks.sum(self.sums.clone()).tolist()
        return loss / n, hits / n

    def _validate(self) -> dict[str, Any]:
        split = self.info.splits.get("val")
        if split is None or not split.labelled or split.records == 0:
            return {"val_loss": None, "val_top1": None, "val_top5": None}
        if self._val_loader is None:
            self._val_loader = self._open("val", False, self.plan.config.image_size)
        network = copy.deepcopy(self.model) if self.mean is not None else self.model
        if self.mean is not None:
            network.load_state_dict(self.mean.state)
        found = score(network, self._val_loader, self.plan.precision, self.ranks)
        return {"val_loss": found.loss, "val_top1": found.top1, "val_top5": found.top5}

    # -----------------------------------------------------------------------------------------------------------------
    # Loaders

    def _open(self, split: str, train: bool, image_size: int) -> Loader:
        config = self.plan.config
        return open_loader(
            LoaderConfig(
                dataset=config.dataset, split=split, train=train, backend=self.plan.backend,
                batch_size=self.plan.per_rank, image_size=image_size, num_workers=config.num_workers,
                pin_memory=config.pin_memory, device=str(self.ranks.device), dtype=self.plan.precision.dtype,
                seed=config.seed, rank=self.ranks.rank, world_size=self.ranks.world_size,
                augmentation=self.plan.recipe.augmentation,
            )
        )  # fmt: skip

    def _loader_of(self, epoch: int) -> Loader:
        size = training_size(self.plan.recipe, epoch, self.plan.config.image_size)
        loader = self._train_loader
        if loader is None or loader.config.image_size != size:
            if loader is not None:
                loader.close()
            loader = self._train_loader = self._open("train", True, size)
            self.say(
                f"loader {loader.description}"
                + (f"; images of {size} pixels" if epoch or size < self.plan.config.image_size else "")
            )
        return loader

    def close(self) -> None:
        """Give back the loaders' workers and memory."""
        for loader in (self._train_loader, self._val_loader):
            if loader is not None:
                loader.close()
        self._train_loader = self._val_loader = None

    # -----------------------------------------------------------------------------------------------------------------
    # Saying and keeping

    def _progress(self, label: str) -> Any:
        return progress_bar(label) if self.ranks.is_main else nullcontext(NoProgress())

    def _look(self, progress: Progress) -> None:
        n = max(1, (self.step - self.epoch * self.plan.steps_per_epoch) * self.plan.per_rank)
        loss, hits = (self.sums / n).tolist()
        self._check(loss)
        wait = self.epoch_wait / self.epoch_seconds if self.epoch_seconds else 0.0
        progress.note(step_note(loss, hits, wait, self._seconds_left()))

    def _seconds_left(self) -> float | None:
        """Until the end of the run at the pace of this epoch, or of the last; None before there is one."""
        plan, steps = self.plan, self.plan.stop_at - self.step
        if self._timed_steps:
            pace = self.epoch_seconds / self._timed_steps
        elif self.rows:
            pace = self.rows[-1]["seconds"] / plan.steps_per_epoch
        else:
            return None
        return steps * pace + math.ceil(steps / plan.steps_per_epoch) * self._between_epochs

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            where = f"epoch {self.epoch + 1}, step {self.step}"
            rate = self.plan.recipe.lr
            raise AlexNetFastError(
                f"the loss is no number any more ({loss}, {where}): train anew with a lower --lr than {rate:g}"
                + ("" if self.plan.precision.name == "fp32" else " or with --precision fp32")
            )

    def _report(self, row: Mapping[str, Any]) -> None:
        self.say(epoch_line(row, self.plan.recipe.epochs, self._seconds_left()))
        if self.folder is not None:
            self.folder.write_rows(self.rows)
            self.folder.log_to_tensorboard(row, first=len(self.rows) == 1)
            if time.monotonic() - self._drawn_at > _DRAW_SECONDS:
                self.draw()

    def draw(self) -> None:
        """Bring curves.png up to date."""
        if self.folder is None or not self.rows:
            return
        from ..plots import plot_curves

        title = f"{self.plan.config.model}, {self.plan.recipe.name}: {self.folder.path.name}"
        plot_curves(self.rows, self.folder.path / CURVES, title=title)
        self._drawn_at = time.monotonic()

    def best_row(self) -> dict[str, Any] | None:
        """The first epoch with the highest validation top-1, None where nothing was validated."""
        validated = [row for row in self.rows if row["val_top1"] is not None]
        return max(validated, key=lambda row: row["val_top1"], default=None)

    def _stop(self, number: int) -> None:
        if self.step % self.plan.steps_per_epoch == 0:
            self._end_epoch(self.optimizer.param_groups[0]["lr"])
        else:
            self.save()
        self.draw()
        name = signal.Signals(number).name
        command = resume_command(self.plan.config, self.folder.path) if self.folder is not None else ""
        raise StoppedError(f"stopped by {name} after step {self.step}; go on with: {command}", number)

    def save(self, *, best: bool = False) -> None:
        """Write the checkpoint of this moment; every rank takes part."""
        sums = self.ranks.sum(self.sums.clone())
        self._check(float(sums[0]))
        now = time.perf_counter()
        self.seconds += now - self._started_at
        self._started_at = self._saved_at = now
        if self.folder is not None:
            save_checkpoint(self.folder.path, self._state(sums), best=best)
        self.ranks.barrier()

    def _state(self, sums: torch.Tensor) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.mean.state if self.mean is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "order": {
                "epoch": self.epoch,
                "step": self.step % self.plan.steps_per_epoch,
                "seed": self.plan.config.seed,
            },
            "epoch": self.epoch,
            "step": self.step,
            "plateau": asdict(self.plateau),
            "sums": sums,
            "clock": [self.seconds, self.epoch_seconds, self.epoch_wait, self._timed_steps],
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
            self.model.load_state_dict(state["model"])
            if self.copy is not None:
                self.copy.take_weights()
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.mean is not None:
                self.mean.load(state["ema"])
            self.epoch, self.step = int(state["epoch"]), int(state["step"])
            self.plateau = Plateau(**state["plateau"])
            self.sums.copy_(state["sums"] if self.ranks.is_main else torch.zeros(2))
            self.seconds, self.epoch_seconds, self.epoch_wait, self._timed_steps = state["clock"]
            self.rows = [dict(row) for row in state["rows"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DamagedDataError(f"the checkpoint does not fit this run ({reason}): give another --run-dir") from None
        if self.folder is not None:
            self.folder.write_rows(self.rows)
