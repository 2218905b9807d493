"""One optimiser step: everything that moves a network's weights, without a run around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..config import TrainConfig
from ..images import uniform
from ..models import AlexNet, Precision, choose_precision, create_model
from ..system import memory_format
from .distributed import Ranks
from .optimisation import WeightMean, WorkingCopy, add_color_noise, make_optimizer
from .recipes import Plateau, Recipe, choose_recipe, learning_rate

_STEP_STREAM = 2000
_ENDLESS = 1_000_000  # steps of a schedule that no measurement comes to the end of


class Outcome(NamedTuple):
    """What one step gave.

    Attributes:
        loss: mean cross-entropy of this rank's images, nats; a scalar on the device.
        hits: how many of them were classified right; a scalar on the device.
        rate: the learning rate.
    """

    loss: torch.Tensor
    hits: torch.Tensor
    rate: float


class Step:
    """The training step of a network. Calling it with a batch moves the weights once; nothing waits for a GPU.

    Attributes:
        model: the network with its float32 weights, on the device.
        done: steps taken so far.
        sums: of loss and hits, over the images of this rank since they were last set to zero; on the device.
        plateau: what the 'plateau' schedule remembers. Update it after each epoch.
        mean: the running mean of the weights, None where the recipe keeps none.
        precision: the number format that images are expected in.
        lock: held while the weights move; whoever holds it finds a state between two steps.
    """

    def __init__(
        self,
        model: AlexNet,
        recipe: Recipe,
        precision: Precision,
        ranks: Ranks,
        *,
        total_steps: int,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        """
        Args:
            model: moved to the device of `ranks`, in the layout that `memory_format` names for it.
            ranks: this process among those that train together.
            total_steps: the length of the learning rate's schedule.
            seed: of dropout and colour noise, which follow from (seed, step, rank).
            compile: whether the network goes through torch.compile.
        """
        self._recipe, self._ranks, self._seed, self._total = recipe, ranks, seed, total_steps
        self.precision = precision
        self.model: AlexNet = model.to(ranks.device).to(memory_format=memory_format(ranks.device))
        self.lock = threading.RLock()
        self.done = 0
        wide = torch.float32 if ranks.device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, dtype=wide, device=ranks.device)
        self.plateau = Plateau()
        self._optimizer = make_optimizer(self.model, recipe, ranks.device.type)
        self._scaler = precision.scaler()
        self.mean = WeightMean(self.model, recipe.ema) if recipe.ema else None
        # In a process group autocast stays, so that gradients are averaged in float32.
        own_copy = precision.name == "bf16" and ranks.device.type == "cpu" and not ranks.joined
        self._copy = WorkingCopy(self.model, precision) if own_copy else None
        # On a CPU a step may take minutes, and a checkpoint in the midst of one holds the state before it. The weights
        # are as before until they move; a forward pass changes the statistics of batch norm alone.
        buffers = dict(self.model.named_buffers()) if ranks.device.type == "cpu" else {}
        self._statistics = [(name, buffer, buffer.clone()) for name, buffer in buffers.items()]
        self._under_way = False
        self._forward = self._wrap(self.model if self._copy is None else self._copy.network, compile)
        self.train()

    @classmethod
    def alone(
        cls,
        model: str = "alexnet",
        *,
        num_classes: int,
        image_size: int,
        batch_size: int,
        device: torch.device,
        recipe: str = "fast",
        precision: str = "auto",
        compile: bool = False,
        overrides: Mapping[str, Any] | None = None,
    ) -> Step:
        """The step that `train` would take with these options, for a measurement without a data set."""
        options = TrainConfig(
            dataset="", model=model, recipe=recipe, batch_size=batch_size, image_size=image_size,
            overrides=overrides or {},
        )  # fmt: skip
        chosen = choose_recipe(options, images=_ENDLESS)
        network = create_model(model, num_classes, image_size, **chosen.network)
        return cls(
            network, chosen, choose_precision(precision, device), Ranks(0, 1, device), total_steps=_ENDLESS,
            compile=compile,
        )  # fmt: skip

    def _wrap(self, network: nn.Module, compile: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        module: Any = torch.compile(network) if compile else network
        if self._ranks.joined:
            devices = [self._ranks.device] if self._ranks.device.type == "cuda" else None
            module = torch.nn.parallel.DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)
        return module  # type: ignore[no-any-return]

    def train(self) -> None:
        """Put the network into training mode, after an evaluation; layers that do not learn stay as they are."""
        self._forward.train()  # type: ignore[attr-defined]
        network = self.model if self._copy is None else self._copy.network
        for module in (*network.modules(), *self.model.modules()):
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()  # the running statistics of batch norm are weights too

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Take one step on a batch of this rank: images (N, 3, S, S) as the loader gives them, labels (N,) int64,
        or (N, classes) where images were mixed: then the largest share counts as the label for the hits."""
        recipe, ranks = self._recipe, self._ranks
        rate = learning_rate(recipe, self.done, self._total, self.plateau.scale)
        # Dropout and noise are drawn from (seed, step, rank), not from a generator that runs through the training: so a
        # resumed run needs no state of one.
        seed = int(uniform(self._seed, self.done, [0], _STEP_STREAM)[0] * 2**48)
        torch.manual_seed(seed + ranks.rank)
        if recipe.color_noise:
            images = add_color_noise(
                images, recipe.color_noise, seed=seed, rank=ranks.rank, world_size=ranks.world_size
            )
        for _, buffer, before in self._statistics:
            before.copy_(buffer)
        self._under_way = True
        with self.precision.autocast():
            logits = self._forward(images)
        loss = cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        hard = labels if labels.ndim == 1 else labels.argmax(1)
        outcome = Outcome(loss.detach(), (logits.detach().argmax(1) == hard).sum(), rate)
        wide = self.sums.dtype
        with self.lock:
            self._move_weights(rate)
            self.sums += torch.stack([outcome.loss.to(wide) * len(labels), outcome.hits.to(wide)])
            self.done += 1
            self._under_way = False
        return outcome

    def _move_weights(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._copy is not None:
            self._copy.hand_over_gradients()
        if self._recipe.clip:
            self._scaler.unscale_(self._optimizer)
            # foreach=True would raise on MPS; left alone, torch takes the fast way where a device has it.
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._copy is not None:
            self._copy.take_weights()
        if self.mean is not None:
            self.mean.update(self.done)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: model, ema, optimizer, scaler, plateau, step. Hold `lock` on other threads."""
        weights = self.model.state_dict()
        if self._under_way:
            weights.update({name: before for name, _, before in self._statistics})
        return {
            "model": weights,
            "ema": self.mean.state if self.mean is not None else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "plateau": asdict(self.plateau),
            "step": self.done,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it belongs to another network or recipe.
        """
        self.model.load_state_dict(state["model"])
        if self._copy is not None:
            self._copy.take_weights(frozen=True)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self.mean is not None:
            self.mean.load(state["ema"])
        self.plateau = Plateau(**state["plateau"])
        self.done = int(state["step"])
