"""TurboLoader: a tar of JPEGs, and a fused crop, resize and flip in its C++ pool, one thread a core.

It hands over float32 in 0..1, or normalised; where uint8 is wanted it is converted here. Its reader takes regular
members alone, so the tar holds the bytes: links are served as nothing. What it fails to decode are zeros in the batch,
counted in `decode_failures`, which is work that it saves: the adapter says how many.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from common import MEAN, STD, Epoch, Job, defaults_of, list_images, main

CANDIDATES = {"antialias": (True,), "layout": ("numpy", "pytorch"), "prefetch": (4, 2)}
FLOAT_CANDIDATES = {"normalise": ("loader", "batch")}
PACKAGES = ("turboloader", "torch", "numpy")
FORMAT = "turboloader.tar"


def open_epochs(job: Job) -> Epoch:
    import torch
    import turboloader
    from transforms import Finish

    labels = torch.tensor([label for _, label in list_images(job.data)])
    in_loader = job.float_output and job.settings["normalise"] == "loader"
    loader = turboloader.DataLoader(
        str(job.data / FORMAT),
        batch_size=job.batch_size,
        shuffle=True,
        image_size=job.image_size,
        output_format=job.settings["layout"],
        antialias=bool(job.settings["antialias"]),
        train_aug=True,
        hflip_prob=0.5,
        drop_last=True,
        prefetch_batches=int(job.settings["prefetch"]),
        transform=turboloader.Normalize(list(MEAN), list(STD)) if in_loader else None,
    )
    finish = Finish(job)

    def epoch(number: int):
        loader.set_epoch(number)
        failed = 0
        for images, about in loader:
            failed += about["decode_failures"]
            batch = torch.from_numpy(images)
            if job.settings["layout"] == "numpy":
                batch = batch.permute(0, 3, 1, 2)
            if not in_loader:
                batch = batch.mul_(255)
                batch = finish(batch) if job.float_output else batch.round_().to(torch.uint8)
            yield batch, labels[torch.as_tensor(about["indices"])]
        if failed:
            print(f"epoch {number}: {failed} images were not decoded", file=sys.stderr)

    return epoch


def prepare(data: Path) -> None:
    with tarfile.open(data / FORMAT, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, (path, _) in enumerate(list_images(data)):
            member = tarfile.TarInfo(f"{i:08d}.jpg")
            jpeg = path.read_bytes()
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
