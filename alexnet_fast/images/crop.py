"""Crops of a lot of images at a time, by compiled code where there is such, else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError, MissingDependencyError, UsageError
from . import native
from .augment import ImageFinisher
from .decode import DECODERS, ByteArray, CropPlan, ImageDecoder, region_decoder_works

if TYPE_CHECKING:
    import torch

Flips: TypeAlias = "npt.NDArray[np.bool_] | None"
_COMPILED_TYPES = ("uint8", "bfloat16", "float32")  # float16 is for GPUs, where the device normalises


def image_tensor(memory: ByteArray, image_size: int, dtype: str) -> torch.Tensor:
    """(n, 3, S, S), channels_last, over the bytes of n images of that type; holds on to this very array."""
    import torch

    shape = (-1, image_size, image_size, 3)
    return torch.from_numpy(memory).view(getattr(torch, dtype)).view(shape).permute(0, 3, 1, 2)


def check_decoder(decoder: str) -> None:
    """
    Raises:
        UsageError: there is no such decoder.
        MissingDependencyError: it is not there on this computer.
    """
    if decoder not in DECODERS:
        raise UsageError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    if decoder == "native" and native.compiled_decoder() is None:
        raise MissingDependencyError(
            "decoder native was not compiled here: install a C compiler and libjpeg-turbo's headers (Debian, "
            "Ubuntu: gcc libjpeg-dev) and alexnet-fast once more, or use auto"
        )
    if decoder == "nvimgcodec" and not region_decoder_works():
        raise MissingDependencyError(
            "decoder nvimgcodec does not work here: `pip install nvidia-nvimgcodec-cu12` (Linux), or use simplejpeg"
        )


@dataclass(frozen=True)
class OutputSlots:
    """Where n images go, the same memory twice.

    Attributes:
        array: (n, S, S, 3), contiguous, of as many bytes a value as the images have; bfloat16 is seen as uint16.
        tensors: n of (1, 3, S, S), channels_last, of the images' type. Made once: each costs 2 us.
    """

    array: npt.NDArray[Any]
    tensors: Sequence[torch.Tensor]

    @classmethod
    def over(cls, memory: ByteArray, image_size: int, dtype: str) -> OutputSlots:
        """Over the bytes of images of that size and type."""
        images = image_tensor(memory, image_size, dtype)
        array = memory.view(f"u{images.itemsize}").reshape(-1, image_size, image_size, 3)
        return cls(array, [images[i : i + 1] for i in range(len(array))])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, part: slice) -> OutputSlots:
        return OutputSlots(self.array[part], self.tensors[part])


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
    On one core of an Intel Xeon with AVX512, with crops of a random resized crop, the compiled code takes 27 us for an
    image of 64 x 64 where the libraries called from Python take 53 us, 0.40 ms against 0.56 ms at a longest side of
    375, and 1.02 ms against 1.33 ms for full-size ImageNet.

    Args:
        image_size: side S of the output, pixels.
        dtype: of the output: 'uint8', or a floating-point type, which is normalised.
        decoder: 'auto', 'native' (the compiled code), or one of those of `ImageDecoder`. 'auto' is the compiled code
            where it is there, and leaves to the libraries what it does not decode: progressive JPEGs, for example.

    Raises:
        UsageError: there is no such decoder.
        MissingDependencyError: there is none such here.
    """

    def __init__(self, image_size: int, dtype: str = "uint8", decoder: str = "auto") -> None:
        check_decoder(decoder)
        compiled = decoder in ("auto", "native") and dtype in _COMPILED_TYPES
        self._native: Any = native.compiled_decoder() if compiled else None
        self._resizer: Any = native.compiled_resizer() if compiled else None
        # What compiled code refuses may be damaged, and simplejpeg says so where nvImageCodec makes something up.
        others = "auto" if decoder == "native" else decoder
        self._one_by_one = ImageDecoder(others if self._native is None else "simplejpeg")
        self._decode_s = self._resize_s = 0.0
        self._scale = self._bias = self._uint8 = None
        if dtype != "uint8":
            self._uint8 = OutputSlots.over(np.zeros(3 * image_size * image_size, np.uint8), image_size, "uint8")
            self._finish = ImageFinisher(image_size)
            self._scale, self._bias = self._finish.scale, self._finish.bias

    @property
    def decode_s(self) -> float:
        """Seconds spent on decoding so far."""
        return self._decode_s + self._one_by_one.decode_s

    @property
    def resize_s(self) -> float:
        """Seconds spent on cropping and resizing so far, and by compiled code on mirroring and normalising."""
        return self._resize_s + self._one_by_one.resize_s

    def jpegs(
        self,
        jpegs: list[bytes] | list[memoryview],
        heights: list[int],
        widths: list[int],
        plan: CropPlan,
        flips: Flips,
        places: OutputSlots,
    ) -> None:
        """Put the crop of each of n JPEGs into its place.

        Args:
            heights, widths: of the images, pixels.
            plan: n crops.
            flips: (n,), which are mirrored; None: none.
            places: n of them.

        Raises:
            UndecodableError: the bytes are no image of that size.
        """
        begin = 0
        while begin < len(jpegs):
            if self._native is None:
                end = len(jpegs)
            else:
                begin, decode, resize = self._native.cut_jpegs(
                    jpegs, heights, widths, plan.boxes, plan.scaled, plan.offsets, flips, self._scale, self._bias,
                    places.array, begin,
                )  # fmt: skip
                self._decode_s += decode
                self._resize_s += resize
                end = begin + 1
            for i, crop in enumerate(plan[begin:end].tolist(), begin):
                target = self._target(places, i)
                try:
                    self._one_by_one(jpegs[i], heights[i], widths[i], crop, target)
                except DamagedDataError as error:
                    raise UndecodableError(str(error), i) from None
                self._complete(target, flips, places, i)
            begin = end

    def pixels(
        self, pixels: ByteArray, numbers: npt.NDArray[np.int64], plan: CropPlan, flips: Flips, places: OutputSlots
    ) -> None:
        """Put the crop of n of the decoded images (N, H, W, 3), those of these numbers, into their places."""
        if self._resizer is not None:
            self._resizer.cut_pixels(
                pixels, numbers, plan.boxes, plan.scaled, plan.offsets, flips, self._scale, self._bias, places.array
            )
            return
        for i, (number, crop) in enumerate(zip(numbers.tolist(), plan.tolist(), strict=True)):
            target = self._target(places, i)
            self._one_by_one.cut(pixels[number], crop, target)
            self._complete(target, flips, places, i)

    def _target(self, places: OutputSlots, i: int) -> torch.Tensor:
        """Where an image is put as uint8."""
        return places.tensors[i] if self._uint8 is None else self._uint8.tensors[0]

    def _complete(self, image: torch.Tensor, flips: Flips, places: OutputSlots, i: int) -> None:
        """Mirror and normalise what lies where `_target` said."""
        mirrored = flips is not None and flips[i]
        if self._uint8 is None:
            if mirrored:
                image.copy_(image.flip(3))
        else:
            self._finish(image.flip(3) if mirrored else image, places.tensors[i])
