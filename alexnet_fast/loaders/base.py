"""Where all backends meet: a batch, and a loader that counts epochs and steps the same way for each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import UsageError
from .order import Int64Array, epoch_order, evaluation_order

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig
    from ..dataset import ShardReader


class Batch(NamedTuple):
    """One step's data, on the device, ready for the network.

    Attributes:
        images: (N, 3, S, S) in the compute dtype, channels_last, normalised with ImageNet's mean and standard
            deviation (uint8 0-255 and not normalised where dtype='uint8' was asked for).
        labels: (N,) int64; -1 for an unlabelled split.
    """

    images: torch.Tensor
    labels: torch.Tensor


def check_options(config: LoaderConfig, backend: str, **defaults: Any) -> dict[str, Any]:
    """``config.options`` over `defaults`.

    Raises:
        UsageError: an option is given that `defaults` does not name.
    """
    unknown = sorted(set(config.options) - set(defaults))
    if unknown:
        raise UsageError(
            f"the {backend} backend has no option {unknown[0]!r}; it has: {', '.join(sorted(defaults)) or 'none'}"
        )
    return {**defaults, **config.options}


class Loader(ABC):
    """Iterable of `Batch`. Each pass over it is the next epoch, beginning at ``start_step`` in the first.

    The newest pass wins: an older one that is still held ends with a RuntimeError when it is asked for more.

    A backend makes images of the records that it is told; which records those are, their labels, epochs, steps and
    passes are settled here.

    Attributes:
        backend: its name, as in `LoaderConfig`.
        config: what was asked for.
        device: where batches lie.
        num_records: records in the split, over all ranks.
        epoch: number of the epoch that the next pass will read.
        start_step: step at which the next pass will begin; set it (or `load_state`) to resume within an epoch.
        description: one line on what this loader is and why, for logs.
    """

    backend: str
    reader: ShardReader | None

    def __init__(self, config: LoaderConfig, num_records: int, device: torch.device) -> None:
        self.config = config
        self.num_records = num_records
        self.device = device
        self.epoch = config.start_epoch
        self.start_step = config.start_step
        self.description = type(self).__name__
        self._running: tuple[int, int] | None = None
        self._making: Generator[torch.Tensor, None, None] | None = None  # the newest pass's images
        self._repeat = 1

    def repeat_split(self, times: int) -> None:
        """Make every epoch of training read the split so many times: for measuring where one is over too soon.

        Call it before the first pass.
        """
        self._repeat = times

    def order(self, epoch: int) -> Int64Array:
        """Record numbers that this rank reads in `epoch`, before any start_step is cut off."""
        c = self.config
        if c.train:
            orders = [
                epoch_order(self.num_records, seed=c.seed, epoch=drawn, rank=c.rank, world_size=c.world_size)
                for drawn in range(epoch * self._repeat, (epoch + 1) * self._repeat)
            ]
            return orders[0] if len(orders) == 1 else np.concatenate(orders)
        return evaluation_order(self.num_records, rank=c.rank, world_size=c.world_size)

    def __len__(self) -> int:
        """Steps in a whole epoch of this rank."""
        c = self.config
        if c.train:
            return self.num_records // c.world_size * self._repeat // c.batch_size
        own = len(range(c.rank, self.num_records, c.world_size))
        return -(-own // c.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch, self.start_step
        self.epoch, self.start_step = epoch + 1, 0
        self._running = (epoch, first)
        size, order = self.config.batch_size, self.order(epoch)
        labels = self._labels(order)
        batches = [order[i * size : (i + 1) * size] for i in range(first, len(self))]
        self._end_pass()  # one that is still held
        making = self._making = self._images(epoch, batches)
        try:
            for step in range(first, first + len(batches)):
                # No name here holds the batch: its buffer is free again once the caller lets go of it.
                yield self._next_batch(making, labels[step * size : (step + 1) * size], (epoch, step + 1))
                if self._making is not making:
                    raise RuntimeError("this pass over the loader was ended by a newer one")
            self._running = None
        finally:
            making.close()

    def _next_batch(self, making: Iterator[torch.Tensor], labels: torch.Tensor, running: tuple[int, int]) -> Batch:
        batch = Batch(next(making), labels)
        self._running = running
        return batch

    def _end_pass(self) -> None:
        making, self._making = self._making, None
        if making is not None:
            making.close()

    def _labels(self, order: Int64Array) -> torch.Tensor:
        """Labels of these records, on the device: a few megabytes an epoch, so each batch's are a view."""
        import torch

        assert self.reader is not None
        return torch.from_numpy(self.reader.labels[order]).to(self.device)

    def state(self) -> dict[str, int]:
        """Where the reader stands: ``{"epoch": e, "step": k}``, k batches of epoch e having been handed out.

        Batches that were prepared ahead and not yet handed out are not counted, so loading this state reads them again.
        """
        epoch, step = self._running if self._running is not None else (self.epoch, self.start_step)
        if self._running is not None and step >= len(self):
            epoch, step = epoch + 1, 0
        return {"epoch": epoch, "step": step}

    def load_state(self, state: dict[str, int]) -> None:
        """Make the next pass begin where `state` was taken."""
        self.epoch, self.start_step = int(state["epoch"]), int(state["step"])
        self._running = None

    @abstractmethod
    def _images(self, epoch: int, batches: Sequence[Int64Array]) -> Generator[torch.Tensor, None, None]:
        """The images of each batch of record numbers, as in `Batch`; closing the generator releases what it holds."""

    def close(self) -> None:
        """Stop workers and give back memory; safe to call twice."""
        self._end_pass()
        if self.reader is not None:
            self.reader.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
