"""The network's own demand: images/s of training steps on images that lie on the device already."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from ..system import choose_device, synchronize

if TYPE_CHECKING:
    import torch

_REPEATS = 3


def measure_demand(task: dict[str, Any], emit: Callable[..., None]) -> None:
    """Emit ``demand``: images_per_s, spread, precision.

    Args:
        task: model, classes, batch_size, image_size, device, seconds.
    """
    device = choose_device(task["device"])
    emit("ready")
    step, precision = _training_step(task, device)
    begin = time.perf_counter()
    step()  # allocates, and lets the libraries choose their kernels
    synchronize(device)
    # A step that takes longer than its share of the time is measured once or twice, not thrice.
    step_s = time.perf_counter() - begin
    repeats = max(1, min(_REPEATS, int(task["seconds"] / step_s)))
    rates = []
    for _ in range(repeats):
        begin, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - begin < task["seconds"] / repeats - step_s / 2:
            step()
            synchronize(device)
            steps += 1
        rates.append(steps * task["batch_size"] / (time.perf_counter() - begin))
    middle = median(rates)
    spread = (max(rates) - min(rates)) / middle if repeats > 1 else None
    emit("demand", images_per_s=middle, spread=spread, precision=precision)


def _training_step(task: dict[str, Any], device: torch.device) -> tuple[Callable[[], None], str]:
    """Forward, loss, backward and fused SGD on one batch of noise, in the precision that training takes itself here."""
    import torch
    from torch.nn.functional import cross_entropy

    from ..models import choose_precision, create_model

    precision = choose_precision("auto", device)
    model = create_model(task["model"], task["classes"], image_size=task["image_size"])
    model.to(device).to(memory_format=torch.channels_last)
    model.train()
    fused = device.type in ("cuda", "cpu")
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=fused)
    scaler = precision.scaler()
    n, size = task["batch_size"], task["image_size"]
    images = torch.randn(n, 3, size, size, device=device).to(precision.dtype, memory_format=torch.channels_last)
    labels = torch.randint(0, task["classes"], (n,), device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with precision.autocast():
            loss = cross_entropy(model(images), labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimiser)
        scaler.update()

    return step, precision.name
