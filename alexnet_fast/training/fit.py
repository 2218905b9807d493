"""A run put into words: whether it over- or underfits, by its curves alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..plots import best_row, is_number
from ..words import counted

# Below these a change of validation accuracy (a fraction) or loss (a share of itself) is taken for noise.
_ACCURACY_STEP = 0.005
_LOSS_RISE = 0.05
_GAP = 0.15


def fit_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """One or two sentences on whether a run stands still, over- or underfits, from the lines of its metrics.jsonl.

    Training's loss and accuracy are those of augmented images with dropout on, so training that looks a little worse
    than validation is the rule, not a fault; the words allow for it.
    """
    if rows and rows[-1].get("still"):
        return str(rows[-1]["still"])
    checked = [row for row in rows if is_number(row.get("val_top1")) and is_number(row.get("val_loss"))]
    if not checked:
        return "No epoch was validated, so nothing can be said about over- or underfitting."
    if len(checked) < 3:
        return f"Validated {counted(len(checked), 'time')}: too few epochs to tell over- from underfitting."
    return _overfit_words(checked) or _short_words(checked) or _good_words(checked)


def _gap(row: Mapping[str, Any]) -> float:
    return float(row["train_top1"] - row["val_top1"]) if is_number(row.get("train_top1")) else 0.0


def _overfit_words(rows: Sequence[Mapping[str, Any]]) -> str | None:
    last, lowest = rows[-1], min(rows, key=lambda row: row["val_loss"])
    rose = last["val_loss"] > (1 + _LOSS_RISE) * lowest["val_loss"]
    train_fell = is_number(last.get("train_loss")) and last["train_loss"] < lowest["train_loss"]
    if rose and train_fell:
        return (
            f"Overfits: validation loss was lowest at epoch {lowest['epoch']} ({lowest['val_loss']:.3f}) and rose to "
            f"{last['val_loss']:.3f} while training loss went on falling. Use best.pt, fewer epochs, more augmentation "
            "or more data."
        )
    if _gap(last) > _GAP:
        return (
            f"Overfits: at the end training top-1 ({100 * last['train_top1']:.1f}%) is {100 * _gap(last):.0f} points "
            f"above validation ({100 * last['val_top1']:.1f}%). More augmentation, weight decay or data narrow it."
        )
    return None


def _short_words(rows: Sequence[Mapping[str, Any]]) -> str | None:
    last = rows[-1]
    window = max(1, len(rows) // 5)
    before = max(row["val_top1"] for row in rows[:-window])
    gain = max(row["val_top1"] for row in rows[-window:]) - before
    if gain > _ACCURACY_STEP:
        span = f"the last {window} epochs" if window > 1 else "the last epoch"
        return (
            f"Underfits still: validation top-1 rose by {100 * gain:.1f} points over {span}, to "
            f"{100 * last['val_top1']:.1f}%. More epochs would help."
        )
    if is_number(last.get("train_top1")) and last["train_top1"] < last["val_top1"] < 0.5:
        return (
            f"Underfits: validation top-1 has settled at {100 * last['val_top1']:.1f}% and training is no better "
            f"({100 * last['train_top1']:.1f}%). A longer schedule, another learning rate, larger images or lighter "
            "augmentation may help."
        )
    return None


def _good_words(rows: Sequence[Mapping[str, Any]]) -> str:
    best = best_row(rows)
    assert best is not None
    last = rows[-1]
    gap = 100 * _gap(last)
    beside = f"{gap:.1f} points above" if gap >= 0 else f"{-gap:.1f} points below"
    return (
        f"Fits well: validation top-1 is best at epoch {best['epoch']} ({100 * best['val_top1']:.1f}%), validation "
        f"loss has not turned, and training top-1 ends {beside} validation."
    )
