"""MosaicML Streaming: MDS shards of encoded images under a DataLoader."""

from __future__ import annotations

from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main, shard_bytes
from transforms import DECODERS, NORMALISE, Transform, finished_epochs

CANDIDATES = {"decoder": DECODERS, "workers": (2, 3, 4, 1), "prefetch": (2,), "ahead": (8,)}
FLOAT_CANDIDATES = {"normalise": NORMALISE}
PACKAGES = ("mosaicml-streaming", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
FORMAT = "mds"


def open_epochs(job: Job) -> Epoch:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Images(StreamingDataset):
        def __init__(self) -> None:
            super().__init__(
                remote=f"{job.remote}/{FORMAT}" if job.remote else None,
                local=str(job.cache if job.remote else job.data / FORMAT),
                shuffle=True, batch_size=job.batch_size, num_canonical_nodes=1,
                predownload=int(job.settings["ahead"]) * job.batch_size,
            )  # fmt: skip
            self.transform = Transform(job)

        def __getitem__(self, at):
            sample = super().__getitem__(at)
            return self.transform(sample["image"]), sample["label"]

    clean_stale_shared_memory()
    workers, images = job.workers, Images()
    for stream in images.streams:  # or forked workers share its connection, and read each other's shards
        if job.remote:
            stream._downloader.clean_up()
    loader = StreamingDataLoader(
        images,
        batch_size=job.batch_size,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=int(job.settings["prefetch"]) if workers else None,
    )
    return finished_epochs(job, loader)


def prepare(data: Path) -> None:
    from streaming import MDSWriter

    out = fresh(data / FORMAT)
    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(out), columns=columns, size_limit=shard_bytes(data, 1 << 26)) as writer:
        for path, label in list_images(data):
            writer.write({"image": path.read_bytes(), "label": label})


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
