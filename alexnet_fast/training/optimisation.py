"""What changes the weights: the optimiser with its groups, the running mean of the weights, the colour noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..images import IMAGENET_STD
from ..models import AlexNet, Precision, copy_for_computing
from ..system import to_device
from .recipes import Recipe

# Principal components of the RGB values of ImageNet's training images on a scale of 0 to 1, in the wide-spread
# figures of Krizhevsky's cuda-convnet: the standard deviations and, in columns, the directions.
_COLOR_STD = (0.2175, 0.0188, 0.0045)
_COLOR_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_EMA_EVERY = 5


def make_optimizer(model: nn.Module, recipe: Recipe, device_type: str) -> torch.optim.Optimizer:
    """SGD or Adam in one fused kernel where there is one, with norms and biases in a group of their own."""
    learning = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learning if p.ndim > 1]
    others = [p for p in learning if p.ndim <= 1]
    decay = recipe.weight_decay
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}]
    groups.append({"params": others, "weight_decay": decay if recipe.decay_norms_and_biases else 0.0})
    fused = device_type in ("cuda", "cpu", "mps")
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)


class WeightMean:
    """Exponential running mean of a network's weights and batch statistics (Polyak and Juditsky 1992).

    It moves every five steps by the decay of five: the mean of neighbouring steps differs little, and on a CPU each
    move reads and writes the whole network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(model.state_dict())
        self.state = {name: value.detach().clone() for name, value in self._live.items()}
        floats = [name for name, value in self.state.items() if value.is_floating_point()]
        self._pairs = [(self.state[name], self._live[name]) for name in floats]
        self._counts = [(self.state[name], self._live[name]) for name in self.state if name not in set(floats)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step`, counted from 0."""
        if (step + 1) % _EMA_EVERY:
            return
        # The mean must not remember the random start: at first it follows the weights closely.
        decay = min(self.decay**_EMA_EVERY, (step + 1) / (step + 1 + 10 * _EMA_EVERY))
        torch._foreach_lerp_([mean for mean, _ in self._pairs], [live for _, live in self._pairs], 1 - decay)
        for mean, live in self._counts:
            mean.copy_(live)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a saved mean."""
        for name, value in self.state.items():
            value.copy_(state[name])


class WorkingCopy:
    """A bf16 network that computes the gradients by which the optimiser moves the float32 one.

    Instead of autocast on a CPU: at batch 32, `alexnet` at 224 pixels takes 12% fewer CPU seconds a step.

    Attributes:
        network: what forward and backward go through.
    """

    def __init__(self, model: AlexNet, precision: Precision) -> None:
        self.network = copy_for_computing(model, precision)
        both = zip(self.network.parameters(), model.parameters(), strict=True)
        pairs = [(mine, theirs) for mine, theirs in both if mine is not theirs]
        self._frozen = [pair for pair in pairs if not pair[1].requires_grad]
        pairs = [pair for pair in pairs if pair[1].requires_grad]
        self._mine: list[torch.Tensor] = [mine for mine, _ in pairs]
        self._theirs: list[torch.Tensor] = [theirs for _, theirs in pairs]
        self._gradients = [torch.zeros_like(p) for p in self._theirs]

    def hand_over_gradients(self) -> None:
        """Give the network's gradients to the float32 weights."""
        torch._foreach_copy_(self._gradients, [p.grad for p in self._mine if p.grad is not None])
        for mine, theirs, gradient in zip(self._mine, self._theirs, self._gradients, strict=True):
            mine.grad, theirs.grad = None, gradient

    @torch.no_grad()
    def take_weights(self, *, frozen: bool = False) -> None:
        """Round the float32 weights into the network; those that do not learn as well where `frozen` says so."""
        torch._foreach_copy_(self._mine, self._theirs)
        for mine, theirs in self._frozen if frozen else ():
            mine.copy_(theirs)


def add_color_noise(images: torch.Tensor, std: float, *, seed: int, rank: int = 0, world_size: int = 1) -> torch.Tensor:
    """Shift the colours of each image along ImageNet's principal components (Krizhevsky et al. 2012, section 4.1).

    Args:
        images: (N, 3, S, S), normalised; returned changed, not in place.
        std: of the random factor on each component; 0.1 in the paper.
        seed: of this step; the noise of an image follows from its place in the global batch, however many ranks.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(len(images) * world_size, 3, generator=generator)[rank::world_size] * std
    shift = (factors * torch.tensor(_COLOR_STD)) @ torch.tensor(_COLOR_AXES).T / torch.tensor(IMAGENET_STD)
    return images + to_device(shift.to(images.dtype), images.device).view(-1, 3, 1, 1)
