"""LitData: optimised chunks of encoded images, read by its StreamingDataset and StreamingDataLoader."""

from __future__ import annotations

import os
from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main, shard_bytes
from transforms import DECODERS, NORMALISE, Transform, finished_epochs

CANDIDATES = {"decoder": DECODERS, "workers": (2, 3, 4, 1), "prefetch": (2,), "ahead": (2,)}
FLOAT_CANDIDATES = {"normalise": NORMALISE}
PACKAGES = ("litdata", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
FORMAT = "litdata"


class _Sample:
    def __init__(self, job: Job) -> None:
        self.transform = Transform(job)

    def __call__(self, sample):
        return self.transform(sample["image"]), sample["label"]


def open_epochs(job: Job) -> Epoch:
    from litdata import StreamingDataLoader, StreamingDataset

    options = {"shuffle": True, "drop_last": True, "transform": _Sample(job)}
    if job.remote:
        from litdata.streaming import downloader

        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # which the server of the benchmark speaks
        options |= {
            "cache_dir": str(job.cache),
            "max_pre_download": int(job.settings["ahead"]),
            "storage_options": {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        }
    dataset = StreamingDataset(f"{job.remote}/{FORMAT}" if job.remote else str(job.data / FORMAT), **options)
    workers = job.workers
    loader = StreamingDataLoader(
        dataset,
        batch_size=job.batch_size,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=int(job.settings["prefetch"]) if workers else None,
    )
    return finished_epochs(job, loader)


def _record(row: tuple[str, int]):
    path, label = row
    return {"image": Path(path).read_bytes(), "label": label}


def prepare(data: Path) -> None:
    from litdata import optimize

    optimize(
        fn=_record,
        inputs=[(str(path), label) for path, label in list_images(data)],
        output_dir=str(fresh(data / FORMAT)),
        chunk_bytes=shard_bytes(data, 16_000_000),
        num_workers=1,
        reorder_files=False,
        mode="overwrite",
    )


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
