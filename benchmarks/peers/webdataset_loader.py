"""WebDataset: tar shards read in sequence by DataLoader workers, with a shuffle buffer of encoded images."""

from __future__ import annotations

from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main, shard_bytes
from transforms import DECODERS, NORMALISE, Transform, finished_epochs

CANDIDATES = {"decoder": DECODERS, "workers": (2, 3, 4, 1), "prefetch": (2,)}
FLOAT_CANDIDATES = {"normalise": NORMALISE}
PACKAGES = ("webdataset", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
FORMAT = "webdataset"
SHARDS = 12  # or a multiple of it, so that one to four workers share them equally and no batch is left incomplete


def open_epochs(job: Job) -> Epoch:
    import webdataset as wds

    folder = job.data / FORMAT
    urls = [f"{job.remote}/{FORMAT}/{path.name}" if job.remote else str(path) for path in sorted(folder.glob("*.tar"))]
    cache = {"cache_dir": str(job.cache)} if job.remote else {}
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls), workersplitter=wds.split_by_worker, **cache)
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
    size = sum(path.stat().st_size for path, _ in rows)
    shards = SHARDS * max(1, round(size / shard_bytes(data, size) / SHARDS))
    for shard in range(shards):
        with wds.TarWriter(str(out / f"{shard:05d}.tar")) as tar:
            for i in range(shard, len(rows), shards):
                path, label = rows[i]
                tar.write({"__key__": f"{i:08d}", "jpg": path.read_bytes(), "cls": str(label).encode()})


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
