"""Where a loader's workers take images from: the records of a split, or pixels that are decoded already."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import DamagedDataError
from ..images import ByteArray, Cropper, CropPlan, Flips, OutputSlots, UndecodableError
from .batch_buffers import SharedMemory

Records = npt.NDArray[np.int64]


class CropFunction(Protocol):
    """One thread's means of cutting images."""

    def __call__(self, records: Records, plan: CropPlan, flips: Flips, slots: OutputSlots) -> None:
        """Put the crop of each record, resized, mirrored where `flips` says so, and finished, into its place.

        Raises:
            DamagedDataError: a record cannot be read or decoded; the text names it.
        """
        ...


class Images(Protocol):
    """Picklable, so that it can go to worker processes."""

    def crop_function(self, image_size: int, dtype: str) -> CropFunction:
        """Cuts crops of that size and type."""
        ...


class EncodedImages:
    """The JPEGs of a split.

    Args:
        reader: of the split.
        decoder: as in `Cropper`.
    """

    def __init__(self, reader: ShardReader, decoder: str) -> None:
        self.reader, self.decoder = reader, decoder

    def crop_function(self, image_size: int, dtype: str) -> CropFunction:
        reader, cutter = self.reader, Cropper(image_size, dtype, self.decoder)

        def cut(records: Records, plan: CropPlan, flips: Flips, slots: OutputSlots) -> None:
            rows = reader.index[records]
            heights, widths = rows["height"].tolist(), rows["width"].tolist()
            try:
                cutter.jpegs(reader.view_many(records), heights, widths, plan, flips, slots)
            except UndecodableError as error:
                raise damaged(reader, int(records[error.position]), error) from None

        return cut


class DecodedImages:
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

    def crop_function(self, image_size: int, dtype: str) -> CropFunction:
        pixels, cutter = self.pixels, Cropper(image_size, dtype)

        def cut(records: Records, plan: CropPlan, flips: Flips, slots: OutputSlots) -> None:
            cutter.pixels(pixels, records, plan, flips, slots)

        return cut


def damaged(reader: ShardReader, record: int, error: DamagedDataError) -> DamagedDataError:
    """`error`, which has no subject, said of a record."""
    return DamagedDataError(f"{reader.describe(record)} {error}: run `alexnet-fast verify {reader.dataset}`")
