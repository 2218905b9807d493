"""JPEG bytes and a box in; a resized uint8 image out: what a loader does on the host for every image.

Nothing here knows of data sets, epochs or workers, so that each stage can be called, tested and timed alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DamagedDataError
from .augment import CropArray, eval_resize, eval_size

if TYPE_CHECKING:
    import torch

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int32]
Encoded: TypeAlias = "bytes | memoryview"

DECODERS = ("auto", "native", "simplejpeg", "nvimgcodec")

# Up to so many pixels, simplejpeg's whole image costs less than nvImageCodec's region. With the crops of a random
# resized crop on one core of an Intel Xeon with AVX512: 34 us against 40 us for 64 x 64 (Tiny ImageNet), 432 us against
# 378 us at a longest side of 375, 1,257 us against 1,013 us for full-size ImageNet; the lines fitted to single images
# cross near 9,000 pixels.
_WHOLE_PIXELS = 96 * 96

# An end of the evaluated region may lie so many source pixels off a whole one; it shifts the image by as much.
_EVAL_MISFIT = 0.02


class Crop(NamedTuple):
    """One row of a `CropPlan`."""

    box: list[int]
    scaled: list[int]
    offset: list[int]


@dataclass(frozen=True)
class CropPlan:
    """For n images: which box to cut, to what size to scale it, and where in that the output lies.

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

    def tolist(self) -> list[Crop]:
        """One `Crop` an image, of Python's own numbers, which cost less than numpy's to handle one by one."""
        return list(map(Crop, self.boxes.tolist(), self.scaled.tolist(), self.offsets.tolist()))


def plan_train(boxes: CropArray, image_size: int) -> CropPlan:
    """Every box is resized to (image_size, image_size), whatever its shape, as RandomResizedCrop does."""
    n = len(boxes)
    return CropPlan(boxes, np.full((n, 2), image_size, np.int32), np.zeros((n, 2), np.int32))


def plan_eval(
    heights: npt.ArrayLike, widths: npt.ArrayLike, image_size: int, shorter_side: int | None = None
) -> CropPlan:
    """Shorter side to a length, then the centre: torchvision's Resize and CenterCrop as one resize.

    The length is `shorter_side`, or `eval_resize(image_size)` where that is None.

    Only the part of the image that the centre is computed from is resized. Its ends are chosen where whole output
    pixels fall on whole source pixels, a pixel or more outside the centre, so that the filter sees what it would see in
    the whole image.
    """
    h, w = np.asarray(heights, dtype=np.int64), np.asarray(widths, dtype=np.int64)
    target = shorter_side or eval_resize(image_size)
    # torchvision's CenterCrop rounds the offset half to even.
    new_h, new_w = eval_size(h, w, target)
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


def _off_beat(size: int) -> ByteArray:
    """An uninitialised buffer that begins 16 bytes past a multiple of 32.

    libjpeg-turbo writes rows that begin at a multiple of 32 past the cache, and whoever cuts the crop waits for them:
    with 64 x 64 images decoding takes 28 to 31 us into such a buffer and 20 to 22 us into this one (Intel Xeon with
    AVX512).
    """
    raw: ByteArray = np.empty(size + 48, np.uint8)
    begin = (16 - raw.ctypes.data) % 32
    return raw[begin : begin + size]


def _contiguous(image: ByteArray, box: list[int]) -> ByteArray:
    """The box (top, left, height, width) of `image` (H, W, 3), copied unless its pixels lie in a row already.

    Resizing takes 0.24 ms from a contiguous crop and 0.41 ms from a strided view (full-size ImageNet). The memory is
    new each time: numpy finds it as fast as a buffer of our own can be cut to size.
    """
    top, left, height, width = box
    return np.ascontiguousarray(image[top : top + height, left : left + width])


