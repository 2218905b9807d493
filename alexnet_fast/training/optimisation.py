"""What changes the weights: the optimiser with its groups, the running mean of the weights, the colour noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_ROUNDS, _QUINTIC = 5, (3.4445, -4.7750, 2.0315)
_OTHERS = 5.0


def make_optimizer(model: nn.Module, recipe: Recipe, device_type: str) -> torch.optim.Optimizer:
    """SGD or Adam in one fused kernel where there is one, with norms and biases in a group of their own."""
    learning = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learning if p.ndim > 1]
    others = [p for p in learning if p.ndim <= 1]
    decay = recipe.weight_decay
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}]
    groups.append({"params": others, "weight_decay": decay if recipe.decay_norms_and_biases else 0.0})
    fused = device_type in ("cuda", "cpu", "mps")
    if recipe.optimizer == "muon":
        layers = [p for p in decayed if p.ndim in (2, 4)]
        between = {id(p) for p in layers[1:-1]}  # the first layer sees colours and the last makes logits
        rest = [p for p in learning if id(p) not in between]
        matrices = [p for p in layers if id(p) in between]
        return Muon(rest, matrices, lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, layer by layer (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    The gradient of a layer is dominated by a few directions; with all of its singular values brought to about 1, every
    direction moves by as much. It is for the layers between the first and the last; those two, norms and biases move
    by SGD with Nesterov's momentum, at `_OTHERS` times the rate. Weights between decay by rate times `weight_decay`.
    """

    def __init__(
        self,
        rest: Sequence[torch.Tensor],
        matrices: Sequence[torch.Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        """
        Args:
            rest: what moves by SGD.
            matrices: weights (outputs, inputs) or (outputs, inputs, height, width), taken as outputs x all others.
        """
        groups = [{"params": list(rest), "orthogonal": False}, {"params": list(matrices), "orthogonal": True}]
        super().__init__(
            [group for group in groups if group["params"]],
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the weights by their gradients; those without one stay."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
                ahead = p.grad.add(buffer, alpha=group["momentum"])
                if group["orthogonal"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(orthogonalise(ahead.flatten(1)).view_as(p), alpha=group["lr"])
                else:
                    p.sub_(ahead, alpha=_OTHERS * group["lr"])


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with singular values between 0.7 and 1.2 in place of its own, and larger where it is tall.

    By the quintic Newton-Schulz iteration of Jordan et al. 2024: three matrix products a round, in bf16, five rounds.

    Args:
        matrix: (rows, columns), float32. Returned float32, times the root of rows / columns where that is above 1.
    """
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = (x / x.norm().clamp_min(1e-7)).to(torch.bfloat16)
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = _QUINTIC[0] * x + (_QUINTIC[1] * square + _QUINTIC[2] * square @ square) @ x
    result: torch.Tensor = (x.T if rows > columns else x).to(matrix.dtype) * max(1.0, rows / columns) ** 0.5
    return result


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
