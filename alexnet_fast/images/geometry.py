"""Which part of an image becomes the output: crops of training, and the centre that evaluation shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]

# Eval shows the network the centre 224 of 256 (Krizhevsky et al. 2012, section 4.1), in proportion at other sizes.
EVAL_RESIZE = 256 / 224
# An end of the evaluated region may lie so many source pixels off a whole one; it shifts the image by as much.
_EVAL_MISFIT = 0.02


class Crop(NamedTuple):
    """One row of a `CropPlan`."""

    size: list[int]
    box: list[int]
    scaled: list[int]
    offset: list[int]


@dataclass(frozen=True)
class CropPlan:
    """For n images: which box to cut, to what size to scale it, and where in that the output lies.

    Attributes:
        rows: int32 (n, 10): what the properties below show, column by column. Compiled code reads it as it is
            (native/cut.h, struct crop_row).
    """

    rows: IntArray

    @classmethod
    def of(cls, sizes: npt.ArrayLike, boxes: npt.ArrayLike, scaled: npt.ArrayLike, offsets: npt.ArrayLike) -> CropPlan:
        """From (n, 2) sizes, (n, 4) boxes, (n, 2) scaled sizes and (n, 2) offsets; rows of one stand for all."""
        boxes = np.asarray(boxes)
        rows = np.empty((len(boxes), 10), np.int32)
        rows[:, :2], rows[:, 2:6], rows[:, 6:8], rows[:, 8:] = sizes, boxes, scaled, offsets
        return cls(rows)

    @property
    def sizes(self) -> IntArray:
        """(n, 2): height and width of the image, pixels."""
        return self.rows[:, :2]

    @property
    def boxes(self) -> IntArray:
        """(n, 4): top, left, height, width in the image, whole pixels."""
        return self.rows[:, 2:6]

    @property
    def scaled(self) -> IntArray:
        """(n, 2): height and width the box is resized to."""
        return self.rows[:, 6:8]

    @property
    def offsets(self) -> IntArray:
        """(n, 2): top and left of the output within the resized box."""
        return self.rows[:, 8:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> CropPlan:
        return CropPlan(self.rows[part])

    def crop(self, i: int) -> Crop:
        """Row i, in Python's own numbers."""
        row = self.rows[i].tolist()
        return Crop(row[:2], row[2:6], row[6:8], row[8:])


def plan_train(boxes: IntArray, heights: npt.ArrayLike, widths: npt.ArrayLike, image_size: int) -> CropPlan:
    """Every box is resized to (image_size, image_size), whatever its shape, as RandomResizedCrop does."""
    sizes = np.stack([np.asarray(heights), np.asarray(widths)], axis=1)
    return CropPlan.of(sizes, boxes, [image_size, image_size], [0, 0])


def eval_resize(image_size: int) -> int:
    """The length that evaluation scales the shorter side to: 256 for 224."""
    return round(EVAL_RESIZE * image_size)


@dataclass(frozen=True)
class EvalGeometry:
    """What evaluation shows of n images: the shorter side scaled to a length, then the centre, S x S pixels, as
    torchvision's Resize and CenterCrop do it::

             image                 scaled image
        +----------------+        +-------------+   -
        |                |        |   +-----+   |   | offsets[:, 0]
        |     sizes      | -----> |   |  S  |   |   -
        |                |        |   +-----+   |  scaled
        +----------------+        +-------------+
                                  |---| offsets[:, 1]

    Pixel p of an axis of the scaled image stretches from p * scale to (p + 1) * scale in the image.

    Attributes:
        image_size: side S, pixels.
        sizes: int64 (n, 2): height and width of the image.
        scaled: int64 (n, 2): height and width of the scaled image; the longer is truncated.
        offsets: int64 (n, 2): top and left of the centre in it, rounded half to even.
        scale: float64 (n, 2): sizes / scaled.
    """

    image_size: int
    sizes: npt.NDArray[np.int64]
    scaled: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, heights: npt.ArrayLike, widths: npt.ArrayLike, image_size: int, shorter_side: int | None = None
    ) -> EvalGeometry:
        """
        Args:
            heights, widths: (n,), of the images, pixels.
            shorter_side: the length; None: `eval_resize(image_size)`.
        """
        sizes = np.stack([np.asarray(heights, np.int64), np.asarray(widths, np.int64)], axis=1)
        shorter = sizes.min(axis=1, keepdims=True)
        scaled = sizes * (shorter_side or eval_resize(image_size)) // shorter
        offsets = np.rint((scaled - image_size) / 2).astype(np.int64)
        return cls(image_size, sizes, scaled, offsets, sizes / scaled)


def plan_eval(
    heights: npt.ArrayLike, widths: npt.ArrayLike, image_size: int, shorter_side: int | None = None
) -> CropPlan:
    """`EvalGeometry` as one resize of the part of each image that the centre is computed from.

    The part ends where whole output pixels fall on whole source pixels, a pixel or more outside the centre, so that the
    filter sees what it would see in the whole image::

        image     |....[==============================]....|     the box, whole pixels
        scaled    |....[margin|       centre      |margin]....|
    """
    geometry = EvalGeometry.of(heights, widths, image_size, shorter_side)
    before = geometry.offsets
    after = geometry.scaled - image_size - before
    margin_before = _margin(before, lambda margin: (before - margin) * geometry.scale)
    margin_after = _margin(after, lambda margin: (before + image_size + margin) * geometry.scale)
    begin = np.rint((before - margin_before) * geometry.scale)
    end = np.rint((before + image_size + margin_after) * geometry.scale)
    boxes = np.concatenate([begin, end - begin], axis=1)
    return CropPlan.of(geometry.sizes, boxes, margin_before + image_size + margin_after, margin_before)


def _margin(most: Any, position: Any) -> Any:
    """The smallest margin of 1 to 32 pixels, at most `most`, whose end lies on a whole source pixel, or comes nearest;
    `position` gives where a margin ends."""
    margins = np.minimum(np.arange(1, 33)[:, None, None], most[None])
    misfit = np.abs(position(margins) - np.rint(position(margins)))
    fits = misfit <= _EVAL_MISFIT
    best = np.where(fits.any(0), fits.argmax(0), misfit.argmin(0))
    return np.take_along_axis(margins, best[None], axis=0)[0]
