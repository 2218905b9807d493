"""What a sweep's child processes do: measure one loader, or what a network takes.

A child each, so a crash, a hang or a leak of one setting stays its own, the peak of memory is that setting's alone, and
each start-up is a real one. The messages are signs of life.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..config import LoaderConfig
from ..errors import UsageError
from ..images import IMAGENET_MEAN, IMAGENET_STD
from ..loaders import Loader, open_loader
from ..system import CoreWatch, choose_device, follow_usable_cores, send_message, synchronize
from .results import Demand, Measurement

_DEMAND_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """The baseline: what PyTorch's ImageNet example does over a folder of class folders.

    Attributes:
        persistent: workers live from one epoch to the next, else each epoch starts them anew.
    """

    folder: str
    num_workers: int
    pin_memory: bool
    batch_size: int
    image_size: int
    device: str
    persistent: bool = True


class FolderLoader:
    """ImageFolder, RandomResizedCrop, flip, ToTensor, Normalize and a DataLoader, as a loader of ours looks from here.

    Attributes:
        workers: what kind they are.
        stride: batches that come together, so that a time is taken over a multiple of them: a DataLoader's workers
            each make whole batches and finish them in one burst; our workers share each batch.
    """

    workers = "process"

    def __init__(self, config: FolderConfig) -> None:
        from torchvision import datasets, transforms

        steps = [
            transforms.RandomResizedCrop(config.image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
        self.config = config
        self.stride = max(1, config.num_workers)
        self._folder = datasets.ImageFolder(config.folder, transforms.Compose(steps))
        self.repeat_split(1)

    def repeat_split(self, times: int) -> None:
        """Make every epoch read the folder so many times."""
        from torch.utils.data import ConcatDataset, DataLoader

        c = self.config
        self._batches: DataLoader[Any] = DataLoader(
            ConcatDataset([self._folder] * times),
            batch_size=c.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=c.num_workers,
            pin_memory=c.pin_memory,
            persistent_workers=c.persistent and c.num_workers > 0,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for images, labels in self._batches:
            yield images.to(self.config.device, non_blocking=True), labels.to(self.config.device, non_blocking=True)

    def close(self) -> None:
        del self._batches


def measure_loader(
    config: LoaderConfig | FolderConfig, device: str, *, seconds: float, whole_epoch: bool, repeat: int
) -> Measurement:
    """Start-up, the first whole epoch where it is short, and images/s in the middle of epochs.

    Args:
        device: kind of the device that batches go to.
        seconds: for how long images/s are taken.
        whole_epoch: time the first epoch as well.
        repeat: how often an epoch reads the split, once the start has been measured.
    """
    import torch  # noqa: F401 - a training program has imported it before it opens a loader

    if isinstance(config, FolderConfig):
        import torchvision  # noqa: F401 - and this

    follow_usable_cores()
    synchronize(device)  # makes CUDA's context, which is no part of a loader's start
    send_message("ready")
    begin = time.perf_counter()
    loader = FolderLoader(config) if isinstance(config, FolderConfig) else open_loader(config)
    opened = time.perf_counter() - begin
    if not len(loader):
        raise UsageError(
            f"a batch of {config.batch_size} is more than the split has images: give a smaller --batch-size"
        )
    send_message("opened")
    epoch = iter(loader)
    next(epoch)
    synchronize(device)
    first_batch = time.perf_counter() - begin
    send_message("first batch")
    first_epoch = None
    if whole_epoch:
        for _ in epoch:
            pass
        synchronize(device)
        first_epoch = time.perf_counter() - begin
        send_message("first epoch")
    if whole_epoch or repeat > 1:
        loader.repeat_split(repeat)
        epoch = iter(loader)
        next(epoch)
    slice_ = _Slice(loader, epoch, device)
    slice_.run(seconds)
    use = slice_.use
    found = Measurement(
        images_per_s=slice_.images_per_s,
        open_s=opened,
        first_batch_s=first_batch,
        first_epoch_s=first_epoch,
        cpu_seconds_per_1k_images=slice_.per_image(use.cpu_seconds, 1000),
        cpu_wait_seconds_per_1k_images=slice_.per_image(use.wait_seconds, 1000),
        other_cores=use.other_cores,
        disk_bytes_per_image=slice_.per_image(use.disk_bytes),
        worker_kind=getattr(loader, "workers", None),
    )
    send_message("measured")
    return found


class _Slice:
    """A stretch of reading, timed in the middle of epochs: what was begun while workers start does not count."""

    def __init__(self, loader: Loader | FolderLoader, epoch: Iterator[Any], device: str) -> None:
        self._loader, self._epoch, self._device = loader, epoch, device
        self._stride: int = getattr(loader, "stride", 1)
        self._clock, self._timed, self._all = 0.0, 0, 0  # batches: those timed, and all since the cores are watched

    @property
    def images_per_s(self) -> float:
        return self._timed * self._loader.config.batch_size / self._clock

    def per_image(self, amount: float | None, images: int = 1) -> float | None:
        """An amount of the whole stretch, for so many images."""
        return None if amount is None else amount / (self._all * self._loader.config.batch_size) * images

    def run(self, seconds: float) -> None:
        """Read until `seconds` are timed."""
        self._skip()
        self._all, watch = 0, CoreWatch()
        while True:
            counted = self._segment(seconds - self._clock)
            if self._timed and self._clock >= seconds:
                break
            if not counted:
                self._whole_epochs(seconds)
                break
            self._epoch = iter(self._loader)
            next(self._epoch)
            self._all += 1
            self._skip()
        self.use = watch.use()

    def _skip(self) -> None:
        """Pass over what was begun before all workers were at work."""
        for _ in range(2 * self._stride):
            if next(self._epoch, None) is None:
                return
            self._all += 1

    def _whole_epochs(self, seconds: float) -> None:
        """For an epoch too short to have a middle: its start and end are in the figure then."""
        begin = time.perf_counter()
        self._timed, self._clock = 0, 0.0
        while self._clock < seconds:
            self._timed += sum(1 for _ in self._loader)
            synchronize(self._device)
            self._clock = time.perf_counter() - begin
        self._all += self._timed

    def _segment(self, seconds: float) -> int:
        """Time the rest of this epoch, or `seconds` of it; returns how many batches counted."""
        synchronize(self._device)
        begin, count, ended = time.perf_counter(), 0, 0.0
        for batch in self._epoch:
            del batch
            count += 1
            self._all += 1
            if count % self._stride == 0:
                ended = time.perf_counter() - begin
                if ended >= seconds:
                    synchronize(self._device)
                    ended = time.perf_counter() - begin
                    break
        counted = count - count % self._stride
        self._timed += counted
        self._clock += ended if counted else 0.0
        return counted


# ---------------------------------------------------------------------------------------------------------------------
# A network


def measure_demand(
    model: str, device_name: str, *, classes: int, batch_size: int, image_size: int, seconds: float
) -> Demand:
    """The network's own demand: images/s of the steps that `train` would take, on images that lie on the device."""
    from ..training import Step  # the sweep itself does without torch

    follow_usable_cores()
    device = choose_device(device_name)
    send_message("ready")
    step = Step.alone(model, num_classes=classes, image_size=image_size, batch_size=batch_size, device=device)
    noise = LoaderConfig(
        backend="synthetic", batch_size=batch_size, image_size=image_size, device=str(device),
        dtype=step.precision.dtype, options={"num_records": batch_size, "num_classes": classes},
    )  # fmt: skip
    images, labels = next(iter(open_loader(noise)))
    step(images, labels)  # allocates, and lets the libraries choose their kernels
    synchronize(device)
    send_message("first step")
    begin = time.perf_counter()
    step(images, labels)
    synchronize(device)
    # A step that takes longer than its share of the time is measured once or twice, not thrice.
    step_s = time.perf_counter() - begin
    repeats = max(1, min(_DEMAND_REPEATS, int(seconds / step_s)))
    rates = []
    for _ in range(repeats):
        begin, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - begin < seconds / repeats - step_s / 2:
            step(images, labels)
            synchronize(device)
            steps += 1
        rates.append(steps * batch_size / (time.perf_counter() - begin))
    middle = median(rates)
    return Demand(
        model=model, batch_size=batch_size, image_size=image_size, precision=step.precision.name, images_per_s=middle,
        spread=(max(rates) - min(rates)) / middle if repeats > 1 else None,
    )  # fmt: skip
