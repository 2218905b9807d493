"""The DALI graph: encoded images and boxes in, resized and mirrored uint8 images out, on the CPU or on a GPU.

One graph serves training and evaluation, with a GPU and without: decode a region, resize a part of it, perhaps
mirrored. Only the boxes that are fed differ, so what a machine without a GPU tests is what runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...images import CropArray, EvalGeometry

if TYPE_CHECKING:
    import torch

_MEBIBYTE = 1 << 20


class Cuts(NamedTuple):
    """What to take of n images; every pair is (vertical, horizontal).

    Attributes:
        anchors, shapes: int32 (n, 2): the region to decode, whole pixels of the source.
        starts, ends: float32 (n, 2): the part of that region that fills the output; a start beyond its end mirrors.
    """

    anchors: npt.NDArray[np.int32]
    shapes: npt.NDArray[np.int32]
    starts: npt.NDArray[np.float32]
    ends: npt.NDArray[np.float32]


def cut_train(boxes: CropArray, flips: npt.NDArray[np.bool_]) -> Cuts:
    """Each box (top, left, height, width) whole; mirrored left to right where `flips` says so."""
    starts = np.zeros((len(boxes), 2), np.float32)
    ends = boxes[:, 2:].astype(np.float32)
    # The resize runs backwards over the columns: mirroring costs nothing, and the pixels are those of a later flip.
    starts[flips, 1], ends[flips, 1] = ends[flips, 1], 0
    return Cuts(np.ascontiguousarray(boxes[:, :2]), np.ascontiguousarray(boxes[:, 2:]), starts, ends)


def cut_eval(heights: npt.ArrayLike, widths: npt.ArrayLike, image_size: int, shorter_side: int | None = None) -> Cuts:
    """The centre that torchvision's Resize and CenterCrop would show, as one resize of a part of the source.

    See `EvalGeometry`. The region reaches as far beyond the centre as the filter does, so every pixel is what resizing
    the whole would give.
    """
    shown = EvalGeometry.of(heights, widths, image_size, shorter_side)
    begin, end = shown.offsets * shown.scale, (shown.offsets + image_size) * shown.scale
    reach = np.ceil(np.maximum(shown.scale, 1)) + 1
    first = np.maximum(np.floor(begin - reach), 0)
    last = np.minimum(np.ceil(end + reach), shown.sizes)
    return Cuts(
        first.astype(np.int32),
        (last - first).astype(np.int32),
        (begin - first).astype(np.float32),
        (end - first).astype(np.float32),
    )


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images are decoded on a GPU; on the CPU only `region` means something.

    Attributes:
        region: decode only the region, where the codec can; otherwise decode the whole image, then cut.
        hw_decoder_load: share of each batch for the JPEG engines that A100, H100 and H200 have.
        huffman_threshold: images of more pixels have their entropy decoded on the GPU, others by CPU threads.
        fancy_upsampling: halved chroma is interpolated as libjpeg-turbo does, where nvJPEG would repeat it.
        largest: (width, height) that most images stay under; sizes the engines' buffers.
        most_pixels: of any image; sizes the buffers of each thread.
    """

    region: bool = True
    hw_decoder_load: float = 0.0
    huffman_threshold: int = 1_000_000
    fancy_upsampling: bool = False
    largest: tuple[int, int] = (0, 0)
    most_pixels: int = 0

    def mixed_arguments(self) -> dict[str, Any]:
        """Arguments of DALI's decoders for device 'mixed'."""
        # nvJPEG keeps 16-bit coefficients of three planes on the device and some less on the host; what does not fit is
        # allocated anew in the middle of a run, so bounds are generous, yet one giant image must not claim them all.
        device = min(max(16 * _MEBIBYTE, 6 * self.most_pixels), 256 * _MEBIBYTE)
        host = min(max(8 * _MEBIBYTE, 4 * self.most_pixels), 192 * _MEBIBYTE)
        width, height = self.largest if self.hw_decoder_load > 0 else (0, 0)
        return {
            "device": "mixed",
            "hw_decoder_load": self.hw_decoder_load,
            "hybrid_huffman_threshold": self.huffman_threshold,
            "jpeg_fancy_upsampling": self.fancy_upsampling,
            "preallocate_width_hint": width,
            "preallocate_height_hint": height,
            "device_memory_padding": device,
            "host_memory_padding": host,
            # Threads pinned from core 0 up would share the cores of another rank or of another job.
            "affine": False,
        }


def build_pipeline(
    source: Callable[[], tuple[list[Any], ...]],
    *,
    batch_size: int,
    image_size: int,
    num_threads: int,
    device_id: int | None,
    depth: int,
    decoding: Decoding,
) -> Any:
    """A built DALI pipeline with one output: uint8 (n, S, S, 3), on the device.

    Args:
        source: called for each batch; returns (encoded images, anchors, shapes, starts, ends), the last four from
            `Cuts`; raises StopIteration at the end. What it returns must stay alive until the batch has come out.
        depth: batches that are prepared ahead.
        device_id: of a CUDA device; None for the CPU.
    """
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device_id,
        prefetch_queue_depth=depth,
        # Counts references to outputs, so that they can be handed to torch without a copy and kept at will.
        exec_dynamic=True,
    )
    integers, reals = types.DALIDataType.INT32, types.DALIDataType.FLOAT
    # EXIF orientation is passed over, as torchvision's decoder does: boxes are drawn for the image as it is stored.
    arguments: dict[str, Any] = {"output_type": types.DALIImageType.RGB, "adjust_orientation": False}
    arguments.update({"device": "cpu"} if device_id is None else decoding.mixed_arguments())
    with pipeline:
        jpegs, anchors, shapes, starts, ends = fn.external_source(
            source,
            num_outputs=5,
            batch=True,
            no_copy=True,
            dtype=[types.DALIDataType.UINT8, integers, integers, reals, reals],
            ndim=[1, 1, 1, 1, 1],
        )
        if decoding.region:
            regions = fn.decoders.image_slice(jpegs, anchors, shapes, axis_names="HW", **arguments)
        else:
            regions = fn.slice(fn.decoders.image(jpegs, **arguments), anchors, shapes, axis_names="HW")
        images = fn.resize(
            regions,
            size=[image_size, image_size],
            roi_start=starts,
            roi_end=ends,
            interp_type=types.DALIInterpType.INTERP_LINEAR,
            antialias=True,
            bytes_per_sample_hint=image_size * image_size * 3,
        )
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline


def take_images(pipeline: Any, stream: Any = None) -> torch.Tensor:
    """The next batch, (n, 3, S, S) uint8 in channels_last memory: DALI's own, kept as long as the tensor lives.

    Args:
        stream: on a GPU, the current torch.cuda.Stream: it waits for the batch, and on it the memory is given back.

    Raises:
        StopIteration: the source has ended and all batches were taken.
    """
    from torch.utils.dlpack import from_dlpack

    (output,) = pipeline.share_outputs(stream)
    images: torch.Tensor = from_dlpack(output.as_tensor())
    pipeline.release_outputs()
    return images.permute(0, 3, 1, 2)


def shut_down(pipeline: Any) -> None:
    """End the pipeline's threads now; outputs that were taken live on."""
    pipeline._shutdown()  # DALI has no public name for what its destructor does
