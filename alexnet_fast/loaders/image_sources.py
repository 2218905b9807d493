"""Where a loader's workers take images from: the records of a split, or pixels that are decoded already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import DamagedDataError
from ..images import (
    ByteArray,
    Cropper,
    CropPlan,
    Flips,
    OutputArray,
    UndecodableError,
    finish_batch,
    image_tensor,
)
from .batch_buffers import SharedMemory
from .transforms import ImageTransform


@dataclass(frozen=True)
class CropRequest:
    """The crops that are wanted of n records.

    Attributes:
        records: int64 (n,).
        plan: n crops, with the sizes of the records' images, so that a worker needs no index.
        flips: (n,), which are mirrored; None: none, or it is the device's to do.
        seeds: int64 (n,), of each image's transform; None where there is none.
    """

    records: npt.NDArray[np.int64]
    plan: CropPlan
    flips: Flips
    seeds: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, part: slice) -> CropRequest:
        columns: list[Any] = [getattr(self, field.name) for field in fields(self)]
        columns = [None if column is None else column[part] for column in columns]
        return CropRequest(*columns)


def join_requests(parts: Sequence[CropRequest]) -> CropRequest:
    """One request after another."""
    if len(parts) == 1:
        return parts[0]
    columns: list[Any] = []
    for name in (field.name for field in fields(CropRequest)):
        values = [getattr(part, name) for part in parts]
        if name == "plan":
            columns.append(CropPlan(np.concatenate([plan.rows for plan in values])))
        else:
            columns.append(None if values[0] is None else np.concatenate(values))
    return CropRequest(*columns)


class ImageSource(Protocol):
    """Picklable, so that it can go to worker processes."""

    def cropper(self, image_size: int, dtype: str) -> Any:
        """One thread's means of cutting these images, to be given to `cut`."""
        ...

    def cut(self, cropper: Any, request: CropRequest, out: OutputArray) -> None:
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
            cropper.jpegs(jpegs, self.reader.seek_entries(request.records), request.plan, request.flips, out)
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


class TransformedSource:
    """Another source's crops, each through somebody's function before it is finished.

    Args:
        source: of the crops.
        transform: the function.
    """

    def __init__(self, source: ImageSource, transform: ImageTransform) -> None:
        self._source, self._transform = source, transform

    def cropper(self, image_size: int, dtype: str) -> tuple[Any, int, str]:
        return self._source.cropper(image_size, "uint8"), image_size, dtype

    def cut(self, cropper: tuple[Any, int, str], request: CropRequest, out: OutputArray) -> None:
        """
        Raises:
            DamagedDataError: as `ImageSource.cut`.
            UsageError: the function fails; the text names the record.
        """
        import torch

        inner, size, dtype = cropper
        crops = out if dtype == "uint8" else np.empty((len(request), size, size, 3), np.uint8)
        self._source.cut(inner, request, crops)
        assert request.seeds is not None
        targets = torch.from_numpy(out).view(getattr(torch, dtype)).permute(0, 3, 1, 2)
        images = image_tensor(crops.reshape(-1), size, "uint8")
        for i, image in enumerate(self._transform(crops, request.records, request.seeds)):
            if image.is_floating_point():
                targets[i].copy_(image)
                continue
            planes = image.detach().cpu().numpy()
            for channel in range(3):  # 0.06 ms an image of 224 pixels; all in one assignment take 0.24 ms
                crops[i, :, :, channel] = planes[channel]
            if dtype != "uint8":
                targets[i].copy_(finish_batch(images[i : i + 1], None, targets.dtype)[0])


def damaged(reader: ShardReader, record: int, error: DamagedDataError) -> DamagedDataError:
    """`error`, which has no subject, said of a record."""
    return DamagedDataError(f"{reader.describe(record)} {error}: run `alexnet-fast verify {reader.dataset}`")
