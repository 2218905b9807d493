"""Whether a run stands still, why, as measured on this run, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, cross_entropy

from ..models import AlexNet
from ..words import counted
from .recipes import Recipe

FEWEST_STEPS = 50  # below these a loss at ln(classes) says nothing yet
_FIRST_LOOK = 100
_SAMPLE = 4096  # weights of a layer whose way from the start is followed
_LEARNING = 0.99  # a loss below this share of guessing's is a sign of learning
# Far outside what runs that learn were seen to do in the tests of this module; not measured on other data.
_STILL_WEIGHTS, _RESTLESS_WEIGHTS = 1e-3, 3.0
_DEAD = 0.9
_VANISHED = 1e-3
_RELATED = 4.0
# Pairs of one class, the largest left out. Right labels of Tiny ImageNet came out below `_RELATED` in 1 of 16 drawings
# at 1,560 pairs (3 classes of 40), and in none at 1,990 or more; at 380 (2 classes of 20) in half of them.
_TELLING_PAIRS = 1_500
_ALL_BUT_ALL = 0.9  # a class with this share of the images leaves next to nothing to learn from the others
_SHUFFLES = 100
PROBE_IMAGES = 2048

T = TypeVar("T")
Probe = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def over_chance(hits: int, trials: int, chance: float, level: float = 1e-3) -> bool:
    """Whether so many hits are more than guessing gives, by an exact one-sided test at `level`."""
    if trials == 0 or hits <= chance * trials:
        return False
    if chance >= 1:
        return False
    tail = 0.0
    for k in range(hits, trials + 1):
        log = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        term = math.exp(log + k * math.log(chance) + (trials - k) * math.log1p(-chance))
        tail += term
        if term < 1e-9:
            break
    return tail < level


def beats_guessing(top1: float, labels: npt.NDArray[np.integer], level: float = 1e-3) -> bool:
    """Whether a share of right answers on these labels is more than always giving the largest class, as `over_chance`
    tells it."""
    chance = float(np.bincount(labels).max() / len(labels))
    return over_chance(round(top1 * len(labels)), len(labels), chance, level)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured on a run that stands still.

    Attributes:
        worst_loss, guessing_loss: the highest mean loss of a batch so far, and that of guessing by the classes' shares.
        moved: by layer, how far its weights are from where they began, as a share of their size then.
        dead: by layer, share of the units that give zero for every image of a batch.
        gradient: by layer, size of the gradient as a share of that of the weights.
        relation: by how many standard deviations the images of a class are more alike than under shuffled labels; None
            where there are too few images to tell.
        largest: share of the training images that the largest class has.
    """

    worst_loss: float
    guessing_loss: float
    moved: dict[str, float]
    dead: dict[str, float]
    gradient: dict[str, float]
    relation: float | None
    largest: float


def explain(found: Findings, *, rate: float, usual_rate: float) -> str:
    """The cause and what to do, in one or two sentences.

    Args:
        rate: peak learning rate of the run. usual_rate: that of its recipe.
    """
    layer, dead = max(found.dead.items(), key=lambda item: item[1])
    far, moved = max(found.moved.items(), key=lambda item: item[1])
    lower = min(rate / 10, usual_rate)
    if found.worst_loss > 2 * found.guessing_loss + 1 or moved > _RESTLESS_WEIGHTS:
        killed = f" and {dead:.0%} of the units of {layer} now give zero for every image" if dead >= _DEAD else ""
        return (
            f"Cause: the rate of {rate:g} is too high; the loss rose to {found.worst_loss:.3g}, {far} moved by "
            f"{moved:.3g} times its size{killed}. Train anew with --lr {lower:.1g}."
        )
    if dead >= _DEAD:
        return (
            f"Cause: {dead:.0%} of the units of {layer} give zero for every image and pass no gradient on. Train anew "
            f"with --lr {lower:.1g} or --set init=scaled."
        )
    if moved < _STILL_WEIGHTS and rate < usual_rate / 3:
        return (
            f"Cause: the rate of {rate:g} is too low; no layer has moved by more than {moved:.2g} of its size. Train "
            f"anew with --lr {usual_rate:g}, the recipe's own."
        )
    first, last = next(iter(found.gradient.items())), list(found.gradient.items())[-1]
    if first[1] < _VANISHED * last[1] or moved < _STILL_WEIGHTS:
        return (
            f"Cause: gradients vanish on their way back; they are {last[1]:.2g} of the weights in {last[0]} and "
            f"{first[1]:.2g} in {first[0]}. Train anew with --set init=scaled, or with --model alexnet-bn."
        )
    if found.largest >= _ALL_BUT_ALL:
        return _of_one_class(found.largest)
    if found.relation is not None and found.relation < _RELATED:
        return (
            f"Cause: the labels look shuffled; images of one class are no more alike than images of different classes "
            f"({found.relation:.1f} standard deviations), while the network's units are alive and its weights move. "
            "Look at `alexnet-fast inspect DATASET --grid grid.png`, and pack anew with the right labels."
        )
    if found.relation is None:
        labels = "there are too few images to tell whether the labels fit them"
    else:
        labels = f"images of a class are alike ({found.relation:.0f} standard deviations)"
    return (
        f"No cause was found: units are alive, {far} moved by {moved:.2g} of its size, and {labels}. More steps, or "
        "--model alexnet-bn, may help."
    )


