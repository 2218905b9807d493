"""A split of small equal images, decoded once into device memory; every batch is made there from its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..dataset import ShardReader
from ..errors import DamagedDataError, UsageError
from ..images import SimpleJpeg, draw_crops, draw_flips, eval_resize, eval_size, normalise_planes, resampling_matrix
from ..system import available_memory, choose_device, usable_cores
from .base import Batch, Loader, check_options
from .image_sources import DecodedImages, damaged
from .torchvision import TorchvisionLoader

if TYPE_CHECKING:
    import torch

    from ..config import LoaderConfig

# The share of the device's free memory that images may take: the network, its gradients and the batches need some.
MEMORY_SHARE = 0.5
RESIZES = ("auto", "matrices", "images")
_CHUNK = 2048  # images decoded before they go to the device


class ResidentLoader(Loader):
    """Keeps the whole split as uint8 on the device, and crops, resizes, mirrors and normalises whole batches there.

    On a GPU a crop is resized by two matrix products with the weights of the antialiased bilinear filter, so the pixels
    are those of the torchvision backend to within a grey level. On a CPU that backend's workers cut one image after
    another out of shared memory, and the pixels are the same: 0.013 ms of CPU time an image of 64 pixels, 0.029 ms
    without compiled code, where the matrix products take 0.39 ms (uint8, two cores of an Intel Xeon).

    Options: ``resize`` ('auto', 'matrices', 'images'): which of the two; 'images' needs a CPU. ``workers``,
    ``context``: of those workers, as the torchvision backend's.

    Raises:
        UsageError: images of several sizes, or more of them than fit into the device's free memory.
        DamagedDataError: (on the first pass) a record cannot be decoded.
    """

    def __init__(self, config: LoaderConfig) -> None:
        options = check_options(config, "resident", resize="auto", workers="auto", context="auto")
        how = options.pop("resize")
        self.device = choose_device(config.device)
        if how not in RESIZES:
            raise UsageError(f"option resize must be one of {', '.join(RESIZES)}, got {how!r}")
        if how == "images" and self.device.type != "cpu":
            raise UsageError(f"option resize=images works on a CPU alone, not on {self.device}: leave it at auto")
        on_host = self.device.type == "cpu" and how != "matrices"
        self.reader = ShardReader(config.dataset, config.split)  # type: ignore[arg-type]
        super().__init__(config, len(self.reader))
        size = common_size(self.reader)
        if size is None:
            raise UsageError(
                f"backend resident needs images of one size and {config.dataset} {config.split} has several: "
                "use --backend torchvision or dali"
            )
        self.height, self.width = size
        self.num_workers = usable_cores() if config.num_workers == "auto" else config.num_workers
        needed, free = resident_bytes(self.reader, size), free_memory(self.device)
        if free is not None and needed > MEMORY_SHARE * free:
            raise UsageError(
                f"backend resident needs {needed / 2**30:.2f} GiB for {len(self.reader)} images and may take "
                f"{MEMORY_SHARE:.0%} of the {free / 2**30:.2f} GiB free on {self.device}: use --backend torchvision"
            )
        self.description = (
            f"resident: {len(self.reader)} images of {self.width}x{self.height} decoded once into "
            f"{needed / 2**20:.0f} MiB on {self.device}"
        )
        self._decoded = False
        self._images: torch.Tensor | None = None
        self._host: TorchvisionLoader | None = None
        if on_host:
            self._shared = DecodedImages(len(self.reader), self.height, self.width)
            settings = replace(config, backend="torchvision", options=options)
            self._host = TorchvisionLoader(settings, self._shared, self.reader)
            self.description += f", cut by {self._host.workers_text}"

    def _decode_all(self) -> None:
        """All images, uint8: (N, H, W, 3) in shared memory, or (N, H, 3, W) on the device, the order that makes both
        matrix products plain batched ones."""
        import torch

        n, h, w = len(self.reader), self.height, self.width
        if self._host is None:
            self._images = torch.empty((n, h, 3, w), dtype=torch.uint8, device=self.device)
        threads = max(1, self.num_workers)
        with ThreadPoolExecutor(threads) as pool:
            for begin in range(0, n, _CHUNK):
                records = np.arange(begin, min(n, begin + _CHUNK))
                if self._host is None:
                    chunk = np.empty((len(records), h, w, 3), np.uint8)
                else:
                    chunk = self._shared.pixels[begin : begin + len(records)]
                list(pool.map(self._decode_part, np.array_split(records, threads), np.array_split(chunk, threads)))
                if self._images is not None:
                    planes = torch.from_numpy(chunk).to(self.device)
                    self._images[begin : begin + len(records)] = planes.transpose(2, 3)
        self._decoded = True

    def _decode_part(self, records: npt.NDArray[np.int64], chunk: npt.NDArray[np.uint8]) -> None:
        decoder = SimpleJpeg()
        for i, jpeg in enumerate(self.reader.view_many(records)):
            try:
                chunk[i] = decoder.whole(jpeg, self.height, self.width)
            except DamagedDataError as error:
                raise damaged(self.reader, int(records[i]), error) from None

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        import torch

        if not self._decoded:
            self._decode_all()
        if self._host is not None:
            yield from self._host._batches(epoch, start_step)
            return
        order, size = self.order(epoch), self.config.batch_size
        labels = torch.from_numpy(self.reader.labels[order]).to(self.device)
        for step in range(start_step, len(self)):
            part = slice(step * size, (step + 1) * size)
            yield Batch(self._make(epoch, order[part]), labels[part])

    def _make(self, epoch: int, records: npt.NDArray[np.int64]) -> torch.Tensor:
        """Normalised images (n, 3, S, S), channels_last, of some records."""
        import torch

        assert self._images is not None
        c, n, s = self.config, len(records), self.config.image_size
        # float16 holds 0 to 255 exactly and the weights to 1/2048, at a fraction of float32's time on a GPU.
        work = torch.float16 if self.device.type == "cuda" else torch.float32
        rows, columns = (m.to(self.device, work) for m in self._matrices(epoch, records))
        images = self._images[torch.from_numpy(records).to(self.device)].to(work)
        across = torch.bmm(images.view(n, self.height * 3, self.width), columns.transpose(1, 2))
        scaled = torch.bmm(rows, across.view(n, self.height, 3 * s))
        return normalise_planes(scaled.view(n, s, 3, s), getattr(torch, c.dtype))

    def _matrices(self, epoch: int, records: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """What resamples rows (n, S, H) and columns (n, S, W) of each image to its output."""
        import torch

        c, n, h, w = self.config, len(records), self.height, self.width
        if not c.train:
            target = c.eval_resize or eval_resize(c.image_size)
            new_h, new_w = (int(x) for x in eval_size(np.array(h), np.array(w), target))
            top, left = round((new_h - c.image_size) / 2), round((new_w - c.image_size) / 2)
            one = np.ones(1)
            rows = resampling_matrix(top * h / new_h * one, h / new_h * one, 0 * one, h * one, c.image_size, h)
            columns = resampling_matrix(left * w / new_w * one, w / new_w * one, 0 * one, w * one, c.image_size, w)
            return torch.from_numpy(rows).expand(n, -1, -1), torch.from_numpy(columns).expand(n, -1, -1)
        boxes = draw_crops(c.augmentation, c.seed, epoch, records, np.full(n, h), np.full(n, w)).astype(np.float64)
        flips = draw_flips(c.augmentation, c.seed, epoch, records)
        top, left, box_h, box_w = boxes.T
        rows = resampling_matrix(top, box_h / c.image_size, top, top + box_h, c.image_size, h)
        columns = resampling_matrix(left, box_w / c.image_size, left, left + box_w, c.image_size, w)
        columns[flips] = columns[flips, ::-1]
        return torch.from_numpy(rows), torch.from_numpy(columns)

    def repeat_split(self, times: int) -> None:
        super().repeat_split(times)
        if self._host is not None:
            self._host.repeat_split(times)

    def close(self) -> None:
        self._images = None
        self._decoded = False
        if self._host is not None:
            self._host.close()
        self.reader.close()


def common_size(reader: ShardReader) -> tuple[int, int] | None:
    """(height, width) that all images of the split have, or None where they differ or there are none."""
    heights, widths = reader.index["height"], reader.index["width"]
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
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return available_memory()
