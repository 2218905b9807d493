"""Where a loader's workers take images from: the records of a split, or pixels that are decoded already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import DamagedDataError
from ..images import ByteArray, Cropper, CropPlan, Flips, OutputArray, UndecodableError
from .batch_buffers import SharedMemory


@dataclass(frozen=True)
class CropRequest:
    """The crops that are wanted of n records.

    Attributes:
        records: int64 (n,).
        plan: n crops, with the sizes of the records' images, so that a worker needs no index.
        flips: (n,), which are mirrored; None: none, or it is the device's to do.
    """

    records: npt.NDArray[np.int64]
    plan: CropPlan
    flips: Flips

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, part: slice) -> CropRequest:
        flips = None if self.flips is None else self.flips[part]
        return CropRequest(self.records[part], self.plan[part], flips)


class ImageSource(Protocol):
    """Picklable, so that it can go to worker processes."""

    def cropper(self, image_size: int, dtype: str) -> Cropper:
        """One thread's means of cutting these images."""
        ...

    def cut(self, cropper: Cropper, request: CropRequest, out: OutputArray) -> None:
        """Put each crop, resized, mirrored and finished, into its place in `out`.

        Raises:
            DamagedDataError: a record cannot be read or decoded; the text names it.
        """
        ...


class ShardSource:
    """The JPEGs of a split.

    Args:
        reader: of the split.
    """

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def cropper(self, image_size: int, dtype: str) -> Cropper:
        return Cropper(image_size, dtype)

    def cut(self, cropper: Cropper, request: CropRequest, out: OutputArray) -> None:
        jpegs = self.reader.view_many(request.records)
        try:
            cropper.jpegs(jpegs, None, request.plan, request.flips, out)
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

    def cut(self, cropper: Cropper, request: CropRequest, out: OutputArray) -> None:
        cropper.pixels(self.pixels, request.records, request.plan, request.flips, out)


def damaged(reader: ShardReader, record: int, error: DamagedDataError) -> DamagedDataError:
    """`error`, which has no subject, said of a record."""
    return DamagedDataError(f"{reader.describe(record)} {error}: run `alexnet-fast verify {reader.dataset}`")
