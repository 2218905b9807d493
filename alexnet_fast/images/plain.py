"""The plain way to cut crops: simplejpeg (libjpeg-turbo) decodes, and torchvision's own functions do the rest.

It is what compiled code is tested against, what runs where nothing was compiled, and what decodes the JPEGs that
compiled code leaves alone, such as progressive ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError
from .augment import IMAGENET_MEAN, IMAGENET_STD
from .geometry import Crop

if TYPE_CHECKING:
    import torch

ByteArray = npt.NDArray[np.uint8]
Encoded: TypeAlias = "bytes | memoryview"


def decode_whole(jpeg: Encoded, height: int, width: int) -> ByteArray:
    """The image, uint8 (height, width, 3).

    Raises:
        DamagedDataError: the bytes are no image of that size; the text has no subject.
    """
    import simplejpeg

    try:
        image: ByteArray = simplejpeg.decode_jpeg(jpeg, "RGB")
    except ValueError as error:
        raise DamagedDataError(f"cannot be decoded ({' '.join(str(error).split())})") from None
    if image.shape != (height, width, 3):
        raise DamagedDataError(f"is not {width} pixels wide and {height} high, as the index says")
    return image


def cut(image: ByteArray, crop: Crop, mirrored: bool, out: torch.Tensor) -> None:
    """Cut, resize (antialiased), mirror and, for a floating-point type, normalise.

    Args:
        image: uint8 (H, W, 3).
        crop: which box, and to what.
        out: (3, S, S), of any strides; written.
    """
    import torch
    from torchvision.transforms.v2 import functional

    (top, left, height, width), (y, x), size = crop.box, crop.offset, out.shape[1]
    # Copied first: torch resizes a view of a larger image in 0.41 ms and a contiguous one in 0.24 (full-size ImageNet).
    box = torch.from_numpy(np.ascontiguousarray(image[top : top + height, left : left + width]))
    result = functional.resize(box.permute(2, 0, 1), crop.scaled, antialias=True)[:, y : y + size, x : x + size]
    if mirrored:
        result = functional.horizontal_flip(result)
    if out.dtype != torch.uint8:
        result = functional.normalize(
            functional.to_dtype(result, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD
        )
    out.copy_(result)
