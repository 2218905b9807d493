"""The compute ceiling: batches that cost nothing, in the shape, type and place that a real loader's have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..dataset import read_dataset_info
from ..errors import UsageError
from ..images import finish_batch
from ..system import choose_device
from .base import Batch, Loader, check_options

if TYPE_CHECKING:
    from ..config import LoaderConfig

_RECORDS, _CLASSES = 1_281_167, 1000  # of ImageNet's training split


class SyntheticLoader(Loader):
    """One batch of noise, made once on the device, handed out at every step; labels are drawn once too.

    Options: ``num_records`` and ``num_classes``, where no data set is given or other counts are wanted.
    """

    def __init__(self, config: LoaderConfig) -> None:
        options = check_options(config, "synthetic", num_records=None, num_classes=None)
        records, classes = options["num_records"], options["num_classes"]
        if config.dataset is not None:
            info = read_dataset_info(config.dataset)
            records = info.split(config.split).records if records is None else records
            classes = info.num_classes if classes is None else classes
        records, classes = records or _RECORDS, classes or _CLASSES
        if not all(isinstance(n, int) and n > 0 for n in (records, classes)):
            raise UsageError(f"num_records and num_classes must be 1 or more, got {records!r} and {classes!r}")
        super().__init__(config, records)
        self.num_classes = classes
        self.device = choose_device(config.device)
        self._batch: Batch | None = None
        self.description = f"synthetic: one batch of noise on {self.device}, no data is read"

    def _make(self) -> Batch:
        import torch

        c = self.config
        generator = torch.Generator().manual_seed(c.seed)
        shape = (c.batch_size, c.image_size, c.image_size, 3)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        labels = torch.randint(0, self.num_classes, (c.batch_size,), generator=generator)
        images = finish_batch(noise.to(self.device), None, getattr(torch, c.dtype))
        return Batch(images, labels.to(self.device))

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        batch = self._batch = self._batch or self._make()
        own = len(self) * self.config.batch_size if self.config.train else self._own_records()
        for step in range(start_step, len(self)):
            n = min(self.config.batch_size, own - step * self.config.batch_size)
            yield batch if n == self.config.batch_size else Batch(batch.images[:n], batch.labels[:n])

    def _own_records(self) -> int:
        return len(range(self.config.rank, self.num_records, self.config.world_size))

    def close(self) -> None:
        self._batch = None
