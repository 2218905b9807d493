"""LitData: optimised chunks of encoded images, read by its StreamingDataset and StreamingDataLoader."""

from __future__ import annotations

from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main
from transforms import DECODERS, NORMALISE, Transform, finished_epochs

CANDIDATES = {"decoder": DECODERS, "workers": (2, 3, 4, 1), "prefetch": (2,)}
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

    dataset = StreamingDataset(str(job.data / FORMAT), shuffle=True, drop_last=True, transform=_Sample(job))
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
        chunk_bytes="16MB",
        num_workers=1,
        reorder_files=False,
        mode="overwrite",
    )


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
