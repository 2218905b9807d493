"""Images: JPEG headers, decoding, the geometry of crops, augmentation, and the compiled code for them."""

from __future__ import annotations

from .augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CropArray,
    draw_crops,
    draw_flips,
    eval_resize,
    eval_size,
    finish_batch,
    normalise_planes,
    resampling_matrix,
    sample_crops,
    sample_flips,
    uniform,
)
from .crop import Cropper, Flips, OutputSlots, UndecodableError, check_decoder, image_tensor
from .decode import DECODERS, ByteArray, CropPlan, SimpleJpeg, plan_eval, plan_train
from .jpeg import as_eight_bits, check, prepare
from .native import compiled_decoder, compiled_resizer

__all__ = [
    "DECODERS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ByteArray",
    "CropArray",
    "CropPlan",
    "Cropper",
    "Flips",
    "OutputSlots",
    "SimpleJpeg",
    "UndecodableError",
    "as_eight_bits",
    "check",
    "check_decoder",
    "compiled_decoder",
    "compiled_resizer",
    "draw_crops",
    "draw_flips",
    "eval_resize",
    "eval_size",
    "finish_batch",
    "image_tensor",
    "normalise_planes",
    "plan_eval",
    "plan_train",
    "prepare",
    "resampling_matrix",
    "sample_crops",
    "sample_flips",
    "uniform",
]
