"""Counting a network's hits: one pass over batches, summed on the device, each record once over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy, softmax

from ..loaders import Batch
from ..models import AlexNet, Precision, copy_for_computing
from .distributed import Ranks


@dataclass
class Scores:
    """What one pass found.

    Attributes:
        images: over all ranks. loss: mean cross-entropy, nats. top1, top5: fractions.
        balanced: the mean of the classes' own top-1, over the classes that have images.
        classes, probabilities: with ``keep=True``, (images, 5 or fewer) on the CPU, most likely first, in the order
            of the batches of this rank.
        labels: with ``keep=True``, (images,).
    """

    images: int
    loss: float
    top1: float
    top5: float
    balanced: float
    classes: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))
    probabilities: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def predict_logits(model: AlexNet, images: torch.Tensor, precision: Precision, tta: str = "none") -> torch.Tensor:
    """Float32 log-probabilities or logits (N, classes) of one batch.

    With 'flip' the logits of each image and its mirror image are averaged. With 'ten-crop' `images` are larger than
    the network's images (256 for 224), and the softmaxes of four corners, the centre and their mirror images are
    averaged (Krizhevsky et al. 2012, section 4.1).
    """
    with precision.autocast():
        if tta == "none":
            return model(images).float()  # type: ignore[no-any-return]
        if tta == "flip":
            return (model(images).float() + model(images.flip(3)).float()) / 2  # type: ignore[no-any-return]
        size = model.image_size
        margin = images.shape[-1] - size
        places = ((0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2))
        total: torch.Tensor | float = 0.0
        for top, left in places:
            crop = images[:, :, top : top + size, left : left + size]
            total = total + softmax(model(crop).float(), 1) + softmax(model(crop.flip(3)).float(), 1)
    assert isinstance(total, torch.Tensor)
    return (total / 10).log()


class ScoringStopped(Exception):
    """`score` was asked to stop, on this rank or on another, and did so on all."""


@torch.no_grad()
def score(
    model: AlexNet,
    batches: Iterable[Batch],
    precision: Precision,
    ranks: Ranks,
    *,
    tta: str = "none",
    keep: bool = False,
    advance: Callable[[int], None] | None = None,
    stopped: Callable[[], object] = lambda: False,
) -> Scores:
    """Loss, top-1 and top-5 of `model` over `batches`; nothing waits for the device until the end.

    The model is left in evaluation mode. With fewer than five classes top-5 counts them all.

    Args:
        stopped: asked before each batch; true ends the pass.

    Raises:
        ScoringStopped: `stopped` said so.
    """
    network = copy_for_computing(model.eval(), precision)
    wide = torch.float32 if ranks.device.type == "mps" else torch.float64
    sums = torch.zeros(5, dtype=wide, device=ranks.device)  # loss, hits, hits among five, images, ranks that stopped
    by_class: torch.Tensor | None = None  # images and hits of each class
    kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for images, labels in batches:
        if stopped():
            sums[4] += 1
            break
        logits = predict_logits(network, images, precision, tta)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        loss = cross_entropy(logits, labels, reduction="sum", ignore_index=-1)
        sums[:4] += torch.stack([loss.to(wide), hits[:, 0].sum().to(wide), hits.sum().to(wide), _ones(labels, wide)])
        if by_class is None:
            by_class = torch.zeros(2, logits.shape[1], dtype=wide, device=ranks.device)
        known = labels >= 0
        place = labels.clamp(min=0)
        by_class[0].scatter_add_(0, place, known.to(wide))
        by_class[1].scatter_add_(0, place, (hits[:, 0] & known).to(wide))
        if keep:
            kept.append((best, softmax(logits, 1).gather(1, best), labels))
        if advance is not None:
            advance(len(labels))
    loss_sum, top1, top5, count, stops = ranks.sum(sums).tolist()
    if stops:
        raise ScoringStopped
    n = max(1, round(count))
    if by_class is None:  # a rank without a record
        by_class = torch.zeros(2, model.num_classes, dtype=wide, device=ranks.device)
    images_of, hits_of = ranks.sum(by_class)
    there = images_of > 0
    balanced = float((hits_of[there] / images_of[there]).mean()) if bool(there.any()) else 0.0
    result = Scores(round(count), loss_sum / n, top1 / n, top5 / n, balanced)
    if kept:
        columns = [torch.cat(column).cpu() for column in zip(*kept, strict=True)]
        result.classes, result.probabilities, result.labels = columns
    return result


def _ones(labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((), len(labels), dtype=dtype, device=labels.device)
