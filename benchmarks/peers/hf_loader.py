"""Hugging Face datasets: Arrow files of encoded images under PyTorch's DataLoader; decoded in its transform."""

from __future__ import annotations

from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main
from transforms import DECODERS, NORMALISE, Transform, finished_epochs

CANDIDATES = {"decoder": (*DECODERS, "pil"), "workers": (2, 3, 4, 1), "prefetch": (2,)}
FLOAT_CANDIDATES = {"normalise": NORMALISE}
PACKAGES = ("datasets", "pyarrow", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
FORMAT = "huggingface"


def open_epochs(job: Job) -> Epoch:
    import torch
    from datasets import Image, load_from_disk
    from torch.utils.data import DataLoader

    dataset = load_from_disk(str(job.data / FORMAT))
    if job.settings["decoder"] == "pil":  # as its documentation does: the feature decodes
        call = _pil(job)
    else:
        dataset = dataset.cast_column("image", Image(decode=False))
        transform = Transform(job)

        def call(image):
            return transform(image["bytes"])

    def some(rows):
        return {"image": [call(image) for image in rows["image"]], "label": rows["label"]}

    def collate(samples):
        return torch.stack([s["image"] for s in samples]), torch.tensor([s["label"] for s in samples])

    workers = job.workers
    loader = DataLoader(
        dataset.with_transform(some),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=int(job.settings["prefetch"]) if workers else None,
        collate_fn=collate,
    )
    return finished_epochs(job, loader)


def _pil(job: Job):
    from common import AREA, ASPECT, MEAN, STD
    from torchvision import transforms as v1

    steps = [v1.RandomResizedCrop(job.image_size, AREA, ASPECT), v1.RandomHorizontalFlip()]
    if job.float_output and job.settings["normalise"] == "worker":
        steps += [v1.ToTensor(), v1.Normalize(MEAN, STD)]
    else:
        steps += [v1.PILToTensor()]
    transform = v1.Compose(steps)
    return lambda image: transform(image.convert("RGB"))


def prepare(data: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    rows = list_images(data)
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path, _ in rows],
        "label": [label for _, label in rows],
    }
    dataset = Dataset.from_dict(columns, features=Features({"image": Image(), "label": Value("int64")}))
    dataset.save_to_disk(str(fresh(data / FORMAT)))


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
