"""A split of small equal images, decoded once: into device memory, or for the CPU into memory that workers share."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import DamagedDataError, UsageError
from ..images import (
    ByteArray,
    EvalGeometry,
    ImageDecoder,
    draw_on_device,
    normalise_planes,
    resampling_matrix,
)
from ..system import available_memory, choose_device, to_device, worker_count
from ..words import counted
from .base import Loader, check_options, view_epochs
from .batch_buffers import BatchBuffers
from .host import HostLoader
from .image_sources import PixelSource, damaged
from .order import Int64Array
from .workers import Workers

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig

# The share of the device's free memory that images may take: the network, its gradients and the batches need some.
MEMORY_SHARE = 0.5
_CHUNK = 2048  # images decoded before they go to the device


def open_resident(config: LoaderConfig, reader: ShardReader) -> Loader:
    """The resident loader for the device that `config` names.

    On a CPU workers cut one image after another out of shared memory: 0.013 ms of CPU time an image of 64 pixels, 0.029
    ms without compiled code, where the matrix products of `ResidentLoader` take 0.39 ms (uint8, two cores of an Intel
    Xeon).

    Raises:
        UsageError: images of several sizes, or more of them than fit into the device's free memory; an unknown option.
    """
    on_cpu = choose_device(config.device).type == "cpu"
    return ResidentHostLoader(config, reader) if on_cpu else ResidentLoader(config, reader)


class ResidentHostLoader(HostLoader):
    """Keeps the whole split as uint8 in memory that workers share and cut images from; see `HostLoader`.

    Options: ``workers``, ``context``: as the torchvision backend's.

    Raises:
        UsageError: as `open_resident`.
        DamagedDataError: (on the first pass) a record cannot be decoded.
    """

    backend = "resident"
    reads_shards = False

    def __init__(self, config: LoaderConfig, reader: ShardReader) -> None:
        options = check_options(config, "resident", workers="auto", context="auto")
        device = choose_device(config.device)
        size, about = _check_room(config, reader, device)
        self._pixels = PixelSource(len(reader), *size)
        super().__init__(config, reader, self._pixels, device, **options)
        self.description = f"{about}, cut by {self.workers_text}"
        self._decoded = False

    def _start(self) -> tuple[BatchBuffers, Workers]:
        if not self._decoded:
            pixels = self._pixels.pixels
            deque(_decode_all(self.reader, pixels.shape[1:3], self.num_workers, into=pixels), maxlen=0)
            self._decoded = True
        return super()._start()

    def close(self) -> None:
        super().close()
        self._decoded = False


class ResidentLoader(Loader):
    """Keeps the whole split as uint8 on the device, and crops, resizes, mirrors and normalises whole batches there.

    A crop is resized by two matrix products with the weights of the antialiased bilinear filter, so the pixels are
    those of the torchvision backend to within a grey level.

    Raises:
        UsageError: as `open_resident`.
        DamagedDataError: (on the first pass) a record cannot be decoded.
    """

    backend = "resident"
    reads_shards = False
    reader: ShardReader

    def __init__(self, config: LoaderConfig, reader: ShardReader) -> None:
        check_options(config, f"resident ({choose_device(config.device).type})")
        self.reader = reader
        super().__init__(config, reader.labels, choose_device(config.device))
        (self.height, self.width), self.description = _check_room(config, reader, self.device)
        self.num_workers = worker_count() if config.num_workers == "auto" else config.num_workers
        self._pixels: torch.Tensor | None = None

    def _decode(self) -> torch.Tensor:
        """All images, uint8 (N, H, 3, W), the order that makes both matrix products plain batched ones."""
        import torch

        n, h, w = len(self.reader), self.height, self.width
        pixels = torch.empty((n, h, 3, w), dtype=torch.uint8, device=self.device)
        for begin, chunk in _decode_all(self.reader, (h, w), self.num_workers):
            pixels[begin : begin + len(chunk)] = torch.from_numpy(chunk).to(self.device).transpose(2, 3)
        return pixels

    def _images(self, epoch: int, batches: Sequence[Int64Array]) -> Generator[torch.Tensor, None, None]:
        import torch

        pixels = self._decoded()
        if not batches:
            return
        # An epoch's boxes at once: drawn for each batch, the thread that feeds the GPU would have no time for more.
        records = to_device(torch.from_numpy(np.concatenate(batches)), self.device)
        boxes, flips, kept = self._boxes(epoch, records)
        begin = 0
        for batch in batches:
            part = slice(begin, begin + len(batch))
            yield self._make(pixels[records[part]], boxes[:, part], flips[:, part], kept[:, part])
            begin += len(batch)

    def _read(self, epoch: int, records: Int64Array) -> torch.Tensor:
        import torch

        there = to_device(torch.from_numpy(records), self.device)
        return self._make(self._decoded()[there], *self._boxes(epoch, there))

    def _decoded(self) -> torch.Tensor:
        if self._pixels is None:
            self._pixels = self._decode()
        return self._pixels

    def _boxes(self, epoch: int, records: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What of each image fills the output: float32 (views, n, 4), top, left, height, width; which are mirrored,
        bool (views, n); and beyond which pixels nothing counts, float32 (views, n, 4): top, left, bottom, right."""
        import torch

        c, n, h, w = self.config, len(records), self.height, self.width
        if c.train:
            drawn = [draw_on_device(c.augmentation, c.seed, e, records, (h, w)) for e in view_epochs(epoch, c.views)]
            boxes, flips = torch.stack([box for box, _ in drawn]), torch.stack([flip for _, flip in drawn])
            return boxes, flips, torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=2)
        shown = EvalGeometry.of([h], [w], c.image_size, c.eval_resize)
        begin, shape = (shown.offsets * shown.scale)[0].tolist(), (shown.scale * c.image_size)[0].tolist()
        rows = torch.tensor([[*begin, *shape], [0, 0, h, w]], dtype=torch.float32)
        box, whole = to_device(rows, self.device)
        none = torch.zeros((c.views, n), dtype=torch.bool, device=self.device)
        return box.expand(c.views, n, 4), none, whole.expand(c.views, n, 4)

    def _make(self, images: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Images, as in `Batch`, of decoded ones, uint8 (n, H, 3, W)."""
        import torch

        views, s = self.config.views, self.config.image_size
        n = views * len(images)
        # float16 holds 0 to 255 exactly and the weights to 1/2048, at a fraction of float32's time on a GPU.
        work = torch.float16 if self.device.type == "cuda" else torch.float32
        top, left, height, width = boxes.reshape(n, 4).unbind(1)
        low_row, low_column, high_row, high_column = kept.reshape(n, 4).unbind(1)
        rows = resampling_matrix(top, height / s, low_row, high_row, s, self.height)
        columns = resampling_matrix(left, width / s, low_column, high_column, s, self.width)
        columns = torch.where(flips.reshape(n, 1, 1), columns.flip(1), columns)
        sources = images.to(work).repeat(views, 1, 1, 1).view(n, self.height * 3, self.width)
        across = torch.bmm(sources, columns.to(work).transpose(1, 2))
        scaled = torch.bmm(rows.to(work), across.view(n, self.height, 3 * s))
        return normalise_planes(scaled.view(n, s, 3, s), getattr(torch, self.dtype))

    def close(self) -> None:
        super().close()
        self._pixels = None


def _decode_all(
    reader: ShardReader, size: tuple[int, int], num_workers: int, into: ByteArray | None = None
) -> Iterator[tuple[int, ByteArray]]:
    """Decode a split of images of one (height, width) with threads: (first record, uint8 (n, H, W, 3)) of each chunk.

    Args:
        into: (N, H, W, 3), of which the chunks are parts; None makes a new array for each.

    Raises:
        DamagedDataError: a record cannot be decoded; the text names it.
    """
    threads = max(1, num_workers)
    if reader.cache is not None:
        reader.cache.plan(range(len(reader.cache.shards)))
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(reader), _CHUNK):
            records = np.arange(begin, min(len(reader), begin + _CHUNK))
            part = slice(begin, begin + len(records))
            chunk = np.empty((len(records), *size, 3), np.uint8) if into is None else into[part]
            list(
                pool.map(
                    partial(_decode_part, reader), np.array_split(records, threads), np.array_split(chunk, threads)
                )
            )
            yield begin, chunk


def _decode_part(reader: ShardReader, records: npt.NDArray[np.int64], chunk: ByteArray) -> None:
    decoder = ImageDecoder()
    height, width = chunk.shape[1:3]
    for i, jpeg in enumerate(reader.view_many(records)):
        try:
            chunk[i] = decoder(jpeg, height, width)
        except DamagedDataError as error:
            raise damaged(reader, int(records[i]), error) from None


def _check_room(config: LoaderConfig, reader: ShardReader, device: torch.device) -> tuple[tuple[int, int], str]:
    """The images' (height, width), and what is kept of them in words.

    Raises:
        UsageError: they are of several sizes, or take more than `MEMORY_SHARE` of the device's free memory.
    """
    size = common_size(reader)
    if size is None:
        raise UsageError(
            f"backend resident needs images of one size and {config.dataset} {config.split} has several: "
            "use backend torchvision or dali"
        )
    needed, free = resident_bytes(reader, size), free_memory(device)
    if free is not None and needed > MEMORY_SHARE * free:
        raise UsageError(
            f"backend resident needs {needed / 2**30:.2f} GiB for {counted(len(reader), 'image')} and may take "
            f"{MEMORY_SHARE:.0%} of the {free / 2**30:.2f} GiB free on {device}: use backend torchvision"
        )
    about = (
        f"resident: {counted(len(reader), 'image')} of {size[1]}x{size[0]} decoded once into "
        f"{needed / 2**20:.0f} MiB on {device}"
    )
    return size, about


def common_size(reader: ShardReader) -> tuple[int, int] | None:
    """(height, width) that all images of the split have, or None where they differ or there are none."""
    heights, widths = reader.heights, reader.widths
    if not len(reader) or (heights != heights[0]).any() or (widths != widths[0]).any():
        return None
    return int(heights[0]), int(widths[0])


def resident_bytes(reader: ShardReader, size: tuple[int, int]) -> int:
    """Bytes that the decoded split takes."""
    return len(reader) * size[0] * size[1] * 3


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a device, None where it does not tell."""
    import torch

    if device.type == "cuda":
        # What torch holds and does not use is not free to others, and free to this process.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return available_memory()
