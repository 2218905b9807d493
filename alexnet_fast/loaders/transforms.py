"""People's own transforms, with random numbers that follow (seed, epoch, record) whatever worker runs them.

Transforms draw from the generators that are global to a process: torch's, numpy's and Python's. So each image's (or
batch's) own seed is put into all three before the call, and what was in them is put back afterwards.
"""

from __future__ import annotations

import inspect
import pickle
import random
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..images import ByteArray, uniform
from .order import Int64Array

if TYPE_CHECKING:
    import torch

_IMAGE_STREAM = 3002
_BATCH_STREAM = 3003


def image_seeds(seed: int, epoch: int, records: Int64Array) -> Int64Array:
    """The seed of each record's image transform in one epoch: int64 (n,), from 0 up."""
    return (uniform(seed, epoch, records, _IMAGE_STREAM) * 2.0**53).astype(np.int64)


def batch_seed(seed: int, epoch: int, records: Int64Array) -> int:
    """The seed of a batch's transform: follows which records the batch holds, so it needs no count of steps."""
    return int(uniform(seed, epoch, [zlib.crc32(records.tobytes())], _BATCH_STREAM)[0] * 2.0**53)


class ImageTransform:
    """Somebody's function on one image; picklable if the function is.

    Args:
        function: as `LoaderConfig.image_transform`.
        image_size: side S of the images, pixels.

    Attributes:
        gives_floats: whether it returns floating-point images, which are then handed out as they are. It is asked
            once, with a grey image.

    Raises:
        UsageError: it fails with the grey image, or returns something else than an image of that size.
    """

    def __init__(self, function: Callable[..., Any], image_size: int) -> None:
        import torch

        self._function, self._shape = function, (3, image_size, image_size)
        self.gives_floats = False
        grey = torch.full(self._shape, 128, dtype=torch.uint8)
        with own_random_numbers(torch.device("cpu")):
            self.gives_floats = self._call(grey, 0, "on a grey image").is_floating_point()

    def __call__(self, crops: ByteArray, records: Int64Array, seeds: Int64Array) -> Iterator[torch.Tensor]:
        """Each of the crops (n, S, S, 3) transformed: (3, S, S), uint8 or floating-point, as `gives_floats` says.

        Raises:
            UsageError: the function fails, or returns something else than that.
        """
        import torch

        with own_random_numbers(torch.device("cpu")):
            for crop, record, seed in zip(crops, records.tolist(), seeds.tolist(), strict=True):
                # A copy of its own, in CHW order: the function may change it in place, or look at its memory. numpy
                # makes it of 224 pixels in 0.06 ms and torch in 0.12 ms, on one core of a Xeon.
                planes = np.ascontiguousarray(crop.transpose(2, 0, 1))
                done = self._call(torch.from_numpy(planes), seed, f"on record {record}")
                if done.is_floating_point() != self.gives_floats:
                    raise UsageError("image_transform returns floating-point images at one time and uint8 at another")
                yield done

    def _call(self, image: torch.Tensor, seed: int, where: str) -> torch.Tensor:
        import torch

        _put_seed(seed, image.device)
        try:
            done = self._function(image)
        except Exception as error:
            raise UsageError(f"image_transform fails {where}: {_what_failed(error)}") from error
        if isinstance(done, np.ndarray):
            done = torch.from_numpy(done)
        if not isinstance(done, torch.Tensor):
            raise UsageError(f"image_transform must return a tensor (3, S, S), got {type(done).__name__} {where}")
        if tuple(done.shape) != self._shape or not (done.dtype == torch.uint8 or done.is_floating_point()):
            raise UsageError(
                f"image_transform must return a uint8 or floating-point tensor {self._shape}, got {done.dtype} "
                f"{tuple(done.shape)} {where}; image_size sets the size"
            )
        return done

    def check_picklable(self) -> None:
        """
        Raises:
            UsageError: it cannot be sent to a process.
        """
        try:
            pickle.dumps(self)
        except Exception as error:
            raise UsageError(
                f"image_transform cannot be sent to worker processes ({_one_line(error)}): make it of functions and "
                "classes at the top of a module, or use num_workers=0"
            ) from None


class BatchTransform:
    """Somebody's function on a batch.

    Args:
        function: as `LoaderConfig.batch_transform`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._takes_labels = _takes_two(function)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels as the function returns them.

        Raises:
            UsageError: it fails, or returns neither images nor images and labels.
        """
        import torch

        with own_random_numbers(images.device):
            _put_seed(seed, images.device)
            try:
                done = self._function(images, labels) if self._takes_labels else self._function(images)
            except Exception as error:
                raise UsageError(f"batch_transform fails: {_what_failed(error)}") from error
        if isinstance(done, torch.Tensor):
            return done, labels
        if isinstance(done, (tuple, list)) and len(done) == 2 and all(isinstance(part, torch.Tensor) for part in done):
            return done[0], done[1]
        raise UsageError(f"batch_transform must return images, or images and labels, got {type(done).__name__}")


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether images and labels can be given to it; where its signature does not tell, they can."""
    called = getattr(function, "forward", function)  # of a module, whose own call takes anything
    try:
        inspect.signature(called).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Put the global generators back to where they were, those of the CPU and of `device`."""
    import torch

    there = _device_generator(device)
    state = None if there is None else there.get_state()
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(tensors)
        if there is not None:
            there.set_state(state)


def _put_seed(seed: int, device: torch.device) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    there = _device_generator(device)
    if there is not None:
        there.manual_seed(seed)


def _device_generator(device: torch.device) -> Any:
    """The generator that draws on a device by default; None for the CPU."""
    import torch

    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.mps._get_default_mps_generator() if device.type == "mps" else None


def _what_failed(error: Exception) -> str:
    """The error in a line, and the line of people's own code that it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{_one_line(error)} ({last.filename}, line {last.lineno})"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