def _of_one_class(share: float) -> str:
    return (
        f"Cause: one class has {share:.1%} of the images, so there is little to learn the others from. Pack more "
        "images of the other classes, or fewer of the large one."
    )


class Watch:
    """Follows the loss and the hits of a run, and says when they are no better than guessing.

    Attributes:
        sentence: what the last look said; None while the run learns, or before there was enough to look at.
    """

    def __init__(
        self, model: AlexNet, labels: npt.NDArray[np.integer], recipe: Recipe, *, usual_rate: float, total_steps: int
    ) -> None:
        """
        Args:
            model: with its initial weights.
            labels: of the training split.
            usual_rate: the recipe's peak rate, where the run has another.
        """
        shares = np.bincount(labels, minlength=model.num_classes) / max(1, len(labels))
        self._classes = int((shares > 0).sum())
        self._top1 = float(shares.max())
        smoothed = (1 - recipe.label_smoothing) * shares + recipe.label_smoothing / model.num_classes
        self._loss = float(-(smoothed[smoothed > 0] * np.log(smoothed[smoothed > 0])).sum())
        self._model, self._recipe, self._usual_rate = model, recipe, usual_rate
        self._warm = max(recipe.warmup * total_steps, min(recipe.warmup_steps, total_steps / 2))
        self._next = max(_FIRST_LOOK, math.ceil(self._warm) + FEWEST_STEPS)
        self.begin_here()
        self._steps = 0
        self._sums: torch.Tensor | None = None  # images, loss, hits, worst loss; on the device
        self._worst = 0.0
        self.sentence: str | None = None

    def begin_here(self) -> None:
        """Take the weights as they are for those that the run began with."""
        self._start = {
            name: (_sample(m).clone(), float(m.weight.detach().norm())) for name, m in _layers(self._model).items()
        }

    def add(self, loss: torch.Tensor, hits: torch.Tensor, images: int) -> None:
        """Take in a step: its mean loss and its hits, still on the device, and how many images it had."""
        if self._sums is None:
            self._sums = torch.zeros(4, device=loss.device)
        wide = loss.to(self._sums.dtype)
        self._sums[:3] += torch.stack([torch.full_like(wide, images), wide * images, hits.to(self._sums.dtype)])
        self._sums[3] = torch.maximum(self._sums[3], wide)
        self._steps += 1

    def is_due(self, step: int) -> bool:
        """Whether to look after so many steps: at 100 or after the warm-up, and each time the steps have doubled."""
        if step < self._next:
            return False
        self._next = 2 * step
        return True

    def look(self, step: int, probe: Probe) -> str | None:
        """Judge the steps since the last look; the sentence where they are no better than guessing.

        Args:
            step: optimiser steps done in all.
            probe: gives up to `PROBE_IMAGES` training images (N, 3, S, S), normalised, with their labels, on the CPU.
        """
        if self._sums is None or self._steps < FEWEST_STEPS or step < self._warm:
            return self.sentence
        images, loss, hits, worst = self._sums.tolist()
        self._worst = max(self._worst, worst)
        self._sums, self._steps = None, 0
        mean = loss / images
        if mean < _LEARNING * self._loss or over_chance(round(hits), round(images), self._top1):
            self.sentence = None
        elif self._classes < 2:
            self.sentence = "Stands still: all training images have one label. Pack two classes or more."
        else:
            found = self._measure(*probe())
            self.sentence = (
                f"Stands still after {step} steps: loss {mean:.3f} and top-1 {hits / images:.1%}, where guessing gets "
                f"{self._loss:.3f} and {self._top1:.1%}. "
                + explain(found, rate=self._recipe.lr, usual_rate=self._usual_rate)
            )
        return self.sentence

    def look_at_validation(
        self, step: int, top1: float, train_top1: float, labels: npt.NDArray[np.integer], probe: Probe
    ) -> str | None:
        """Judge a validation of a run that learns; the sentence where it is no better than guessing.

        Args:
            top1: share of right answers on validation. train_top1: on training.
            labels: of the validation split.
            probe: as in `look`, of the validation split.
        """
        # On 16 images of two classes 14 hits are not certain at 0.1%, and no sign of guessing either.
        if beats_guessing(top1, labels, level=0.05):
            return None
        shares = np.bincount(labels) / len(labels)
        words = f"Validation top-1 is {top1:.1%}, where guessing gets {shares.max():.1%}. "
        if (shares > 0).sum() < 2:
            return words + "All validation images have one label: validation says nothing here."
        if step < FEWEST_STEPS:
            return (
                words + f"The run has had {counted(step, 'step')}: {_FIRST_LOOK} are the fewest to learn something in."
            )
        if not over_chance(round(train_top1 * 10_000), 10_000, self._top1):
            if self._top1 >= _ALL_BUT_ALL:
                return words + _of_one_class(self._top1)
            return words + f"Training is at {train_top1:.1%}: it has hardly begun to learn, and needs more steps."
        relation = label_relation(*probe())
        if relation is not None and relation < _RELATED:
            return words + (
                f"Training reaches {train_top1:.1%}. Cause: the validation labels look shuffled; images of one class "
                f"are no more alike than others ({relation:.1f} standard deviations). Pack the split anew."
            )
        return words + (
            f"Training reaches {train_top1:.1%}: what it learned does not carry over. Cause: training labels that are "
            f"shuffled and were learned by heart, classes in another order than validation's, or "
            f"{counted(len(labels), 'validation image')}, which is too few to tell. "
            "Look at `alexnet-fast inspect DATASET --grid grid.png`."
        )

    def _measure(self, images: torch.Tensor, labels: torch.Tensor) -> Findings:
        weight = next(self._model.parameters())
        batch = images[:64].to(weight.device, weight.dtype), labels[:64].to(weight.device)
        moved = {}
        for name, module in _learning_layers(self._model).items():
            start, norm = self._start[name]
            size = max(float(start.norm()), 1e-12)
            moved[name] = max(
                float((_sample(module) - start).norm()) / size, float(module.weight.detach().norm()) / norm - 1
            )
        return Findings(
            worst_loss=self._worst, guessing_loss=self._loss, moved=moved,
            dead=_dead_units(self._model, batch[0]), gradient=_gradients(self._model, *batch),
            relation=label_relation(images, labels), largest=self._top1,
        )  # fmt: skip


