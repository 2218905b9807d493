"""alexnet-fast's own loader, through its public interface."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import Epoch, Job, defaults_of, fresh, main, shard_bytes

CANDIDATES = {"backend": ("torchvision",), "compiled": ("auto",), "workers": ("auto", 1, 3, 4), "prefetch": (2,)}
FLOAT_CANDIDATES: dict[str, tuple] = {}
PACKAGES = ("torch", "torchvision", "simplejpeg", "numpy", "lmdb")
FORMAT = "alexnet-fast"


def open_epochs(job: Job) -> Epoch:
    s = job.settings
    os.environ["ALEXNET_FAST_NATIVE"] = s["compiled"]
    from transforms import augmentation

    from alexnet_fast import LoaderConfig, open_loader
    from alexnet_fast.images import compiled_code

    if s["compiled"] != "off" and compiled_code() is None:
        raise SystemExit("alexnet_fast/images/native is not compiled: see tools/build_native.py")
    loader = open_loader(
        LoaderConfig(
            dataset=f"{job.remote}/{FORMAT}" if job.remote else job.data / FORMAT,
            cache=job.cache if job.remote else None,
            split="train",
            backend=s["backend"],
            device="cpu",
            dtype="float32" if job.float_output else "uint8",
            batch_size=job.batch_size,
            image_size=job.image_size,
            num_workers=s["workers"],
            prefetch=int(s["prefetch"]),
            image_transform=augmentation() if job.augmented else None,
        )
    )

    def epoch(_: int):
        yield from loader

    return epoch


def prepare(data: Path) -> None:
    from alexnet_fast import pack

    size = shard_bytes(data, 0)
    pack(data / "jpeg", fresh(data / FORMAT), **({"shard_bytes": size} if size else {}))


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
