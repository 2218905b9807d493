"""Where all backends meet: a batch, and a loader that counts epochs and steps the same way for each of them."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..images import CropArray, draw_crops, draw_flips, finish_batch
from ..system import memory_format, to_device
from .order import Int64Array, window_order
from .selection import Selection, record_numbers
from .shard_feed import ShardFeed
from .split_dataset import SplitDataset
from .transforms import BatchTransform, batch_seed

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig
    from ..dataset import ShardReader


def open_split(config: LoaderConfig) -> ShardReader:
    """A reader of the split that `config` names. Raises as `ShardReader` does."""
    from ..dataset import ShardReader

    assert config.dataset is not None  # LoaderConfig lets the synthetic backend alone do without one
    return ShardReader(config.dataset, config.split, config.cache, config.cache_bytes)


# Batches whose buffers are still being read: the one handed out last and the one before.
_HANDED_OUT = 2


class _ImagesAndLabels(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor


class Batch(_ImagesAndLabels):
    """One step's data, on the device, ready for the network: ``images, labels = batch``.

    Attributes:
        images: (N, 3, S, S) in the compute dtype, channels_last (on MPS contiguous), normalised with ImageNet's mean
            and standard deviation (uint8 0-255 and not normalised where dtype='uint8' was asked for). With ``views=V``
            above 1, (V, N, 3, S, S): ``first, second = batch.images``.
        labels: (N,) int64; -1 for an unlabelled split. A `batch_transform` may make them (N, classes).
        records: int64 (N,), a numpy array on the host: the numbers of the images' records. None in a copy that other
            code has made of images and labels alone.
    """

    records: Int64Array

    def __new__(cls, images: torch.Tensor, labels: torch.Tensor, records: Int64Array | None = None) -> Batch:
        batch = super().__new__(cls, images, labels)
        batch.records = records  # type: ignore[assignment]
        return batch


# A script may end in mid-epoch: workers are told while the interpreter still stands, or its end would print complaints.
_open_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register
def _close_loaders() -> None:
    for loader in list(_open_loaders):
        with contextlib.suppress(Exception):
            loader.close()


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
    passes are settled here, and so are people's transforms of whole batches.

    Attributes:
        backend: its name, as in `LoaderConfig`.
        config: what was asked for.
        device: where batches lie.
        dtype: of the images that the backend makes, by name.
        epoch: number of the epoch that the next pass will read.
        start_step: step at which the next pass will begin; set it (or `load_state`) to resume within an epoch.
        description: one line on what this loader is and why, for logs.
    """

    backend: str
    reader: ShardReader | None
    takes_image_transform = False
    reads_shards = True  # in every pass; resident reads them once

    def __init__(self, config: LoaderConfig, labels: Int64Array, device: torch.device) -> None:
        """
        Args:
            labels: of every record of the split.

        Raises:
            UsageError: `records` or `weights` do not fit the split, or the backend cannot do what is asked of it.
        """
        if config.image_transform is not None and not self.takes_image_transform:
            raise UsageError(
                f"image_transform runs in workers, and the {self.backend} backend has none on {device}: use backend "
                "torchvision, or a batch_transform"
            )
        self.config = config
        self.device = device
        before = config.batch_transform is not None and config.batch_transform_at == "uint8"
        self.dtype: str = "uint8" if before else config.dtype
        self.epoch = config.start_epoch
        self.start_step = config.start_step
        self.description = type(self).__name__
        self._split_labels = labels
        self._selection = Selection(labels, config.records, config.weights)
        self._batch_transform = None if config.batch_transform is None else BatchTransform(config.batch_transform)
        self._running: tuple[int, int] | None = None
        self._running_done: tuple[tuple[int, int], ...] = ()
        self._running_steps = 0  # of the epoch that is running
        self._expected: int | None = None  # fingerprint of the selection that a loaded state goes with
        self._making: Generator[torch.Tensor, None, None] | None = None  # the newest pass's images
        self._repeat = 1
        self._done = config.done  # of the epoch that the next pass reads
        self._shards: ShardFeed | None = None  # of a data set in object storage
        self._check_window()
        _open_loaders.add(self)

    # -----------------------------------------------------------------------------------------------------------------
    # Which records

    def set_records(self, records: Any = None, *, weights: Any = None) -> None:
        """Read other records from the next pass on, with the same workers; the arguments are those of `LoaderConfig`.

        Raises:
            UsageError: they do not fit the split.
        """
        before, self._selection = self._selection, Selection(self._split_labels, records, weights)
        try:
            self._check_window()
        except UsageError:
            self._selection = before
            raise

    def _check_window(self) -> None:
        if self.config.shuffle == "window" and not self._selection.whole:
            raise UsageError("shuffle window reads whole splits: leave out records and weights, or take shuffle full")

    def repeat_split(self, times: int) -> None:
        """Make every epoch of training read the split so many times: for measuring where one is over too soon.

        Call it before the first pass.
        """
        self._repeat = times

    def order(self, epoch: int) -> Int64Array:
        """Record numbers that this rank reads in `epoch`, before any start_step is cut off."""
        return self._order(epoch, ())

    def _order(self, epoch: int, done: Sequence[tuple[int, int]]) -> Int64Array:
        c, times = self.config, self._repeat if self.config.train else 1
        if c.train and c.shuffle == "window" and self.reader is not None:
            shards = [shard.records for shard in self.reader.split_info.shards]
            parts = [
                window_order(shards, seed=c.seed, epoch=drawn, rank=c.rank, world_size=c.world_size, done=done)
                for drawn in range(epoch * times, (epoch + 1) * times)
            ]
            return np.concatenate(parts)
        orders = [
            self._selection.order(seed=c.seed, epoch=drawn, train=bool(c.train), rank=c.rank, world_size=c.world_size)
            for drawn in range(epoch * times, (epoch + 1) * times)
        ]
        return orders[0] if len(orders) == 1 else np.concatenate(orders)

    @property
    def num_records(self) -> int:
        """Records of the next epoch, over all ranks."""
        return self._selection.count(self.config.seed, self.epoch)

    def __len__(self) -> int:
        """Steps in a whole epoch of this rank: in the next one, where a function says what an epoch reads."""
        c, n = self.config, self.num_records
        own = n // c.world_size * self._repeat if c.train else len(range(c.rank, n, c.world_size))
        return self._steps(own)

    def _steps(self, own: int) -> int:
        """Batches in so many records of this rank."""
        c = self.config
        return own // c.batch_size if c.train else -(-own // c.batch_size)

    @property
    def batch_size(self) -> int:
        """Images per batch and rank."""
        return self.config.batch_size

    @cached_property
    def dataset(self) -> SplitDataset | None:
        """The split that is read, with length, classes and items; None where the synthetic backend reads none."""
        return None if self.reader is None else SplitDataset(self.reader)

    def keys(self, records: Sequence[int] | Int64Array) -> list[str]:
        """The names that these records' images had at the source.

        Raises:
            UsageError: the synthetic backend reads no data set.
            IndexError: there is no such record.
        """
        if self.reader is None:
            raise UsageError("the synthetic backend reads no data set, so its images have no names")
        return self.reader.keys(records)

    # -----------------------------------------------------------------------------------------------------------------
    # Passes

    def __iter__(self) -> Iterator[Batch]:
        epoch, first, done = self.epoch, self.start_step, self._done
        self._check_expected(epoch)
        size, order = self.config.batch_size, self._order(epoch, done)
        batches = [order[i * size : (i + 1) * size] for i in range(first, self._steps(len(order)))]
        labels = self._labels(order)
        self._end_pass()  # one that is still held
        self.epoch, self.start_step, self._done = epoch + 1, 0, ()
        self._running, self._running_steps, self._running_done = (epoch, first), first + len(batches), done
        if self._shards is None and self.reads_shards and self.reader is not None and self.reader.cache is not None:
            self._shards = ShardFeed(self.reader.cache, self.config.prefetch + _HANDED_OUT)
        if self._shards is not None:
            self._shards.begin(batches, self.order(epoch + 1) if self.config.train else order)
        making = self._making = self._images(epoch, batches)
        try:
            for step, records in enumerate(batches, first):
                # No name here holds the batch: its buffer is free again once the caller lets go of it.
                yield self._finish(next(making), labels[step * size : (step + 1) * size], records, epoch, step)
                if self._making is not making:
                    raise RuntimeError("this pass over the loader was ended by a newer one")
                if self._shards is not None:
                    self._shards.after(step - first)
            self._running = None
        finally:
            making.close()

    def _finish(
        self, images: torch.Tensor, labels: torch.Tensor, records: Int64Array, epoch: int, step: int | None
    ) -> Batch:
        """The batch that is handed out; `step` counts it as one of a pass."""
        import torch

        c = self.config
        if c.views > 1:
            images = images.view(c.views, len(records), *images.shape[1:])
        if self._batch_transform is not None:
            seed = batch_seed(c.seed, epoch, records)
            images, labels = self._batch_transform(images, labels, seed)
            if self.dtype != c.dtype and images.dtype == torch.uint8:
                flat = images.reshape(-1, *images.shape[-3:])
                images = finish_batch(flat, None, getattr(torch, c.dtype)).view(images.shape)
        if self.device.type == "mps":
            images = images.contiguous(memory_format=memory_format(self.device))
        if step is not None:
            self._running = (epoch, step + 1)
        return Batch(images, labels, records)

    def _await_shards(self, number: int) -> None:
        """Wait until the shards that a batch of this pass needs are here; called before anybody reads its records."""
        if self._shards is not None:
            self._shards.before(number)

    def _end_pass(self) -> None:
        making, self._making = self._making, None
        if making is not None:
            making.close()

    def _labels(self, order: Int64Array) -> torch.Tensor:
        """Labels of these records, on the device: a few megabytes an epoch, so each batch's are a view."""
        import torch

        return to_device(torch.from_numpy(self._split_labels[order]), self.device)

    def read(self, records: Sequence[int] | Int64Array, *, epoch: int | None = None) -> Batch:
        """One batch of the records of these numbers, in this order, whatever their number; a pass goes on beside it.

        Args:
            epoch: whose crops and flips they get in training; None: of the epoch that is being read, or comes next.

        Raises:
            UsageError: there is no such record.
            DamagedDataError: a record is damaged.
        """
        import torch

        numbers = record_numbers(records, len(self._split_labels))
        if epoch is None:
            epoch = self.epoch if self._running is None else self._running[0]
        size, views = self.config.batch_size, self.config.views
        parts = [self._read(epoch, numbers[i : i + size]) for i in range(0, len(numbers), size)]
        s = self.config.image_size
        if len(parts) == 1:
            images = parts[0]
        elif not parts:
            empty = torch.empty((0, s, s, 3), dtype=getattr(torch, self.dtype), device=self.device)
            images = empty.permute(0, 3, 1, 2)
        else:
            by_view = [part.view(views, -1, *part.shape[1:]) for part in parts]
            images = torch.cat([part[view] for view in range(views) for part in by_view])
        return self._finish(images, self._labels(numbers), numbers, epoch, None)

    # -----------------------------------------------------------------------------------------------------------------
    # Where a run stands

    def state(self) -> dict[str, Any]:
        """Where the reader stands: ``{"epoch": e, "step": k}``, k batches of epoch e having been handed out.

        With shuffle 'window' also how many ranks there are, the batch of each, and `done`, so that other numbers of
        ranks may go on from there.

        Batches that were prepared ahead and not yet handed out are not counted, so loading this state reads them again.
        Where `records` or `weights` are set, ``"records"`` tells them apart from others.
        """
        epoch, step = self._running if self._running is not None else (self.epoch, self.start_step)
        if self._running is not None and step >= self._running_steps:
            epoch, step = epoch + 1, 0
        state: dict[str, Any] = {"epoch": epoch, "step": step}
        if self.config.shuffle == "window":
            running = self._running is not None and epoch == self._running[0]
            done = self._running_done if running else self._done
            state |= {"ranks": self.config.world_size, "batch": self.config.batch_size, "done": [list(d) for d in done]}
        return state if self._selection.whole else {**state, "records": self._fingerprint(epoch)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Make the next pass begin where `state` was taken, with shuffle 'window' perhaps by another number of ranks.

        A pass within an epoch refuses other `records` then.
        """
        self.epoch, self.start_step = int(state["epoch"]), int(state["step"])
        self._done = tuple((int(ranks), int(read)) for ranks, read in state.get("done", ()))
        ranks, batch = int(state.get("ranks", 0)), int(state.get("batch", 0))
        if ranks and (ranks, batch) != (self.config.world_size, self.config.batch_size) and self.start_step:
            self._done, self.start_step = (*self._done, (ranks, self.start_step * batch)), 0
        self._expected = state.get("records") if self.start_step else None
        self._running = None

    def state_dict(self) -> dict[str, Any]:
        """`state`, by the name that Lightning, Accelerate and torchdata call it."""
        return self.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """`load_state`, by the name that Lightning, Accelerate and torchdata call it."""
        self.load_state(state)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass read this epoch, from its start, or where it is the next one anyway from ``start_step``.

        Passes count epochs by themselves; this is for engines that count them too.
        """
        if epoch != self.epoch:
            self.load_state({"epoch": epoch, "step": 0})

    def _fingerprint(self, epoch: int) -> int:
        return self._selection.fingerprint(self.config.seed, epoch)

    def _check_expected(self, epoch: int) -> None:
        expected, self._expected = self._expected, None
        if expected is not None and self._fingerprint(epoch) != expected:
            raise UsageError(
                "the state that was loaded was taken from a loader of other records or weights, so its step would be "
                "at another place here: set the same ones before going on"
            )

    # -----------------------------------------------------------------------------------------------------------------
    # What a backend does

    @abstractmethod
    def _images(self, epoch: int, batches: Sequence[Int64Array]) -> Generator[torch.Tensor, None, None]:
        """The images of each batch of record numbers, (views * n, 3, S, S) in `dtype`, a view after another.

        Closing the generator releases what it holds.
        """

    @abstractmethod
    def _read(self, epoch: int, records: Int64Array) -> torch.Tensor:
        """As `_images` for one batch of up to `batch_size` records, beside a pass that may be under way; no tensor of
        an earlier call may change."""

    def close(self) -> None:
        """Stop workers and give back memory; safe to call twice."""
        self._end_pass()
        if self._shards is not None:
            self._shards.end()
        if self.reader is not None:
            if self.reader.cache is not None:
                self.reader.cache.close()
            self.reader.close()

    def __repr__(self) -> str:
        c = self.config
        return f"<{self.description}; split {c.split} of {c.dataset}, {len(self):,} batches of {c.batch_size}>"

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def view_epochs(epoch: int, views: int) -> list[int]:
    """The number that each view of an image is drawn with: the first's is the epoch's own."""
    return [epoch | view << 32 for view in range(views)]


def draw_views(
    config: LoaderConfig, epoch: int, records: Int64Array, heights: npt.ArrayLike, widths: npt.ArrayLike
) -> tuple[CropArray, npt.NDArray[np.bool_]]:
    """Crops (views * n, 4) and flips (views * n,) of n records in training, a view after another."""
    a, seed, epochs = config.augmentation, config.seed, view_epochs(epoch, config.views)
    boxes = [draw_crops(a, seed, number, records, heights, widths) for number in epochs]
    return np.concatenate(boxes), np.concatenate([draw_flips(a, seed, number, records) for number in epochs])
