"""Images: JPEG headers, decoding, the geometry of crops, augmentation, and the compiled code for them."""

from __future__ import annotations

from .augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CropArray,
    draw_crops,
    draw_flips,
    finish_batch,
    normalise_planes,
    sample_crops,
    sample_flips,
    uniform,
)
from .crop import (
    Cropper,
    Flips,
    ImageDecoder,
    OutputArray,
    Seeks,
    UndecodableError,
    find_row_starts,
    image_tensor,
    output_array,
)
from .device_augment import draw_on_device, resampling_matrix
from .geometry import CropPlan, EvalGeometry, eval_resize, plan_eval, plan_train
from .jpeg import as_eight_bits, check, prepare
from .native import compiled_code, describe_compiled_code
from .plain import ByteArray

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ByteArray",
    "CropArray",
    "CropPlan",
    "Cropper",
    "EvalGeometry",
    "Flips",
    "ImageDecoder",
    "OutputArray",
    "Seeks",
    "UndecodableError",
    "as_eight_bits",
    "check",
    "compiled_code",
    "describe_compiled_code",
    "draw_crops",
    "draw_flips",
    "draw_on_device",
    "eval_resize",
    "find_row_starts",
    "finish_batch",
    "image_tensor",
    "normalise_planes",
    "output_array",
    "plan_eval",
    "plan_train",
    "prepare",
    "resampling_matrix",
    "sample_crops",
    "sample_flips",
    "uniform",
]
