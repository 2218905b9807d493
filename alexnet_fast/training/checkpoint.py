"""Checkpoints: written in one step, the newest two kept, loaded without running code from them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..dataset import MANIFEST, ClassInfo
from ..errors import AlexNetFastError, DamagedDataError, UsageError
from ..models import AlexNet, create_model
from ..system import sync_folder
from .weights import read_file, read_weights

FORMAT_VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, best: bool = False) -> None:
    """Write `state` as FOLDER/last.pt; what was there becomes previous.pt.

    At every moment of this, and after a crash at any, last.pt or previous.pt is a whole checkpoint.

    Args:
        state: nested dicts and lists of tensors, numbers, strings, booleans and None.
        best: also make it best.pt (another name of the same file where the file system can).

    Raises:
        AlexNetFastError: the disk is full or cannot be written.
    """
    last = folder / LAST
    aside = folder / f".{LAST}.tmp"
    try:
        with open(aside, "wb") as file:
            torch.save({"format": FORMAT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            _copy_name(last, folder / PREVIOUS)
        os.replace(aside, last)
        if best:
            _copy_name(last, folder / BEST)
        sync_folder(folder)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        # torch reports a failed write as a RuntimeError of its zip writer.
        why = error.strerror if isinstance(error, OSError) else "the disk may be full"
        raise AlexNetFastError(
            f"the checkpoint could not be written to {folder} ({why}): make room and go on with --resume"
        ) from None


def _copy_name(source: Path, target: Path) -> None:
    """Give the file a second name, replacing what had it; a copy where hard links are not to be had."""
    aside = target.with_name(f".{target.name}.tmp")
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
    os.replace(aside, target)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of one checkpoint file, tensors on the CPU.

    Raises:
        UsageError: there is no such file, or a newer version wrote it.
        DamagedDataError: it is not a checkpoint of this package.
    """
    state = _load(path)
    if not isinstance(state.get("format"), int) or "model" not in state:
        raise DamagedDataError(
            f"{path} is not a checkpoint of alexnet-fast: give a run folder or its last.pt or best.pt"
        )
    if state["format"] != FORMAT_VERSION:
        raise UsageError(
            f"{path} has format {state['format']}, this version reads {FORMAT_VERSION}: use a newer version"
        )
    return state


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"there is no file {path}: give a run folder that `alexnet-fast train` wrote")
    return read_file(path)


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any], Path] | None:
    """The newest whole checkpoint of a run folder, and its path; None where none was written yet.

    Raises:
        DamagedDataError: there are checkpoints, and none can be read.
    """
    damage: DamagedDataError | None = None
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return load_checkpoint(path), path
        except DamagedDataError as error:
            damage = error
    if damage is not None:
        raise damage
    return None


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and what is needed to use it.

    Attributes:
        model: in evaluation mode, float32, on the CPU, with the weights to use (the running mean where one was kept).
        config: the run's config.json; for weights alone {model, image_size, recipe}, the last with
            width, hidden, dropout and stem_stride alone.
        classes: in label order; empty for weights that come without.
        image_size: side of the network's input, pixels.
        path: the file that was read.
        epoch, step: epochs and optimiser steps done, 0 where unknown.
        metrics: the last line of metrics at that point, or {}.
        note: what of the file was used or left out, '' where there was nothing to choose.
    """

    model: AlexNet
    config: dict[str, Any]
    classes: tuple[ClassInfo, ...]
    image_size: int
    path: Path
    epoch: int = 0
    step: int = 0
    metrics: Mapping[str, Any] | None = None
    note: str = ""

    @property
    def description(self) -> str:
        """The words for a report: 'alexnet-bn at 64 pixels, best.pt of epoch 7'."""
        when = f" of epoch {self.epoch}" if self.epoch else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.config['model']} at {self.image_size} pixels, {self.path.name}{when}{note}"


def load_run(run: Path | str) -> LoadedRun:
    """Load the network of RUN: a run folder (its best.pt, else last.pt), a checkpoint, or an AlexNet's weights.

    Weights may be torchvision's AlexNet or any network of `alexnet_fast.create_model` at 224 pixels, of any width, as
    trainers save them: bare, under a key such as state_dict or model, named by DataParallel or torch.compile, as a
    Lightning or timm checkpoint, in torch's or safetensors' format; and what `export` writes as .safetensors.

    Raises:
        UsageError: there is no such run, it holds no checkpoint yet, or the file is something else; the text says what.
        DamagedDataError: the file is damaged, or holds no weights.
    """
    path = Path(run)
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST, PREVIOUS) if (path / name).is_file()), path)
        if path.is_dir():
            raise UsageError(f"{path} holds no checkpoint (best.pt or last.pt): {_instead_of(path)}")
    elif re.match(r"[a-z][a-z0-9+.-]+:[/\\]", str(path)):  # a path has one slash where the URL had two
        url = str(path).replace(":/", "://", 1)
        raise UsageError(f"{url} is a URL, and weights are read from a disk: download the file, and give that")
    elif not path.exists():
        raise UsageError(f"there is no run {path}: give a folder that `alexnet-fast train` wrote, or a checkpoint file")
    content = _load(path)
    if "format" not in content:
        found = read_weights(path, content)
        config = {"model": found.name, "image_size": found.image_size, "recipe": dict(found.network)}
        return LoadedRun(found.model, config, found.classes, found.image_size, path, note=found.note)
    state = load_checkpoint(path)
    try:
        config = state["config"]
        recipe = config["recipe"]
        classes = tuple(ClassInfo(**c) for c in state["classes"])
        with torch.device("meta"):  # no time is lost on random weights that are replaced at once
            model = create_model(
                config["model"], len(classes), config["image_size"],
                **{name: recipe[name] for name in ("width", "dropout", "stem_stride")}, hidden=recipe.get("hidden"),
            )  # fmt: skip
        model.load_state_dict(state["ema"] if state.get("ema") is not None else state["model"], assign=True)
        rows = state["rows"]
        epoch, step = int(state["epoch"]), int(state["step"])
    except (KeyError, TypeError, RuntimeError, AlexNetFastError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedDataError(f"{path} is damaged ({reason}): use another checkpoint of the run") from None
    return LoadedRun(
        model=model.eval(),
        config=config,
        classes=classes,
        image_size=config["image_size"],
        path=path,
        epoch=epoch,
        step=step,
        metrics=rows[-1] if rows else {},
    )


def _instead_of(folder: Path) -> str:
    """What to give in place of a folder without checkpoints."""
    if (folder / MANIFEST).is_file():
        return "it is a packed data set; give the run folder that `alexnet-fast train` wrote"
    weights = sorted(p.name for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".tar"))
    return f"give one of its files, such as {weights[0]}" if weights else "train into it first"