class SimpleJpeg:
    """libjpeg-turbo through simplejpeg: whole images."""

    def __init__(self) -> None:
        import simplejpeg

        self._decode = simplejpeg.decode_jpeg
        self._whole: ByteArray = np.empty(0, np.uint8)

    def whole(self, jpeg: Encoded, height: int, width: int) -> ByteArray:
        """The image, uint8 (height, width, 3), valid until the next call.

        Raises:
            DamagedDataError: see `ImageDecoder`.
        """
        if self._whole.size < height * width * 3:
            self._whole = _off_beat(height * width * 3)
        try:
            image = self._decode(jpeg, "RGB", buffer=self._whole)
        except ValueError as error:
            raise DamagedDataError(f"cannot be decoded ({' '.join(str(error).split())})") from None
        if image.shape != (height, width, 3):
            raise DamagedDataError(f"is not {width} pixels wide and {height} high, as the index says")
        return image  # type: ignore[no-any-return]


class NvImageCodec:
    """libjpeg-turbo through nvImageCodec (it comes with DALI): decodes a region and no more rows than it needs.

    Full-size ImageNet images, crops of a random resized crop: 0.89 ms against 1.11 ms for the whole image, on one
    core of an AMD EPYC.
    """

    def __init__(self) -> None:
        from nvidia import nvimgcodec

        self._codec = nvimgcodec
        self._decoder = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=1,
            backends=[nvimgcodec.Backend(nvimgcodec.CPU_ONLY)],
        )
        self._parameters = nvimgcodec.DecodeParams(apply_exif_orientation=False)
        self._image: Any = None

    def region(self, jpeg: Encoded, box: list[int]) -> ByteArray | None:
        """The box (top, left, height, width) of the image, contiguous; None where it cannot be decoded."""
        top, left, height, width = box
        codec = self._codec
        try:
            region = codec.Region(top, left, top + height, left + width)
            stream = codec.CodeStream(np.frombuffer(jpeg, np.uint8)).get_sub_code_stream(region=region)
            image = self._decoder.decode(stream, image=self._image, params=self._parameters)
        except RuntimeError:
            return None
        if image is None or image.shape != (height, width, 3):
            return None
        self._image = image
        return np.asarray(image)


class SmallCrops:
    """Cuts boxes out of small images into one buffer, of which a view for each size of box is made once.

    A crop costs 0.6 us so, and 1.5 us where its memory and tensor are new (64 x 64, Intel Xeon with AVX512).
    """

    def __init__(self) -> None:
        self._buffer: ByteArray = np.empty(_WHOLE_PIXELS * 3, np.uint8)
        self._views: dict[tuple[int, int], tuple[ByteArray, torch.Tensor]] = {}

    def __call__(self, image: ByteArray, box: list[int]) -> torch.Tensor:
        """The box (top, left, height, width) of `image` (H, W, 3), at most `SmallCrops.fits` pixels, as a tensor
        (1, 3, height, width), channels_last, valid until the next call."""
        top, left, height, width = box
        found = self._views.get((height, width))
        if found is None:
            import torch

            view = self._buffer[: height * width * 3].reshape(height, width, 3)
            found = self._views[height, width] = view, torch.from_numpy(view[None].transpose(0, 3, 1, 2))
        np.copyto(found[0], image[top : top + height, left : left + width])
        return found[1]

    @staticmethod
    def fits(height: int, width: int) -> bool:
        return height * width <= _WHOLE_PIXELS


def trial_image() -> tuple[bytes, ByteArray]:
    """A JPEG with halved chroma, and its pixels (40, 50, 3) as libjpeg-turbo decodes them: to try a decoder on."""
    import simplejpeg

    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    jpeg: bytes = simplejpeg.encode_jpeg(noise, colorsubsampling="420")
    return jpeg, simplejpeg.decode_jpeg(jpeg, "RGB")


