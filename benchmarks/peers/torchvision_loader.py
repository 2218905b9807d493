"""torchvision's ImageFolder under a DataLoader: with PIL, its default, or with the v2 transforms and torchvision.io or
TorchCodec."""

from __future__ import annotations

from pathlib import Path

from common import AREA, ASPECT, MEAN, STD, Epoch, Job, defaults_of, main
from transforms import NORMALISE, Transform, finished_epochs

CANDIDATES = {
    "antialias": (True,),
    "decoder": ("torchvision", "torchcodec", "pil"),
    "workers": (2, 3, 4, 1),
    "prefetch": (2,),
}
FLOAT_CANDIDATES = {"normalise": NORMALISE}
PACKAGES = ("torch", "torchvision", "torchcodec", "pillow", "numpy")


def open_epochs(job: Job) -> Epoch:
    from torch.utils.data import DataLoader
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder
    from torchvision.io import read_file

    if job.settings["decoder"] == "pil":
        steps = [v1.RandomResizedCrop(job.image_size, AREA, ASPECT), v1.RandomHorizontalFlip()]
        if job.float_output and job.settings["normalise"] == "worker":
            steps += [v1.ToTensor(), v1.Normalize(MEAN, STD)]
        else:
            steps += [v1.PILToTensor()]
        dataset = ImageFolder(str(job.data / "jpeg"), v1.Compose(steps))
    else:
        dataset = ImageFolder(str(job.data / "jpeg"), Transform(job), loader=read_file)
    workers = job.workers
    loader = DataLoader(
        dataset,
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=int(job.settings["prefetch"]) if workers else None,
    )
    return finished_epochs(job, loader)


def prepare(data: Path) -> None:
    """Reads the class folders as they are."""


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
