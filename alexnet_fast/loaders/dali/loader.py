"""Decodes, cuts, resizes and mirrors with NVIDIA DALI: on a GPU, or on the CPU with the same graph.

Records are read in this process and fed to DALI in the order of the epoch, with the boxes and flips that
`augment.draw_crops` and `draw_flips` give. So the order is a full permutation, a run resumes at any step, and a record
is cut and mirrored as in the other backends, whatever the threads.

DALI's own reader of these shards (`fn.readers.caffe`) and its own random crops were measured beside this, on full-size
ImageNet images and the CPU of 2 cores: one thread feeds 22,000 records/s where the reader delivers 20,400, and whole
pipelines give 486 images/s with fed boxes, 490 with DALI's crops on fed records and 509 with its reader, each between
430 and 820 as the machine's pace changed: no difference (benchmarks/dali_readers.py, results/dali-readers.json).
Shuffling is not even equal: the reader mixes a buffer of records, and offers no other order and no place to resume at.
So feeding costs nothing, and gives what the reader cannot.
"""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...dataset import ShardReader
from ...errors import AlexNetFastError, DamagedDataError, MissingDependencyError, UsageError, WorkerError
from ...images import finish_batch
from ...system import choose_device, worker_count
from ..base import Loader, check_options, draw_views, open_split
from ..order import Int64Array
from .pipeline import Cuts, Decoding, build_pipeline, cut_eval, cut_train, shut_down, take_images

if TYPE_CHECKING:
    import torch

    from ...config import LoaderConfig

Fed: TypeAlias = tuple[npt.NDArray[np.int64], tuple[Any, ...]]  # records, and what DALI is given of them

# Batches read ahead of DALI's queue, a thread for each: reading copies out of the page cache without Python's lock, and
# a batch of 1,024 full-size images is 112 MB.
_READ_AHEAD = 2
_OLDEST = (2, 2)  # 2.1 decodes regions without `adjust_orientation`
_PROCESSORS = ("x86_64", "aarch64")  # DALI's wheels
# The oldest GPUs that the wheels hold code for: DALI's support matrix, and CUDA 13, which begins with Turing.
_CAPABILITIES = {"nvidia-dali-cuda120": (5, 0), "nvidia-dali-cuda130": (7, 5)}
_INSTALL = "pip install nvidia-dali-cuda120 (or nvidia-dali-cuda130, never both)"


def why_not(device: str = "auto") -> str | None:
    """Why DALI cannot run here, in one line that names the remedy; None where it can.

    Args:
        device: as in `LoaderConfig`. DALI itself is imported (1.3 s) only when nothing else stands against it.
    """
    if sys.platform != "linux" or platform.machine() not in _PROCESSORS:
        return f"DALI runs on Linux only, on {' and '.join(_PROCESSORS)}"
    if device.split(":")[0] == "mps":
        return "DALI computes on CUDA and on the CPU, not on MPS"
    try:
        found = find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        return f"DALI is not installed: {_INSTALL}"
    try:
        import nvidia.dali.fn

        found_version = str(nvidia.dali.__version__)
    except Exception as error:  # a broken installation can raise anything: OSError for a library, RuntimeError ...
        reason = " ".join(str(error).split())
        return f"DALI cannot be imported ({type(error).__name__}: {reason}): reinstall it with {_INSTALL}"
    if tuple(int(part) for part in re.findall(r"\d+", found_version)[:2]) < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        return f"DALI {found_version} is older than {needed}: {_INSTALL.replace('install', 'install -U', 1)}"
    return _gpu_too_old(device)


def _gpu_too_old(device: str) -> str | None:
    """Why DALI's build has no code for this GPU, None where it has, or where `device` is none."""
    import torch

    if device.split(":")[0] not in ("auto", "cuda") or not torch.cuda.is_available():
        return None
    capability = torch.cuda.get_device_capability(choose_device(device))
    for package in _CAPABILITIES:
        with contextlib.suppress(PackageNotFoundError):
            version(package)
            return gpu_complaint(capability, package)
    return None