@functools.cache
def region_decoder_works() -> bool:
    """Whether nvImageCodec is here and decodes a region of a small image as libjpeg-turbo does."""
    import os

    # It prints a warning for each damaged image, which we tell ourselves; it looks at this when it is imported.
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    jpeg, image = trial_image()
    try:
        region = NvImageCodec().region(jpeg, [9, 7, 20, 30])
    except Exception:  # whatever a library does that is half installed or too old for these calls
        return False
    return region is not None and np.array_equal(region, image[9:29, 7:37])


class ImageDecoder:
    """Decodes, crops and resizes images one after another, reusing its buffers; one per thread.

    The resize is torch's antialiased bilinear one on uint8, the filter of torchvision's Resize and RandomResizedCrop.

    Args:
        decoder: 'auto', 'simplejpeg' or 'nvimgcodec'; 'auto' takes for each image what is faster at its size.

    Attributes:
        decode_s, resize_s: seconds spent on either stage so far.
    """

    def __init__(self, decoder: str = "auto") -> None:
        import torch

        self._simple = SimpleJpeg()
        self._small = SmallCrops()
        self._regions: NvImageCodec | None = None  # made when first needed: small images are decoded whole
        self._use_regions = decoder != "simplejpeg"
        self._small_whole = decoder != "nvimgcodec"
        self.decode_s = self.resize_s = 0.0
        self._from_numpy = torch.from_numpy
        # What torch.nn.functional.interpolate(mode="bilinear", antialias=True) calls, which takes no `out`.
        self._resize: Any = torch._C._nn._upsample_bilinear2d_aa

    def __call__(self, jpeg: Encoded, height: int, width: int, crop: Crop, out: torch.Tensor) -> None:
        """Decode an image of `height` x `width` pixels and put its crop into `out` (1, 3, S, S) uint8, channels_last.

        Raises:
            DamagedDataError: the bytes are no image of that size; the text has no subject.
        """
        begin = perf_counter()
        region = self._region(jpeg, height, width, crop.box)
        whole = self._simple.whole(jpeg, height, width) if region is None else None
        decoded = perf_counter()
        if region is not None:
            self._resize_to(region, crop, out)
        elif whole is not None:
            self._cut(whole, crop, out)
        self.decode_s += decoded - begin
        self.resize_s += perf_counter() - decoded

    def cut(self, image: ByteArray, crop: Crop, out: torch.Tensor) -> None:
        """Put the crop of a decoded image (H, W, 3) into `out` (1, 3, S, S) uint8, channels_last."""
        begin = perf_counter()
        self._cut(image, crop, out)
        self.resize_s += perf_counter() - begin

    def _region(self, jpeg: Encoded, height: int, width: int, box: list[int]) -> ByteArray | None:
        """The box as nvImageCodec decodes it; None where the whole image has to be decoded, or is so sooner."""
        if not self._use_regions or (self._small_whole and SmallCrops.fits(height, width)):
            return None
        if self._regions is None:
            self._use_regions = region_decoder_works()
            if not self._use_regions:
                return None
            self._regions = NvImageCodec()
        return self._regions.region(jpeg, box)

    def _cut(self, image: ByteArray, crop: Crop, out: torch.Tensor) -> None:
        if SmallCrops.fits(crop.box[2], crop.box[3]):
            self._put(self._small(image, crop.box), crop, out)
        else:
            self._resize_to(_contiguous(image, crop.box), crop, out)

    def _resize_to(self, region: ByteArray, crop: Crop, out: torch.Tensor) -> None:
        self._put(self._from_numpy(region[None].transpose(0, 3, 1, 2)), crop, out)

    def _put(self, source: torch.Tensor, crop: Crop, out: torch.Tensor) -> None:
        _, scaled, offset = crop
        size = out.shape[2]
        if scaled[0] == size and scaled[1] == size:
            self._resize(source, scaled, False, None, None, out=out)
            return
        whole = self._resize(source, scaled, False, None, None)
        out.copy_(whole[:, :, offset[0] : offset[0] + size, offset[1] : offset[1] + size])