def _layers(model: AlexNet) -> dict[str, nn.Conv2d | nn.Linear]:
    convolutions = [m for m in model.features if isinstance(m, nn.Conv2d)]
    linear = [m for m in model.classifier if isinstance(m, nn.Linear)]
    named: dict[str, nn.Conv2d | nn.Linear] = {f"convolution {i}": m for i, m in enumerate(convolutions, 1)}
    return named | {f"fully connected layer {i}": m for i, m in enumerate(linear, 1)}


def _learning_layers(model: AlexNet) -> dict[str, nn.Conv2d | nn.Linear]:
    """Those whose weights are not frozen."""
    return {name: m for name, m in _layers(model).items() if m.weight.requires_grad}


@torch.no_grad()
def _sample(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    flat = layer.weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE)]


@torch.no_grad()
def _dead_units(model: AlexNet, images: torch.Tensor) -> dict[str, float]:
    """By layer, the share of channels or units that are zero for every image and place."""
    names = [name for name in _layers(model) if name != list(_layers(model))[-1]]
    relus = [m for m in (*model.features, *model.classifier) if isinstance(m, nn.ReLU)]
    found: dict[str, float] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            found[name] = float((output.transpose(0, 1).flatten(1).amax(1) <= 0).float().mean())

        return hook

    hooks = [m.register_forward_hook(count(name)) for name, m in zip(names, relus, strict=True)]
    _in_evaluation(model, lambda: model(images))
    for hook in hooks:
        hook.remove()
    return found


def _gradients(model: AlexNet, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    layers = _learning_layers(model)
    weights = [m.weight for m in layers.values()]

    def differentiate() -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(cross_entropy(model(images), labels), weights)

    grads = _in_evaluation(model, differentiate)
    pairs = zip(layers, grads, weights, strict=True)
    return {name: float(g.norm() / w.detach().norm().clamp_min(1e-12)) for name, g, w in pairs}


def _in_evaluation(model: AlexNet, call: Callable[[], T]) -> T:
    training = model.training
    try:
        model.eval()
        return call()
    finally:
        model.train(training)


def label_relation(images: torch.Tensor, labels: torch.Tensor) -> float | None:
    """By how many standard deviations images of one class are more alike than they would be under shuffled labels.

    None where the classes have too few images to tell. A permutation test that needs no network and no learning: an
    image is described by its colours in an 8 x 8 grid and the strength of its edges, across and down, in a 4 x 4 grid.

    Args:
        images: (N, 3, S, S), normalised. labels: (N,) int64.
    """
    counts = torch.bincount(labels)
    sizes = counts.sort().values[:-1]
    if int((sizes * (sizes - 1) // 2).sum()) < _TELLING_PAIRS:
        return None
    x = images.float()
    across, down = (x[..., 1:] - x[..., :-1]).abs(), (x[..., 1:, :] - x[..., :-1, :]).abs()
    blurred = (x - avg_pool2d(x, 3, 1, 1)).abs()
    parts = [adaptive_avg_pool2d(x, 8), *(adaptive_avg_pool2d(part, 4) for part in (across, down, blurred))]
    features = torch.cat([part.flatten(1) for part in parts], 1)
    features = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
    counts = counts.clamp_min(1).to(features.dtype)

    def likeness(order: torch.Tensor) -> float:
        sums = torch.zeros(len(counts), features.shape[1]).index_add_(0, order, features)
        return float((sums.square().sum(1) / counts).sum())

    generator = torch.Generator().manual_seed(0)
    shuffled = [likeness(labels[torch.randperm(len(labels), generator=generator)]) for _ in range(_SHUFFLES)]
    return (likeness(labels) - float(np.mean(shuffled))) / max(float(np.std(shuffled)), 1e-9)
