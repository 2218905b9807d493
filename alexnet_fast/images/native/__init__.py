"""Crops cut and resized by compiled code, a lot of images a call and without Python's lock.

It is compiled when the package is installed, where a C compiler and Python's headers are there; to decode as well it
takes the headers of libjpeg-turbo. Where it was not compiled, or ALEXNET_FAST_NATIVE=off is set in the environment,
everything works without, slower.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from ..decode import trial_image


@functools.cache
def compiled_resizer() -> Any | None:
    """The compiled module, whose ``cut_pixels`` resizes; None where there is none or it does not run here."""
    if os.environ.get("ALEXNET_FAST_NATIVE") == "off":
        return None
    try:
        from . import _native  # type: ignore[attr-defined]

        pixels = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
        out = np.zeros((1, 4, 4, 3), np.uint8)
        _native.cut_pixels(pixels, np.array([1]), *_one_box([1, 1, 4, 4]), None, None, None, out)
    except Exception:  # whatever an extension does that was made for another Python or system
        return None
    return _native if np.array_equal(out[0], pixels[1, 1:5, 1:5]) else None


@functools.cache
def compiled_decoder() -> Any | None:
    """The compiled module where it also decodes (``cut_jpegs``), and does so as simplejpeg does; else None."""
    module = compiled_resizer()
    if module is None or not hasattr(module, "cut_jpegs"):
        return None
    jpeg, image = trial_image()
    out = np.zeros((1, 20, 20, 3), np.uint8)
    done, _, _ = module.cut_jpegs([jpeg], [40], [50], *_one_box([9, 7, 20, 20]), None, None, None, out, 0)
    return module if done == 1 and np.array_equal(out[0], image[9:29, 7:27]) else None


def _one_box(box: list[int]) -> tuple[Any, Any, Any]:
    """Boxes, scaled sizes and offsets of one square box that is not resized."""
    return np.array([box], np.int32), np.array([box[2:]], np.int32), np.zeros((1, 2), np.int32)
