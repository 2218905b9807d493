"""WebDataset: tar shards read in sequence by DataLoader workers, with a shuffle buffer of encoded images."""

from __future__ import annotations

from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main
from transforms import DECODERS, NORMALISE, Transform, finished_epochs

CANDIDATES = {"decoder": DECODERS, "workers": (2, 3, 4, 1), "prefetch": (2,)}
FLOAT_CANDIDATES = {"normalise": NORMALISE}
PACKAGES = ("webdataset", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
FORMAT = "webdataset"
SHARDS = 12  # so that one to four workers share them equally and no batch is left incomplete


def open_epochs(job: Job) -> Epoch:
    import webdataset as wds

    urls = [str(path) for path in sorted((job.data / FORMAT).glob("*.tar"))]
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls), workersplitter=wds.split_by_worker)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(Transform(job), int)
        .batched(job.batch_size, partial=False, collation_fn=_collate)
    )
    workers = job.workers
    loader = wds.WebLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=int(job.settings["prefetch"]) if workers else None,
    )
    return finished_epochs(job, loader)


def _collate(samples):
    from torch.utils.data import default_collate

    return default_collate(samples)


def prepare(data: Path) -> None:
    import webdataset as wds

    rows = list_images(data)
    out = fresh(data / FORMAT)
    for shard in range(SHARDS):
        with wds.TarWriter(str(out / f"{shard:05d}.tar")) as tar:
            for i in range(shard, len(rows), SHARDS):
                path, label = rows[i]
                tar.write({"__key__": f"{i:08d}", "jpg": path.read_bytes(), "cls": str(label).encode()})


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
