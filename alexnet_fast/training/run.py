"""A training run from its config to its summary: start or resume, train, finish."""

from __future__ import annotations

import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import TrainConfig
from ..dataset import DatasetInfo, ShardReader, read_dataset_info
from ..errors import StoppedError, StorageError, UsageError
from ..models import PUBLISHED_SIZE, measured_gain
from ..plots import best_row
from ..system import StopSignals, available_memory, follow_usable_cores
from ..words import counted
from .checkpoint import BEST, LAST, newest_checkpoint
from .distributed import Ranks, join_ranks
from .fit import fit_verdict
from .log import balanced, duration, memory_note
from .plan import Plan, Say, apply_loader_settings, differences, plan_run, resume_command
from .recipes import adapted, learning_rate, named_recipes
from .run_folder import RunFolder, default_run_dir
from .trainer import Trainer

_WAIT_WORTH_A_WORD = 0.2
_LARGE = 1.5  # times the mean size of a class: from there on its share is worth a line


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        run_dir: where everything is.
        rows: one per epoch, as in metrics.jsonl.
        summary: what summary.json holds.
        dataset: that it trained on.
        warm_up_seconds: until the end of the last start's first step: workers, compilation, first allocations.
        loader_measured: the loader's settings are a measurement's, so that there is no point in asking for one.
    """

    run_dir: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    dataset: Path | str
    warm_up_seconds: float
    loader_measured: bool = False

    def __repr__(self) -> str:
        return f"<run {self.run_dir}: {self.closing_lines().splitlines()[0]}>"

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best epoch by validation top-1; None where there is no val split or no whole epoch."""
        return self.summary["best"]  # type: ignore[no-any-return]

    @property
    def finished(self) -> bool:
        """False where max_steps ended the run before its epochs."""
        return bool(self.summary["finished"])

    @property
    def step(self) -> int:
        """Optimiser steps done in all."""
        return int(self.summary["totals"]["steps"])

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its starts."""
        return float(self.summary["totals"]["seconds"])

    def closing_lines(self) -> str:
        """What to tell the person who started it: the result, where it is, and what to do next."""
        lines = []
        steps = counted(self.step, "step")
        still = self.summary["stands_still"]
        if self.best is not None and "still" not in self.best and not still:
            lines.append(
                f"best epoch {self.best['epoch']}: validation top-1 {self.best['val_top1']:.2%}"
                f"{balanced(self.best)}, top-5 {self.best['val_top5']:.2%}, loss {self.best['val_loss']:.4f}"
            )
        elif self.rows:
            validated = "nothing was validated" if self.best is None else "no epoch is better than guessing"
            lines.append(f"training top-1 {self.rows[-1]['train_top1']:.2%}; {validated}")
        if not self.finished:
            lines.append(f"stopped after {steps} as asked; the checkpoint is {self.run_dir / LAST}")
        if still or (self.finished and self.best is not None):
            lines.append(self.summary["verdict"])
        waits = [row["data_wait"] for row in self.rows]
        if waits and sum(waits) / len(waits) > _WAIT_WORTH_A_WORD and not self.loader_measured:
            lines.append(
                f"{sum(waits) / len(waits):.0%} of the training time went by waiting for data: "
                f"`alexnet-fast bench-loader {_quote(self.dataset)}` finds better loader settings"
            )
        warm_up = f" ({duration(self.warm_up_seconds)} of warm-up)" if self.warm_up_seconds else ""
        lines.append(f"{steps} in {duration(self.seconds)}{warm_up}; all of it is in {self.run_dir}")
        if self.best is not None:
            lines.append(f"next: alexnet-fast evaluate {_quote(self.run_dir)} {_quote(self.dataset)}")
        return "\n".join(lines)


def train(config: TrainConfig, *, say: Say | None = None) -> TrainResult | None:
    """Train as `config` asks, or go on with a run; under torchrun, as one of its processes.

    Args:
        say: what to do with each line of the log; None prints it.

    Returns:
        The result; None on ranks other than 0.

    Raises:
        UsageError: the data set, the options or the run folder do not fit; the text says what to change.
        DamagedDataError: a record, or the checkpoint, is damaged.
        StoppedError: Ctrl-C or SIGTERM; a checkpoint was written.
        AlexNetFastError: the loss is not a number any more, or the disk is full.
    """
    follow_usable_cores()
    with StopSignals(answer="stopping; no step was done yet", grace=2.0) as stops:
        stops.last_words = _stopped_early
        try:
            with join_ranks(config.device) as ranks:
                return _train(config, ranks, stops, (say or _print) if ranks.is_main else lambda line: None)
        except KeyboardInterrupt:
            if not stops.received or stops.gentle:
                raise
            raise StoppedError(_stopped_early(stops.received), stops.received) from None


def _print(line: str) -> None:
    print(line, flush=True)


def _stopped_early(number: int) -> str:
    return f"stopped by {signal.Signals(number).name} before a step was done: start again with the same command"


@dataclass(frozen=True)
class _Start:
    """What the main process finds and decides before the first step."""

    folder: RunFolder
    plan: Plan
    saved: tuple[dict[str, Any], Path] | None
    stored: dict[str, Any] | None


def _train(config: TrainConfig, ranks: Ranks, stops: StopSignals, say: Say) -> TrainResult | None:
    config = apply_loader_settings(config, say)
    info = read_dataset_info(config.dataset)
    _check_dataset(config, info)
    start: _Start | None = None

    def begin() -> tuple[str, dict[str, Any] | None, bool]:
        nonlocal start
        start = _open(config, info, ranks)
        return str(start.folder.path), start.stored, start.saved is not None

    run_dir, stored, goes_on = ranks.on_main(begin)
    try:
        plan = start.plan if start is not None else plan_run(config, info, ranks, stored)
        folder = start.folder if start is not None else None
        trainer = Trainer(plan, info, ranks, folder, stops, say, resumed=goes_on)
        _introduce(plan, info, ranks, run_dir, say)
        if goes_on:
            saved = start.saved if start is not None else newest_checkpoint(Path(run_dir))
            assert saved is not None and stored is not None
            trainer.load(saved[0])
            say(_going_on(trainer, plan, saved[1], stored))
        elif config.resume:
            say(f"{run_dir} holds no checkpoint yet: starting at the beginning")
        try:
            trainer.run()
        finally:
            trainer.data.close()
        return _finish(trainer, plan, folder) if folder is not None else None
    except UsageError:
        if start is not None:
            start.folder.discard()
        raise
    finally:
        if start is not None:
            start.folder.close()


def _open(config: TrainConfig, info: DatasetInfo, ranks: Ranks) -> _Start:
    folder = RunFolder(_run_dir(config), resume=config.resume)
    try:
        saved = newest_checkpoint(folder.path) if folder.has_checkpoint() else None
        # Without a checkpoint there is nothing to go on with, and other options may be given.
        stored = folder.read_config() if saved is not None else None
        if saved is not None and stored is None:
            raise UsageError(f"{folder.path} holds checkpoints without their config.json: give another --run-dir")
        plan = plan_run(config, info, ranks, stored)
        if saved is not None and stored is not None:
            _check_same(folder.path, plan, stored, int(saved[0]["epoch"]))
        folder.write_config({**plan.record, "command": resume_command(config, folder.path)})
    except BaseException:
        folder.discard()
        raise
    return _Start(folder, plan, saved, stored)


def _run_dir(config: TrainConfig) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir)
    if config.resume:
        raise UsageError("--resume needs the run folder to go on with: add --run-dir FOLDER")
    return default_run_dir(config.model, config.recipe)


def _check_dataset(config: TrainConfig, info: DatasetInfo) -> None:
    if "train" not in info.splits:
        raise UsageError(
            f"{config.dataset} has no train split (it has: {', '.join(info.splits) or 'none'}): "
            "pack a source that has one, or name it with `pack --split train=FOLDER`"
        )
    if not info.splits["train"].labelled:
        raise UsageError(f"the train split of {config.dataset} has no labels, so there is nothing to learn from it")


def _check_same(run_dir: Path, plan: Plan, stored: dict[str, Any], epochs_done: int) -> None:
    """Make sure that the run which is there is the one asked for; only the number of its epochs may change."""
    found = list(differences(stored, plan.record))
    if found:
        raise UsageError(
            f"{run_dir} holds another run ({'; '.join(found)}): "
            "resume it with its own options, or give another --run-dir"
        )
    if plan.recipe.epochs < epochs_done:
        raise UsageError(
            f"{run_dir} has {counted(epochs_done, 'epoch')} behind it, and {plan.recipe.epochs} were asked for: "
            f"use --epochs {epochs_done} or more, or give another --run-dir"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Words at the beginning and the end


def _introduce(plan: Plan, info: DatasetInfo, ranks: Ranks, run_dir: str, say: Say) -> None:
    recipe, precision = plan.recipe, plan.precision
    say(
        f"{plan.config.model} ({plan.parameters / 1e6:.2f} M parameters, {counted(info.num_classes, 'class')}, "
        f"{plan.image_size} pixels) on {counted(info.split('train').records, 'image')}; run folder {run_dir}"
    )
    say(
        f"recipe {recipe.name}: {counted(recipe.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}, "
        f"batch {recipe.batch_size}, {recipe.optimizer}, peak rate {recipe.lr:g}, {recipe.schedule}"
    )
    if plan.config.image_size == "auto" and plan.image_size < PUBLISHED_SIZE:
        say(
            f"image size {plan.image_size}, the images' own: {PUBLISHED_SIZE} would enlarge them and cost "
            f"{(PUBLISHED_SIZE / plan.image_size) ** 2:.0f} times the pixels (--image-size {PUBLISHED_SIZE})"
        )
    changes = adapted(recipe, plan.config.model, plan.total_steps)
    if changes is not None:
        say(changes)
    smallest = named_recipes()[recipe.name].start_size
    if recipe.start_size > smallest and "start_size" not in plan.config.overrides:
        say(
            f"images grow from {recipe.start_size:g} of their side, not {smallest:g} as recipe {recipe.name} has it: "
            "smaller ones leave this network no pixel (--set start_size=X)"
        )
    gain = measured_gain(precision)
    measured = f"; a matrix product runs {gain:.1f} times as fast as in fp32" if gain is not None else ""
    count = f"{ranks.world_size} processes, each on " if ranks.world_size > 1 else ""
    say(f"precision {precision.name} on {count}{ranks.device} ({precision.reason}{measured})")
    short = memory_note(recipe, plan.parameters, available_memory() if ranks.device.type == "cpu" else None)
    if short is not None:
        say(short)
    _introduce_splits(plan, info, say)


def _introduce_splits(plan: Plan, info: DatasetInfo, say: Say) -> None:
    """What of the data has to be known to read the accuracies: no validation, one class, or a large one."""
    name = plan.config.val_split
    val = info.splits.get(name)
    if val is None or not val.labelled or not val.records:
        why = "no such split" if val is None else "no labels in it" if not val.labelled else "no images in it"
        others = [n for n, s in info.splits.items() if n not in ("train", name) and s.labelled and s.records]
        hint = f"; --val-split {others[0]} validates on split {others[0]}, which has labels" if others else ""
        say(f"validation on split {name}: {why}, so nothing will be validated, and no best epoch chosen{hint}")
    if info.num_classes == 1:
        say("the data set has 1 class: every answer is right, and there is nothing to learn")
        return
    for split in ("train", name):
        if split not in info.splits or not info.splits[split].labelled or not info.splits[split].records:
            continue
        reader = ShardReader(plan.config.dataset, split, plan.config.cache, plan.config.cache_bytes)
        try:
            counts = np.bincount(reader.labels, minlength=info.num_classes)
        finally:
            reader.close()
        share = counts.max() / counts.sum()
        if share > _LARGE * counts.mean() / counts.sum():
            label = info.classes[int(counts.argmax())].name.partition(",")[0]
            say(
                f"{split}: {label} has {share:.1%} of the images, so always answering it gives that top-1; "
                "balanced accuracy counts each class alike"
            )


def _going_on(trainer: Trainer, plan: Plan, path: Path, stored: dict[str, Any]) -> str:
    """Where a resumed run stands, and what has changed about its schedule."""
    epochs, before = plan.recipe.epochs, stored["recipe"]["epochs"]
    done = trainer.step.done
    if trainer.epoch >= epochs:
        return f"going on from {path.name}: all {epochs} epochs are done"
    line = f"going on from {path.name}: epoch {trainer.epoch + 1} of {epochs}, step {done}"
    if epochs != before:
        rate = learning_rate(plan.recipe, done, plan.total_steps, trainer.step.plateau.scale)
        line += (
            f"; the run had {counted(before, 'epoch')} and has {epochs} now: from here on the rate follows the "
            f"{plan.recipe.schedule} schedule of {counted(epochs, 'epoch')}, {trainer.step.rate:.3g} before and "
            f"{rate:.3g} next"
        )
    return line


def _finish(trainer: Trainer, plan: Plan, folder: RunFolder) -> TrainResult:
    rows, clock, steps = trainer.rows, trainer.clock, trainer.step.done
    best = best_row(rows)
    images = steps * plan.recipe.batch_size
    summary = {
        "best": best,
        "last": rows[-1] if rows else None,
        "totals": {
            "epochs": len(rows),
            "steps": steps,
            "images": images,
            "pictures": images,  # the old name of images
            "seconds": round(clock.seconds, 3),
            "training_seconds": round(sum(row["seconds"] for row in rows), 3),
            "warm_up_seconds": round(clock.warm_up_seconds, 3),
            "parameters": plan.parameters,
        },
        "finished": steps >= plan.total_steps,
        "verdict": fit_verdict(rows),
        "stands_still": bool(rows) and "still" in rows[-1],
        "checkpoint": BEST if best is not None else LAST,
        "hardware": plan.record["hardware"],
        "versions": plan.record["versions"],
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        folder.write_summary(summary)
    except StorageError as error:  # a finished run is not lost for want of some room: its checkpoint is written
        trainer.say(f"summary.json is not written: {error}")
    try:
        trainer.draw()
    except KeyboardInterrupt:
        trainer.say("curves.png is not up to date: stopped while it was drawn")
    return TrainResult(
        folder.path, rows, summary, plan.config.dataset, clock.warm_up_seconds,
        loader_measured=plan.config.loader_settings is not None,
    )  # fmt: skip


def _quote(path: Path | str) -> str:
    return shlex.quote(str(path))
