"""Starting from weights that are there: of a run, or an AlexNet's from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..dataset import ClassInfo
from ..errors import UsageError
from ..models import AlexNet
from ..words import counted
from .checkpoint import load_run


@torch.no_grad()
def take_weights(model: AlexNet, name: str, classes: Sequence[ClassInfo], source: Path | str) -> str:
    """Copy the weights of `source` into `model`; its last layer stays new where the classes are others.

    Args:
        name: of the network, as `alexnet_fast.create_model` takes it.
        classes: that `model` is to tell apart, in label order.
        source: what `load_run` reads: a run folder, a checkpoint, or an AlexNet's weights.

    Returns:
        What was taken, in a line for the log.

    Raises:
        UsageError: they are of another network, or of another size; the text says which.
        DamagedDataError: the file is damaged.
    """
    run = load_run(source)
    if run.config["model"] != name:
        raise UsageError(f"--init {source} holds {run.config['model']}: use --model {run.config['model']}")
    last = {f"classifier.{len(model.classifier) - 1}.{part}" for part in ("weight", "bias")}
    ours, theirs = model.state_dict(), run.model.state_dict()
    others = [key for key in ours if key not in last and (key not in theirs or ours[key].shape != theirs[key].shape)]
    if others:
        key = others[0]
        found = "x".join(map(str, theirs[key].shape)) if key in theirs else "missing"
        raise UsageError(
            f"--init {source} does not fit this network: {key} is {found} there and "
            f"{'x'.join(map(str, ours[key].shape))} here; use its own --image-size ({run.image_size}) and --set width"
        )
    same_size = all(ours[key].shape == theirs[key].shape for key in last)
    same = same_size and (not run.classes or [c.wnid for c in run.classes] == [c.wnid for c in classes])
    for key, value in ours.items():
        if same or key not in last:
            value.copy_(theirs[key])
    line = f"weights of {run.path}: " + (
        "all layers" if same else f"all layers but the last, which is new ({_why_new(run.classes, classes, run.model)})"
    )
    if same and not run.classes:
        line += f", taken to be of the same {counted(len(classes), 'class')}, which the file does not name"
    stride, before = _first_stride(model), _first_stride(run.model)
    if stride != before:
        line += f"; the first convolution strides by {stride} at this image size, and by {before} there"
    return line


def _first_stride(model: AlexNet) -> int:
    first = model.features[0]
    assert isinstance(first, nn.Conv2d)
    return first.stride[0]


def _why_new(theirs: Sequence[ClassInfo], ours: Sequence[ClassInfo], network: AlexNet) -> str:
    count = network.num_classes
    if count != len(ours):
        return f"{counted(count, 'class')} there, {len(ours)} here"
    return f"{counted(count, 'class')} as here, but others or in another order: {theirs[0].wnid} is the first there"


def freeze_features(model: AlexNet) -> None:
    """Let the convolutional layers keep their weights; only the fully connected layers learn."""
    model.features.requires_grad_(False)
