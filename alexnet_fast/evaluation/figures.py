"""The paper's figures of one's own network: first-layer filters, guesses beside images, training images alike.

Figures 3 and 4 of Krizhevsky, Sutskever, Hinton 2012.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..dataset import ShardReader, read_dataset_info
from ..images import finish_batch
from ..inspection import read_image
from ..plots import plot_filters, plot_guesses, plot_neighbours
from ..system import progress_bar
from ..training import LoadedRun
from ..words import counted
from .predict import centre_crop
from .result import EvalResult, short_name

FILTERS, GUESSES, NEIGHBOURS = "filters.png", "guesses.png", "neighbours.png"
_SHOWN = 8
_QUERIES = 5
_NEAREST = 6
# Training images among which the nearest are looked for. With 5,000 of Tiny ImageNet that takes 6 s on 2 cores.
_POOL = 5_000
_BATCH = 64
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Figure:
    """One drawing: its file, and its title, which says what to take away."""

    path: Path
    title: str


def draw_network(result: EvalResult, loaded: LoadedRun, folder: Path) -> list[Figure]:
    """Write filters.png, guesses.png and, where there are training images, neighbours.png into FOLDER.

    Raises:
        DamagedDataError: a record that is shown cannot be read.
    """
    names = [short_name(c.name) for c in result.classes]
    figures = [_filters(loaded, folder)]
    reader = result.open_split()
    try:
        places = drawn_records(result.labels, _SHOWN)  # of the result, which may hold a part of the split
        records = result.records[places].tolist()
        images = [read_image(reader, record) for record in records]
        figures.append(_guesses(result, loaded, places, images, names, folder))
        train = _train_reader(result)
        if train is not None:
            try:
                queries = list(zip(places[:_QUERIES], images, strict=False))
                figures.append(_neighbours(result, loaded, reader, train, queries, names, folder))
            finally:
                train.close()
    finally:
        reader.close()
    return figures


def drawn_records(labels: npt.NDArray[np.integer], count: int) -> list[int]:
    """So many records drawn at random, of as many classes as there are; always the same of one split."""
    order = np.random.default_rng(0).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    one_each = order[np.sort(first)]
    rest = order[~np.isin(order, one_each)]
    return [int(record) for record in np.concatenate([one_each, rest])[:count]]


def _filters(loaded: LoadedRun, folder: Path) -> Figure:
    first = loaded.model.features[0]
    assert isinstance(first, nn.Conv2d)
    weights = first.weight.detach().float().cpu().numpy()
    flat = weights.reshape(len(weights), -1)
    # Noise has as much of its power in steps from pixel to pixel as in all; a stripe or a blob of colour has little.
    steps = np.diff(weights, axis=2).var(axis=(1, 2, 3)) + np.diff(weights, axis=3).var(axis=(1, 2, 3))
    smooth = int((steps < 2 * flat.var(axis=1)).sum())
    title = f"{smooth} of the first layer's {len(weights)} filters have taken a shape: edges, stripes, blobs of colour."
    if smooth < len(weights) / 4:
        title = f"Most of the first layer's {len(weights)} filters still look like the noise that training began with."
    plot_filters(weights, folder / FILTERS, title=title, foot=f"{loaded.description}; grey is a weight of 0")
    return Figure(folder / FILTERS, title)


def _guesses(
    result: EvalResult, loaded: LoadedRun, places: Sequence[int], images: Sequence[Pixels], names: Sequence[str],
    folder: Path,
) -> Figure:  # fmt: skip
    guesses = [
        [(names[label], float(p)) for label, p in zip(result.predictions[r], result.probabilities[r], strict=True)]
        for r in places
    ]
    first = sum(int(result.predictions[r, 0] == result.labels[r]) for r in places)
    five = sum(int(result.labels[r] in result.predictions[r]) for r in places)
    title = (
        f"The first guess is right for {first} of {counted(len(places), 'image')}, and one of the first "
        f"{result.predictions.shape[1]} for {five}."
    )
    plot_guesses(
        images, [names[int(result.labels[r])] for r in places], guesses, folder / GUESSES, title=title,
        foot=f"{loaded.description}; images drawn at random from {result.split}",
    )  # fmt: skip
    return Figure(folder / GUESSES, title)


def _train_reader(result: EvalResult) -> ShardReader | None:
    splits = read_dataset_info(result.dataset).splits
    usable = "train" in splits and splits["train"].records > 0 and splits["train"].labelled
    return result.open_split("train") if usable else None


def _neighbours(
    result: EvalResult, loaded: LoadedRun, reader: ShardReader, train: ShardReader,
    queries: Sequence[tuple[int, Pixels]], names: Sequence[str], folder: Path,
) -> Figure:  # fmt: skip
    order = np.random.default_rng(0).permutation(len(train))[:_POOL]
    pool = [int(record) for record in order]
    asked = torch.cat(list(_vectors(loaded, (image for _, image in queries))))
    distances = []
    with progress_bar("looking for images alike") as progress:
        progress.start(len(pool))
        for vectors in _vectors(loaded, (read_image(train, record) for record in pool)):
            distances.append(torch.cdist(asked, vectors))
            progress.advance(len(vectors))
    nearest = torch.cat(distances, 1).topk(min(_NEAREST, len(pool)), largest=False).indices.tolist()
    true = [names[int(result.labels[place])] for place, _ in queries]
    found = [
        [(read_image(train, pool[place]), names[int(train.labels[pool[place]])]) for place in places]
        for places in nearest
    ]
    same = sum(name == own for own, row in zip(true, found, strict=True) for _, name in row)
    title = f"Of the {sum(map(len, found))} training images nearest to these {len(queries)}, {same} are of their class."
    among = f"all {len(pool):,}" if len(pool) == len(train) else f"{len(pool):,} of {len(train):,}, drawn at random"
    plot_neighbours(
        [image for _, image in queries], true, found, folder / NEIGHBOURS, title=title,
        foot=f"{loaded.description}; nearest by distance in the last hidden layer, among training images ({among})",
    )  # fmt: skip
    return Figure(folder / NEIGHBOURS, title)


@torch.inference_mode()
def _vectors(loaded: LoadedRun, images: Iterator[Pixels]) -> Iterator[torch.Tensor]:
    """What the last hidden layer makes of images, in batches: (n, hidden units), on the CPU."""
    place = next(loaded.model.parameters()).device
    batch: list[torch.Tensor] = []

    def finished() -> torch.Tensor:
        pixels = torch.stack(batch).to(place)
        return loaded.model.hidden(finish_batch(pixels, None, torch.float32)).float().cpu()

    for image in images:
        batch.append(centre_crop(image, loaded.image_size))
        if len(batch) == _BATCH:
            yield finished()
            batch.clear()
    if batch:
        yield finished()
