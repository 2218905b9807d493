"""Where a loader's workers take pictures from: the records of a split, or pixels that are decoded already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..decode import Crop, PictureDecoder
from ..errors import DamagedDataError
from ..shards import ShardReader
from .ring import ByteArray, SharedMemory

if TYPE_CHECKING:
    import torch

Records = npt.NDArray[np.int64]


class Cutter(Protocol):
    """One thread's means of cutting pictures."""

    def __call__(
        self, records: Records, crops: Sequence[Crop], places: Iterable[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Put the crop of each record, resized, into its place, (1, 3, S, S) uint8, channels_last.

        Yields:
            Each place when it is filled; the next may be the same one again.

        Raises:
            DamagedDataError: a record cannot be read or decoded; the text names it.
        """
        ...


class Pictures(Protocol):
    """Picklable, so that it can go to worker processes."""

    def cutter(self) -> Cutter: ...


class EncodedPictures:
    """The JPEGs of a split.

    Args:
        reader: of the split.
        decoder: as in `PictureDecoder`.
    """

    def __init__(self, reader: ShardReader, decoder: str) -> None:
        self.reader, self.decoder = reader, decoder

    def cutter(self) -> Cutter:
        reader, decode = self.reader, PictureDecoder(self.decoder)

        def cut(records: Records, crops: Sequence[Crop], places: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
            rows = reader.index[records]
            heights, widths = rows["height"].tolist(), rows["width"].tolist()
            jpegs = reader.view_many(records)
            for i, (jpeg, crop, place) in enumerate(zip(jpegs, crops, places, strict=False)):
                try:
                    decode(jpeg, heights[i], widths[i], crop, place)
                except DamagedDataError as error:
                    raise damaged(reader, int(records[i]), error) from None
                yield place

        return cut


class DecodedPictures:
    """Pictures of one size, decoded, in memory that workers share.

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

    def cutter(self) -> Cutter:
        pixels, cut_one = self.pixels, PictureDecoder("simplejpeg").cut

        def cut(records: Records, crops: Sequence[Crop], places: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
            for record, crop, place in zip(records.tolist(), crops, places, strict=False):
                cut_one(pixels[record], crop, place)
                yield place

        return cut


def damaged(reader: ShardReader, record: int, error: DamagedDataError) -> DamagedDataError:
    """`error`, which has no subject, said of a record."""
    return DamagedDataError(f"{reader.describe(record)} {error}: run `alexnet-fast verify {reader.dataset}`")
