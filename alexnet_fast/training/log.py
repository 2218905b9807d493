"""The words in which a run tells how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..system import CoreUse
from .recipes import Recipe


def step_note(loss: float, top1: float, wait: float, seconds_left: float | None) -> str:
    """What stands beside the bar of an epoch: means of the epoch so far, and when the whole run will be done."""
    left = f", {duration(seconds_left)} left of the run" if seconds_left else ""
    return f"loss {loss:.3f}, top-1 {top1:.1%}, waiting for data {wait:.0%}{left}"


def epoch_line(row: Mapping[str, Any], epochs: int, seconds_left: float | None) -> str:
    """The line of the log that ends an epoch; `row` is that of metrics.jsonl."""
    parts = [f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, top-1 {row['train_top1']:.2%}"]
    if row["val_top1"] is not None:
        parts.append(
            f"validation loss {row['val_loss']:.4f}, top-1 {row['val_top1']:.2%}{balanced(row)}, "
            f"top-5 {row['val_top5']:.2%}"
        )
    speed = f"{row['images_per_s']:,.1f} images/s" if row["images_per_s"] else "warm-up only"
    parts.append(f"{speed}, waiting for data {row['data_wait']:.0%}, rate {row['lr']:.2g}")
    if seconds_left:
        parts.append(f"{duration(seconds_left)} left")
    return "; ".join(parts)


def balanced(row: Mapping[str, Any]) -> str:
    """' (balanced 33.33%)', where the mean of the classes' own top-1 is another than that of the images."""
    value = row.get("val_balanced")
    return "" if value is None or f"{value:.2%}" == f"{row['val_top1']:.2%}" else f" (balanced {value:.2%})"


def duration(seconds: float) -> str:
    """'12.3 s', '4 min 5 s' or '2 h 7 min'."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


# Of what a step needs, the share of the free memory from which a run may not fit. In a container of 1 GiB the default
# network, whose gradients and momentum take 188 of 379 MiB then, was killed at its first step without a word.
_TIGHT = 0.4


def memory_note(recipe: Recipe, parameters: int, free: int | None) -> str | None:
    """That the first step may take more memory than there is, on a CPU; None where it will not, or nothing is known.

    Args:
        free: bytes that this process may still take.
    """
    copies = 1 + (2 if recipe.optimizer == "adam" else 1) + (recipe.ema > 0)  # gradients, momentum, mean
    needed = 4 * parameters * copies
    if free is None or needed < _TIGHT * free:
        return None
    return (
        f"memory is short: gradients and momentum take {needed / 2**20:,.0f} MiB of the {free / 2**20:,.0f} MiB that "
        "this process may still use, and images come on top; the system ends a process that takes too much without a "
        "word (a higher limit helps, or --set width=0.5)"
    )


# Cores that others take before a run speaks of it; a desktop at rest takes a tenth of one.
_OTHERS = 0.4


def cores_note(use: CoreUse, *, spins: bool) -> str | None:
    """That other programs take cores which this run waits for, and what helps; None where they do not.

    Args:
        spins: torch computes on several threads, which spin while they wait for each other.
    """
    if use.other_cores is None or use.other_cores < _OTHERS or (use.wait_seconds or 0.0) < 0.1 * use.seconds:
        return None
    # One core of two taken: 83 to 387 images/s with threads that spin, 540 to 670 with threads that sleep.
    helps = " OMP_WAIT_POLICY=passive in the environment helps: torch's threads then sleep while they wait." * spins
    return f"other programs take {use.other_cores:.1f} of the cores, and training waits for them.{helps}"