def gpu_complaint(capability: tuple[int, int], package: str) -> str | None:
    """Why a build of DALI cannot use a GPU of that compute capability, None where it can."""
    oldest = _CAPABILITIES[package]
    if capability >= oldest:
        return None
    return (
        f"{package} has no code for this GPU, of compute capability {capability[0]}.{capability[1]}: it needs "
        f"{oldest[0]}.{oldest[1]}" + ("; nvidia-dali-cuda120 may do" if package.endswith("130") else "")
    )


class DaliLoader(Loader):
    """Reads a packed split through DALI.

    Options: `region` (decode only what the crop needs: 'auto', True or False; on a GPU 'auto' tries it once in another
    process), `hw_decoder_load` (share of a batch for a GPU's JPEG engines, 0 to 1; none by default, since they were
    reported to corrupt images on H100: see benchmarks/gpu.py, section pixels), `huffman_threshold` (pixels above
    which an image's entropy is decoded on the GPU) and `fancy_upsampling` (chroma as libjpeg-turbo interpolates it).

    Raises:
        MissingDependencyError: DALI cannot run here; the text says why and what to do.
        UsageError: the data set, the split or the device is not there, or an option is unknown or out of range.
        DamagedDataError: the data set, or (on iteration) a record, is damaged.
        WorkerError: DALI failed on iteration, and no record is to blame.
    """

    backend = "dali"
    reader: ShardReader

    def __init__(self, config: LoaderConfig, reader: ShardReader | None = None) -> None:
        """
        Args:
            reader: of the split, where it is open already.
        """
        reason = why_not(config.device)
        if reason is not None:
            raise MissingDependencyError(f"backend dali: {reason}; backend torchvision works without it")
        self.options = check_options(
            config, "dali", region="auto", hw_decoder_load=0.0, huffman_threshold=1_000_000, fancy_upsampling=False
        )
        device = choose_device(config.device)
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"backend dali: {why_not(device.type)}; use backend torchvision")
        self.reader = reader or open_split(config)
        super().__init__(config, self.reader.labels, device)
        # DALI computes in threads of its own and needs one; "no workers" can mean no less.
        self.num_threads = worker_count() if config.num_workers == "auto" else max(1, config.num_workers)
        self.decoding, how = self._choose_decoding()
        self.description = f"dali: {self.num_threads} threads, {how}, on {self.device}"
        self._pipeline: Any = None
        self._upcoming: Iterator[tuple[int, npt.NDArray[np.int64]]] = iter(())
        self._readers: ThreadPoolExecutor | None = None
        self._reading: deque[Future[Fed]] = deque()
        self._ahead: deque[Fed] = deque()  # fed, newest last: DALI reads this memory in place
        self._reread: Any = None  # the pipeline of `read`, and what it is fed
        self._asked: deque[tuple[Any, ...]] = deque()
        self._stream: Any = None  # on which batches are finished, so that none queues behind the network's work

    def _choose_decoding(self) -> tuple[Decoding, str]:
        region, load = self.options["region"], self.options["hw_decoder_load"]
        threshold, fancy = self.options["huffman_threshold"], self.options["fancy_upsampling"]
        if region not in ("auto", True, False):
            raise UsageError(f"option region must be auto, True or False, got {region!r}")
        if isinstance(load, bool) or not isinstance(load, (int, float)) or not 0 <= load <= 1:
            raise UsageError(f"option hw_decoder_load must be a number from 0 to 1, got {load!r}")
        if isinstance(threshold, bool) or not isinstance(threshold, int) or threshold < 0:
            raise UsageError(f"option huffman_threshold must be a whole number from 0 up, got {threshold!r}")
        if not isinstance(fancy, bool):
            raise UsageError(f"option fancy_upsampling must be True or False, got {fancy!r}")
        how = "decoding regions" if region else "decoding whole images"
        if region == "auto" and self.device.type == "cuda":
            from .trial import advice, region_decoding_fails

            reason = region_decoding_fails(self.device, hw_decoder_load=float(load))
            region = reason is None
            how = "decoding regions" if region else f"decoding whole images ({reason}{advice()})"
        widths, heights = self.reader.widths.astype(np.int64), self.reader.heights.astype(np.int64)
        largest, most = (0, 0), 0
        if len(widths):
            # Engines reserve a batch of images of this size: the few larger ones are worth a reallocation.
            largest = (int(np.quantile(widths, 0.99)), int(np.quantile(heights, 0.99)))
            most = int((widths * heights).max())
        decoding = Decoding(
            region=bool(region),
            hw_decoder_load=float(load),
            huffman_threshold=threshold,
            fancy_upsampling=fancy,
            largest=largest,
            most_pixels=most,
        )
        return decoding, how

    def cuts(self, epoch: int, records: npt.NDArray[np.int64]) -> Cuts:
        """The regions of some records in one epoch, as they are fed to DALI, a view after another."""
        c, heights, widths = self.config, self.reader.heights[records], self.reader.widths[records]
        if not c.train:
            return cut_eval(heights, widths, c.image_size, c.eval_resize)
        return cut_train(*draw_views(c, epoch, records, heights, widths))

    def _fetch(self, epoch: int, records: npt.NDArray[np.int64]) -> Fed:
        """In a thread of its own: a batch as DALI is to be fed with it."""
        from nvidia.dali.tensors import TensorCPU

        # Wrapped here because DALI's own wrapping goes through numpy and takes 8 us a record; this takes 4.
        jpegs = [TensorCPU(view, "") for view in self.reader.view_many(records)]
        return records, (jpegs * self.config.views, *self.cuts(epoch, records))

    def _read_on(self) -> None:
        """Keep `_READ_AHEAD` batches being read, while there are any to come."""
        if self._readers is None:
            self._readers = ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="dali-read")
        while len(self._reading) < _READ_AHEAD and (job := next(self._upcoming, None)) is not None:
            self._reading.append(self._readers.submit(self._fetch, *job))

    def _feed(self) -> tuple[Any, ...]:
        """What DALI calls for each batch, in the thread that takes the batches out."""
        self._read_on()
        if not self._reading:
            raise StopIteration
        read = self._reading.popleft()
        self._read_on()
        self._ahead.append(read.result())
        return self._ahead[-1][1]

    def _images(self, epoch: int, batches: Sequence[Int64Array]) -> Generator[torch.Tensor, None, None]:
        c = self.config
        self._drain()  # what an interrupted pass left
        if self._pipeline is None:
            self._pipeline = self._build(self._feed, c.prefetch + 1)
        self._upcoming = iter([(epoch, records) for records in batches])
        try:
            self._schedule()
            for _ in batches:
                images = [self._take()]
                self._schedule()  # before the consumer computes, so that DALI works meanwhile
                yield images.pop()
        finally:
            self._drain()

    def _build(self, source: Callable[[], tuple[Any, ...]], depth: int) -> Any:
        c = self.config
        return build_pipeline(
            source,
            batch_size=c.views * c.batch_size,
            image_size=c.image_size,
            num_threads=self.num_threads,
            device_id=self.device.index if self.device.type == "cuda" else None,
            depth=depth,
            decoding=self.decoding,
        )

    def _read(self, epoch: int, records: Int64Array) -> torch.Tensor:
        if self._reread is None:  # a pipeline of its own, so that no batch ahead in the other is lost
            self._reread = self._build(lambda: self._asked.popleft(), 1)  # DALI looks into a function's code
        fed = self._fetch(epoch, records)
        self._asked.append(fed[1])
        try:
            self._reread.schedule_run()
            return self._take_from(self._reread)
        except Exception as error:
            pipeline, self._reread = self._reread, None
            shut_down(pipeline)
            self._asked.clear()
            raise self._blame(records.tolist(), error) from error

    def _schedule(self) -> None:
        """Feed batches until DALI's queue is full (the first call) or by one (the next)."""
        try:
            self._pipeline.schedule_run()
        except AlexNetFastError:
            self._discard()  # DALI's count of what was fed no longer fits
            raise
        except Exception as error:
            raise self._explain(error) from error

    def _take(self) -> torch.Tensor:
        try:
            images = self._take_from(self._pipeline)
        except Exception as error:
            raise self._explain(error) from error
        self._ahead.popleft()
        return images

    def _take_from(self, pipeline: Any) -> torch.Tensor:
        if self.device.type == "cuda":
            return self._take_cuda(pipeline)
        return self._finish_uint8(take_images(pipeline))

    def _finish_uint8(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        return images if self.dtype == "uint8" else finish_batch(images, None, getattr(torch, self.dtype))

    def _take_cuda(self, pipeline: Any) -> torch.Tensor:
        """As on the CPU, on a stream of its own; the host waits until the batch is there, and so knows what it cost.

        DALI's memory is read on that stream alone and given back on it; what goes out is torch's own memory.
        """
        import torch

        if self._stream is None:
            # Of high priority: its small kernel goes before the blocks that the network's kernels have waiting.
            self._stream = torch.cuda.Stream(self.device, priority=-1)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            borrowed = take_images(pipeline, self._stream)
            images = self._finish_uint8(borrowed)
            if images.data_ptr() == borrowed.data_ptr():
                images = borrowed.clone(memory_format=torch.channels_last)
            del borrowed
        self._stream.synchronize()
        # The allocator must not reuse this memory for the next batch before the consumer's stream is done with it.
        images.record_stream(torch.cuda.current_stream(self.device))
        return images

    def _explain(self, error: Exception) -> AlexNetFastError:
        """The record that DALI stumbled over, found by decoding all that were under way; DALI itself is then spent."""
        suspects = [record for records, _ in self._ahead for record in records.tolist()]
        self._discard()
        return self._blame(suspects, error)

    def _blame(self, suspects: Sequence[int], error: Exception) -> AlexNetFastError:
        """What to say of a failure of DALI: which of some records is damaged, or that none is."""
        for record in suspects:
            height, width = int(self.reader.heights[record]), int(self.reader.widths[record])
            complaint = _complaint(self.reader.read(record), height, width)
            if complaint is not None:
                return DamagedDataError(
                    f"{self.reader.describe(record)} cannot be decoded ({complaint}): "
                    "pack the data set again, which checks every image"
                )
        return WorkerError(f"DALI failed, and no record is to blame ({_gist(error)}): try backend torchvision")

    def _drain(self) -> None:
        """Take out what an earlier pass left, so that the pipeline can begin anew."""
        self._stop_reading()
        if self._pipeline is None:
            return
        try:
            if self._ahead:
                self._pipeline.schedule_run()  # the source ends here
            while self._ahead:
                self._pipeline.share_outputs()
                self._pipeline.release_outputs()
                self._ahead.popleft()
            self._pipeline.reset()
        except Exception:
            self._discard()  # a damaged record in a batch that nobody asked for

    def _stop_reading(self) -> None:
        self._upcoming = iter(())
        for read in self._reading:
            read.cancel()
        self._reading.clear()

    def _discard(self) -> None:
        # Not left to the garbage collector: an exception's traceback may hold the pipeline, and its threads would go on
        # reading shards that `close` closes.
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            shut_down(pipeline)
        self._ahead.clear()

    def close(self) -> None:
        super().close()
        self._stop_reading()
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        self._discard()
        if self._reread is not None:
            shut_down(self._reread)
            self._reread = None


def _complaint(jpeg: bytes, height: int, width: int) -> str | None:
    """What is wrong with an encoded image that should have that size; None for a sound one."""
    import simplejpeg

    try:
        found = simplejpeg.decode_jpeg(jpeg, "RGB").shape[:2]
    except ValueError as error:
        return str(error) or "no JPEG"
    if found != (height, width):
        return f"it is {found[1]} x {found[0]} pixels, where the index says {width} x {height}"
    return None


def _gist(error: Exception) -> str:
    """What DALI met, out of a text that also tells where the graph was written down."""
    text = str(error).partition("encountered:")[2] or str(error)
    text = text.partition("C++ context")[0].partition("Current pipeline object")[0]
    return " ".join(text.split())[:300]
