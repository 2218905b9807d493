"""The compute ceiling: batches that cost nothing, in the shape, type and place that a real loader's have."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..images import finish_batch
from ..system import choose_device
from .base import Loader, check_options, open_split
from .order import Int64Array

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig

_RECORDS, _CLASSES = 1_281_167, 1000  # of ImageNet's training split


class SyntheticLoader(Loader):
    """One batch of noise, made once on the device, handed out at every step; labels are drawn once too.

    Options: ``num_records`` and ``num_classes``, where no data set is given or other counts are wanted.
    """

    backend = "synthetic"

    def __init__(self, config: LoaderConfig) -> None:
        options = check_options(config, "synthetic", num_records=None, num_classes=None)
        records, classes = options["num_records"], options["num_classes"]
        self.reader = None if config.dataset is None else open_split(config)
        if self.reader is not None:
            records = len(self.reader) if records is None else records
            classes = self.reader.info.num_classes if classes is None else classes
        records, classes = records or _RECORDS, classes or _CLASSES
        if not all(isinstance(n, int) and n > 0 for n in (records, classes)):
            raise UsageError(f"num_records and num_classes must be 1 or more, got {records!r} and {classes!r}")
        read = self.reader is not None and records == len(self.reader)
        labels = self.reader.labels if self.reader is not None and read else np.zeros(records, np.int64)
        super().__init__(config, labels, choose_device(config.device))
        self.num_classes = classes
        self._noise: tuple[torch.Tensor, torch.Tensor] | None = None
        self.description = f"synthetic: one batch of noise on {self.device}, no data is read"

    def _make(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images, (views * batch size, 3, S, S), and labels of a batch."""
        import torch

        if self._noise is None:
            c = self.config
            generator = torch.Generator().manual_seed(c.seed)
            shape = (c.views * c.batch_size, c.image_size, c.image_size, 3)
            noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
            labels = torch.randint(0, self.num_classes, (c.batch_size,), generator=generator)
            images = finish_batch(noise.to(self.device), None, getattr(torch, self.dtype))
            self._noise = images, labels.to(self.device)
        return self._noise

    def _labels(self, order: Int64Array) -> torch.Tensor:
        _, labels = self._make()
        return labels.repeat(-(-len(order) // len(labels)))[: len(order)]

    def _images(self, epoch: int, batches: Sequence[Int64Array]) -> Generator[torch.Tensor, None, None]:
        for records in batches:
            yield self._read(epoch, records)

    def _read(self, epoch: int, records: Int64Array) -> torch.Tensor:
        images = self._make()[0][: self.config.views * len(records)]
        return images if self.config.batch_transform is None else images.clone()  # which may change it in place

    def close(self) -> None:
        super().close()
        self._noise = None
