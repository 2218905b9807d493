"""Checkpoints: written in one step, the newest two kept, loaded without running code from them."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..dataset import ClassInfo
from ..errors import AlexNetFastError, DamagedDataError, UsageError
from ..models import ARCHITECTURES, AlexNet, create_model
from ..system import sync_folder

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
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # torch raises half a dozen kinds for a file that is cut or is something else
        raise DamagedDataError(
            f"{path} is damaged or is not a checkpoint ({type(error).__name__}): use another checkpoint of the run"
        ) from None
    if not isinstance(state, dict):
        raise DamagedDataError(f"{path} holds a {type(state).__name__} where a checkpoint is a dict: use another file")
    return state


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


def _check_sums(path: Path) -> None:
    """Compare each part of a checkpoint with its CRC-32, which torch.load does not: a flipped bit would go unseen."""
    if not zipfile.is_zipfile(path):
        return  # a state_dict in torch's format of before 1.6, which holds no sums
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(bad)


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and what is needed to use it.

    Attributes:
        model: in evaluation mode, float32, on the CPU, with the weights to use (the running mean where one was kept).
        config: the run's config.json; {"model", "image_size"} alone for a bare state_dict.
        classes: in label order; empty for a bare state_dict.
        image_size: side of the network's input, pixels.
        path: the file that was read.
        epoch, step: epochs and optimiser steps done, 0 where unknown.
        metrics: the last line of metrics at that point, or {}.
    """

    model: AlexNet
    config: dict[str, Any]
    classes: tuple[ClassInfo, ...]
    image_size: int
    path: Path
    epoch: int = 0
    step: int = 0
    metrics: Mapping[str, Any] | None = None

    @property
    def description(self) -> str:
        """The words for a report: 'alexnet-bn at 64 pixels, best.pt of epoch 7'."""
        when = f" of epoch {self.epoch}" if self.epoch else ""
        return f"{self.config['model']} at {self.image_size} pixels, {self.path.name}{when}"


def load_run(run: Path | str) -> LoadedRun:
    """Load the network of RUN: a run folder (its best.pt, else last.pt), a checkpoint, or an AlexNet state_dict.

    A state_dict file may be torchvision's AlexNet, or any network of `alexnet_fast.create_model` at 224 pixels.

    Raises:
        UsageError: there is no such run, or it holds no checkpoint yet.
        DamagedDataError: the file is damaged or holds something else.
    """
    path = Path(run)
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST, PREVIOUS) if (path / name).is_file()), path)
        if path.is_dir():
            raise UsageError(f"{path} holds no checkpoint (best.pt or last.pt): train into it first")
    elif not path.exists():
        raise UsageError(f"there is no run {path}: give a folder that `alexnet-fast train` wrote, or a checkpoint file")
    content = _load(path)
    if "format" not in content:
        return _from_state_dict(content, path)
    state = load_checkpoint(path)
    try:
        config = state["config"]
        recipe = config["recipe"]
        classes = tuple(ClassInfo(**c) for c in state["classes"])
        with torch.device("meta"):  # no time is lost on random weights that are replaced at once
            model = create_model(
                config["model"], len(classes), config["image_size"],
                **{name: recipe[name] for name in ("width", "dropout", "stem_stride")},
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


def _from_state_dict(content: Mapping[str, Any], path: Path) -> LoadedRun:
    tensors = {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    last = max((k for k in tensors if k.startswith("classifier.") and k.endswith(".weight")), default=None)
    if last is not None and len(tensors) == len(content):
        shapes = {k: v.shape for k, v in tensors.items()}
        for name in ARCHITECTURES:
            with torch.device("meta"):
                model = create_model(name, len(tensors[last]))
            if {k: v.shape for k, v in model.state_dict().items()} == shapes:
                model.load_state_dict(tensors, assign=True)
                return LoadedRun(model.eval(), {"model": name, "image_size": 224}, (), 224, path)
    raise DamagedDataError(
        f"{path} holds neither a checkpoint of alexnet-fast nor the weights of an AlexNet: give a run folder"
    )
