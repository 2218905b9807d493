"""Crops of many images at a time, by compiled code where there is such, else the plain way, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError
from . import native, plain
from .augment import scale_and_bias
from .geometry import CropPlan
from .plain import ByteArray, Encoded

if TYPE_CHECKING:
    import torch

Flips: TypeAlias = "npt.NDArray[np.bool_] | None"
Seeks: TypeAlias = "Sequence[Encoded | None] | None"
OutputArray: TypeAlias = "npt.NDArray[Any]"
_COMPILED_TYPES = ("uint8", "bfloat16", "float32")  # float16 is for GPUs, where the device normalises


def output_array(memory: ByteArray, image_size: int, dtype: str) -> OutputArray:
    """(n, S, S, 3) over the bytes of n images of that type; values of two bytes are uint16: numpy has no bfloat16."""
    import torch

    return memory.view(f"u{getattr(torch, dtype).itemsize}").reshape(-1, image_size, image_size, 3)


def image_tensor(memory: ByteArray, image_size: int, dtype: str) -> torch.Tensor:
    """(n, 3, S, S), channels_last, over the bytes of n images of that type; holds on to this very array."""
    import torch

    shape = (-1, image_size, image_size, 3)
    return torch.from_numpy(memory).view(getattr(torch, dtype)).view(shape).permute(0, 3, 1, 2)


class UndecodableError(DamagedDataError):
    """One of the images cannot be decoded; the text has no subject.

    Attributes:
        position: its place among those that were given.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class Cropper:
    """Decodes, crops, resizes, mirrors and normalises images; one per thread.

    The resize is the antialiased bilinear filter of torchvision's Resize and RandomResizedCrop on uint8. Compiled code
    mixes rows first and columns then, torch columns first, and both round in between: a grey level apart, rarely two.

    Args:
        image_size: side S of the output, pixels.
        dtype: of the output: 'uint8', or a floating-point type, which is normalised.
    """

    def __init__(self, image_size: int, dtype: str = "uint8") -> None:
        self._dtype = dtype
        self._native: Any = native.compiled_code() if dtype in _COMPILED_TYPES else None
        if self._native is None:
            return
        self._workspace = self._native.workspace()
        self._normalise: npt.NDArray[np.float32] | None = None
        if dtype != "uint8":
            self._normalise = np.stack([row.numpy() for row in scale_and_bias("cpu", image_size)])

    def jpegs(self, jpegs: Sequence[Encoded], seeks: Seeks, plan: CropPlan, flips: Flips, out: OutputArray) -> None:
        """Put the crop of each of n JPEGs into `out`.

        Args:
            seeks: for each JPEG its entry of a seek index (`find_row_starts`), or None; None: none at all. They save
                decoding what lies above a crop.
            plan: n crops.
            flips: (n,), which are mirrored; None: none.
            out: (n, S, S, 3), of `output_array`.

        Raises:
            UndecodableError: the bytes are no image of the size that the plan says, or its seek entry is not its own.
        """
        if self._native is None:
            for i, jpeg in enumerate(jpegs):
                self._plain_jpeg(jpeg, plan, i, flips, out)
            return
        statuses = self._native.cut_jpegs(
            self._workspace, list(jpegs), seeks, plan.rows, flips, self._dtype, self._normalise, out
        )
        if any(statuses):
            for i, status in enumerate(statuses):
                if status and self._is_for_plain(status, i):
                    self._plain_jpeg(jpegs[i], plan, i, flips, out)

    def pixels(
        self, pixels: ByteArray, numbers: npt.NDArray[np.int64], plan: CropPlan, flips: Flips, out: OutputArray
    ) -> None:
        """Put the crop of n of the decoded images (N, H, W, 3), those of these numbers, into `out`."""
        if self._native is None:
            for i, number in enumerate(numbers.tolist()):
                self._plain_pixels(pixels[number], plan, i, flips, out)
            return
        statuses = self._native.cut_pixels(
            self._workspace, pixels, numbers, plan.rows, flips, self._dtype, self._normalise, out
        )
        for i, status in enumerate(statuses):
            if status:
                self._is_for_plain(status, i)

    def _is_for_plain(self, status: int, i: int) -> bool:
        name = self._native.STATUSES[status]
        if name == "bad box":
            raise ValueError(f"image {i}: its box does not lie in it, or its output not in the scaled box")
        if name == "bad seek entry":
            raise UndecodableError("has a damaged entry in the seek index, or another image's", i)
        if name == "no memory":
            raise MemoryError
        return True

    def _plain_jpeg(self, jpeg: Encoded, plan: CropPlan, i: int, flips: Flips, out: OutputArray) -> None:
        try:
            image = plain.decode_whole(jpeg, *plan.crop(i).size)
        except DamagedDataError as error:
            raise UndecodableError(str(error), i) from None
        self._plain_pixels(image, plan, i, flips, out)

    def _plain_pixels(self, image: ByteArray, plan: CropPlan, i: int, flips: Flips, out: OutputArray) -> None:
        import torch

        with torch.inference_mode():  # what autograd notes takes 10 to 50 us an image
            tensor = torch.from_numpy(out[i]).view(getattr(torch, self._dtype)).permute(2, 0, 1)
            plain.cut(image, plan.crop(i), flips is not None and bool(flips[i]), tensor)


class ImageDecoder:
    """Decodes whole images, by compiled code where there is such; one per thread."""

    def __init__(self) -> None:
        self._native: Any = native.compiled_code()
        self._workspace = None if self._native is None else self._native.workspace()

    def __call__(self, jpeg: Encoded, height: int, width: int) -> ByteArray:
        """The image, uint8 (height, width, 3).

        Raises:
            DamagedDataError: the bytes are no image of that size; the text has no subject.
        """
        return self.box(jpeg, None, height, width, [0, 0, height, width])

    def box(self, jpeg: Encoded, seek: Encoded | None, height: int, width: int, box: Sequence[int]) -> ByteArray:
        """The box (top, left, height, width) of an image, uint8 (box height, box width, 3).

        Args:
            seek: its entry of a seek index, or None.

        Raises:
            DamagedDataError: the bytes are no image of that size; the text has no subject.
        """
        top, left, box_height, box_width = box
        if self._native is not None:
            out = np.empty((box_height, box_width, 3), np.uint8)
            plan = np.array([height, width, *box], np.int32)
            if self._native.decode(self._workspace, jpeg, seek, plan, out) == 0:
                return out
        return plain.decode_whole(jpeg, height, width)[top : top + box_height, left : left + box_width]


def find_row_starts(jpeg: Encoded) -> tuple[int, int, bytes] | None:
    """(height, width, seek entry) of a JPEG that compiled code decodes to the end; None where it does not.

    Such a JPEG is sound: libjpeg-turbo decodes it without a warning. The entry of a seek index (docs/format.md) says
    where its rows of MCUs begin; it is empty for an image of one such row or with restart markers.
    """
    module = native.compiled_code()
    if module is None:
        return None
    status, height, width, starts = module.row_starts(native.thread_workspace(), jpeg)
    return (height, width, starts) if status == 0 else None
