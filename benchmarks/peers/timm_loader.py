"""timm's create_loader over class folders: PIL, uint8 collation, and its prefetcher, which normalises on the device."""

from __future__ import annotations

from pathlib import Path

from common import AREA, ASPECT, MEAN, STD, Epoch, Job, defaults_of, main

CANDIDATES = {"workers": (2, 3, 4, 1), "interpolation": ("bilinear",)}
FLOAT_CANDIDATES = {"prefetcher": (True, False)}
PACKAGES = ("timm", "torch", "torchvision", "pillow", "numpy")


def open_epochs(job: Job) -> Epoch:
    import torch
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=str(job.data / "jpeg"), is_training=True)
    prefetcher = bool(job.settings["prefetcher"])
    loader = create_loader(
        dataset,
        (3, job.image_size, job.image_size),
        job.batch_size,
        is_training=True,
        scale=AREA,
        ratio=ASPECT,
        hflip=0.5,
        color_jitter=None,
        auto_augment=None,
        interpolation=job.settings["interpolation"],
        mean=MEAN,
        std=STD,
        num_workers=job.workers,
        device=torch.device("cpu"),
        use_prefetcher=prefetcher or not job.float_output,
        persistent_workers=True,
    )
    # The prefetcher turns the workers' uint8 batches into normalised floats; without it they are the uint8 output.
    source = loader if job.float_output else loader.loader

    def epoch(_: int):
        yield from source

    return epoch


def prepare(data: Path) -> None:
    """Reads the class folders as they are."""


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
