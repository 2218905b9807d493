"""Where a loader's workers take images from: the records of a split, or pixels that are decoded already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import DamagedDataError
from ..images import ByteArray, Cropper, CropPlan, Flips, OutputSlots, UndecodableError
from .batch_buffers import SharedMemory

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class CropRequest:
    """The crops that are wanted of n records.

    Attributes:
        records: int64 (n,).
        heights, widths: int32 (n,), of the records' images, so that a worker needs no index.
        plan: n crops.
        flips: (n,), which are mirrored; None: none, or it is the device's to do.
    """

    records: npt.NDArray[np.int64]
    heights: IntArray
    widths: IntArray
    plan: CropPlan
    flips: Flips

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, part: slice) -> CropRequest:
        flips = None if self.flips is None else self.flips[part]
        return CropRequest(self.records[part], self.heights[part], self.widths[part], self.plan[part], flips)


class ImageSource(Protocol):
    """Picklable, so that it can go to worker processes."""

    def cropper(self, image_size: int, dtype: str) -> Cropper:
        """One thread's means of cutting these images."""
        ...

    def cut(self, cropper: Cropper, request: CropRequest, slots: OutputSlots) -> None:
        """Put each crop, resized, mirrored and finished, into its slot.

        Raises:
            DamagedDataError: a record cannot be read or decoded; the text names it.
        """
        ...


class ShardSource:
    """The JPEGs of a split.

    Args:
        reader: of the split.
        decoder: as in `Cropper`.
    """

    def __init__(self, reader: ShardReader, decoder: str = "auto") -> None:
        self.reader, self.decoder = reader, decoder

    def cropper(self, image_size: int, dtype: str) -> Cropper:
        return Cropper(image_size, dtype, self.decoder)

    def cut(self, cropper: Cropper, request: CropRequest, slots: OutputSlots) -> None:
        jpegs = self.reader.view_many(request.records)
        heights, widths = request.heights.tolist(), request.widths.tolist()
        try:
            cropper.jpegs(jpegs, heights, widths, request.plan, request.flips, slots)
        except UndecodableError as error:
            raise damaged(self.reader, int(request.records[error.position]), error) from None


class PixelSource:
    """Images of one size, decoded, in memory that workers share.

    Attributes:
        pixels: (n, height, width, 3) uint8; whoever makes this fills it before the first is cut.

    Raises:
        WorkerError: there is not so much shared memory.
    """

    def __init__(self, n: int, height: int, width: int) -> None:
        self._shape = (n, height, width, 3)
        self._memory = SharedMemory(n * height * width * 3)

    @property
    def pixels(self) -> ByteArray:
        return self._memory.array.reshape(self._shape)

    def cropper(self, image_size: int, dtype: str) -> Cropper:
        return Cropper(image_size, dtype)

    def cut(self, cropper: Cropper, request: CropRequest, slots: OutputSlots) -> None:
        cropper.pixels(self.pixels, request.records, request.plan, request.flips, slots)


def damaged(reader: ShardReader, record: int, error: DamagedDataError) -> DamagedDataError:
    """`error`, which has no subject, said of a record."""
    return DamagedDataError(f"{reader.describe(record)} {error}: run `alexnet-fast verify {reader.dataset}`")
