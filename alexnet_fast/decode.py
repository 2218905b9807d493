"""JPEG bytes and a box in; a resized uint8 picture out: what a loader does on the host for every picture.

Nothing here knows of data sets, epochs or workers, so that each stage can be called, tested and timed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .augment import CropArray, eval_resize
from .errors import DamagedDataError

if TYPE_CHECKING:
    import torch

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]

# An end of the evaluated region may lie so many source pixels off a whole one. It shifts the picture by as much; the
# mean difference to torchvision's Resize and CenterCrop stays under a quarter of a grey level.
_EVAL_MISFIT = 0.02


@dataclass(frozen=True)
class CropPlan:
    """For n pictures: which box to cut, to what size to scale it, and where in that the output lies.

    Attributes:
        boxes: int32 (n, 4): top, left, height, width in the source, whole pixels.
        scaled: int32 (n, 2): height and width the box is resized to.
        offsets: int32 (n, 2): top and left of the output within the resized box.
    """

    boxes: IntArray
    scaled: IntArray
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, part: slice) -> CropPlan:
        return CropPlan(self.boxes[part], self.scaled[part], self.offsets[part])


def plan_train(boxes: CropArray, image_size: int) -> CropPlan:
    """Every box is resized to (image_size, image_size), whatever its shape, as RandomResizedCrop does."""
    n = len(boxes)
    return CropPlan(boxes, np.full((n, 2), image_size, np.int32), np.zeros((n, 2), np.int32))


def plan_eval(
    heights: npt.ArrayLike, widths: npt.ArrayLike, image_size: int, shorter_side: int | None = None
) -> CropPlan:
    """Shorter side to a length, then the centre: torchvision's Resize and CenterCrop as one resize.

    The length is `shorter_side`, or `eval_resize(image_size)` where that is None.

    Only the part of the picture that the centre is computed from is resized. Its ends are chosen where whole output
    pixels fall on whole source pixels, a pixel or more outside the centre, so that the filter sees what it would see in
    the whole picture.
    """
    h, w = np.asarray(heights, dtype=np.int64), np.asarray(widths, dtype=np.int64)
    shorter, target = np.minimum(h, w), shorter_side or eval_resize(image_size)
    # torchvision's Resize truncates the longer side and its CenterCrop rounds the offset half to even.
    new_h = np.where(h <= w, target, h * target // shorter)
    new_w = np.where(h <= w, w * target // shorter, target)
    top, bottom, y0, y1 = _eval_span(h, new_h, image_size)
    left, right, x0, x1 = _eval_span(w, new_w, image_size)
    boxes = np.stack([y0, x0, y1 - y0, x1 - x0], axis=1).astype(np.int32)
    scaled = np.stack([top + bottom, left + right], axis=1).astype(np.int32) + image_size
    return CropPlan(boxes, scaled, np.stack([top, left], axis=1).astype(np.int32))


def _eval_span(old: Any, new: Any, size: int) -> tuple[Any, Any, Any, Any]:
    """Margins (output pixels) before and after the centre `size` of `new`, and the source span [begin, end) of all."""
    before = np.rint((new - size) / 2).astype(np.int64)
    after = new - size - before
    scale = old / new
    margin_before = _margin(before, lambda m: (before - m) * scale)
    margin_after = _margin(after, lambda m: (before + size + m) * scale)
    begin = np.rint((before - margin_before) * scale).astype(np.int64)
    end = np.rint((before + size + margin_after) * scale).astype(np.int64)
    return margin_before, margin_after, begin, end


def _margin(most: Any, position: Any) -> Any:
    """The smallest margin of 1 to 32 pixels, at most `most`, that ends on a whole source pixel, or comes nearest."""
    margins = np.minimum(np.arange(1, 33)[:, None], most[None])
    misfit = np.stack([np.abs(position(m) - np.rint(position(m))) for m in margins])
    fits = misfit <= _EVAL_MISFIT
    best = np.where(fits.any(0), fits.argmax(0), misfit.argmin(0))
    return np.take_along_axis(margins, best[None], axis=0)[0]


class PictureDecoder:
    """Decodes and resizes pictures one after another, reusing its buffers; one per thread.

    The JPEG decoder is libjpeg-turbo (simplejpeg); the resize is torch's antialiased bilinear one on uint8, the filter
    of torchvision's Resize and RandomResizedCrop.
    """

    def __init__(self) -> None:
        import simplejpeg
        import torch

        self._decode = simplejpeg.decode_jpeg
        self._resize = torch.ops.aten._upsample_bilinear2d_aa.out
        self._from_numpy = torch.from_numpy
        self._full: ByteArray = np.empty(0, np.uint8)
        self._crop: ByteArray = np.empty(0, np.uint8)

    def decode(self, jpeg: bytes, height: int, width: int) -> ByteArray:
        """The whole picture, uint8 (height, width, 3) RGB; valid until the next call.

        Raises:
            DamagedDataError: the bytes are no picture of that size; the text begins with what is wrong.
        """
        if self._full.size < height * width * 3:
            self._full = np.empty(height * width * 3, np.uint8)
        try:
            picture = self._decode(jpeg, "RGB", buffer=self._full)
        except ValueError as error:
            raise DamagedDataError(f"cannot be decoded ({error})") from None
        if picture.shape != (height, width, 3):
            raise DamagedDataError(f"is {picture.shape[1]}x{picture.shape[0]} where the index says {width}x{height}")
        return picture  # type: ignore[no-any-return]

    def crop(self, picture: ByteArray, box: Any) -> ByteArray:
        """A contiguous copy of a box; valid until the next call. Resizing a strided view takes twice the time."""
        top, left, height, width = box
        view = picture[top : top + height, left : left + width]
        if view.flags.c_contiguous:
            return view
        size = view.size
        if self._crop.size < size:
            self._crop = np.empty(size, np.uint8)
        copy = self._crop[:size].reshape(view.shape)
        np.copyto(copy, view)
        return copy

    def resize(self, crop: ByteArray, scaled: Any, offset: Any, out: torch.Tensor) -> None:
        """Resize to `scaled` (height, width) and put what lies at `offset` into `out` (1, 3, S, S), channels_last."""
        source = self._from_numpy(crop)[None].permute(0, 3, 1, 2)
        size = out.shape[2]
        if scaled[0] == size and scaled[1] == size:
            self._resize(source, scaled, False, None, None, out=out)
            return
        import torch

        whole = torch.ops.aten._upsample_bilinear2d_aa(source, scaled, False, None, None)
        out.copy_(whole[:, :, offset[0] : offset[0] + size, offset[1] : offset[1] + size])

    def __call__(self, jpeg: bytes, height: int, width: int, plan: CropPlan, i: int, out: torch.Tensor) -> None:
        """Decode one picture and put its crop, number `i` of `plan`, into `out` (1, 3, S, S) uint8, channels_last."""
        picture = self.decode(jpeg, height, width)
        crop = self.crop(picture, plan.boxes[i].tolist())
        self.resize(crop, plan.scaled[i].tolist(), plan.offsets[i].tolist(), out)


def decode_crops(
    jpegs: list[bytes], heights: Any, widths: Any, plan: CropPlan, out: torch.Tensor, decoder: PictureDecoder | None
) -> None:
    """Decode n pictures into `out` (n, 3, S, S) uint8, channels_last.

    Raises:
        DamagedDataError: a picture cannot be decoded; its place among the n is in the attribute ``position``.
    """
    decoder = decoder or PictureDecoder()
    for i, jpeg in enumerate(jpegs):
        try:
            decoder(jpeg, int(heights[i]), int(widths[i]), plan, i, out[i : i + 1])
        except DamagedDataError as error:
            error.position = i  # type: ignore[attr-defined]
            raise
