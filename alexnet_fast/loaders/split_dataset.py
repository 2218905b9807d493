"""A split as people's own code expects a data set: a length, classes, and items by number."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ..dataset import ShardReader
from ..errors import DamagedDataError
from ..images import ImageDecoder
from .image_sources import damaged

if TYPE_CHECKING:
    import torch


class SplitDataset:
    """One split, as torchvision's ImageFolder: ``dataset[record]`` is the whole image and its label.

    Args:
        reader: of the split.

    Attributes:
        classes: of each label, the name of its folder at the source (for ImageNet and Tiny ImageNet the WordNet id).
        class_to_idx: label of each of these.
        names: readable names, by label.
        targets: label of each record; -1 for none.
    """

    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader
        self.classes = [c.wnid for c in reader.info.classes]
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.names = [c.name for c in reader.info.classes]

    @cached_property
    def targets(self) -> list[int]:
        return list(self._reader.labels.tolist())

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, record: int) -> tuple[torch.Tensor, int]:
        """The whole image, uint8 (3, H, W), RGB, and its label.

        Raises:
            IndexError: there is no such record.
            DamagedDataError: it cannot be read or decoded.
        """
        import torch

        number = int(record)
        number += len(self) if number < 0 else 0
        jpeg = self._reader.view_many((number,))[0]
        try:
            height, width = int(self._reader.heights[number]), int(self._reader.widths[number])
            pixels = ImageDecoder()(jpeg, height, width)
        except DamagedDataError as error:
            raise damaged(self._reader, number, error) from None
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), int(self._reader.labels[number])
