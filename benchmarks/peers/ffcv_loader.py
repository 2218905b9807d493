"""FFCV: one .beton file and a loader compiled by numba; decode with libjpeg-turbo, resize with OpenCV's INTER_AREA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import MEAN, STD, Epoch, Job, defaults_of, list_images, main

CANDIDATES = {
    "store": ("jpg", "raw"),  # "raw": pixels, decoded when the file was written
    "workers": (2, 3, 1),
    "os_cache": (True, False),
    "batches_ahead": (3,),
}
FLOAT_CANDIDATES = {"normalise": ("pipeline", "batch")}
PACKAGES = ("ffcv", "numba", "numpy", "torch", "opencv-python")
FORMAT = "ffcv.beton"
RAW = "ffcv-raw.beton"


def open_epochs(job: Job) -> Epoch:
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
    from transforms import Finish

    images = [RandomResizedCropRGBImageDecoder((job.image_size, job.image_size)), RandomHorizontalFlip()]
    if job.float_output and job.settings["normalise"] == "pipeline":
        # Before ToTensor: after it, the CPU variant of this operation is compiled without end.
        images.append(NormalizeImage(np.array(MEAN) * 255, np.array(STD) * 255, np.float32))
    images += [ToTensor(), ToTorchImage()]
    if job.augmented:
        images.append(_augment())
    os_cache = bool(job.settings["os_cache"])
    loader = Loader(
        str(job.data / (RAW if job.settings["store"] == "raw" else FORMAT)),
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=OrderOption.RANDOM if os_cache else OrderOption.QUASI_RANDOM,
        os_cache=os_cache,
        drop_last=True,
        batches_ahead=int(job.settings["batches_ahead"]),
        custom_fields={"image": RGBImageField, "label": IntField},
        pipelines={"image": images, "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    here = job.float_output and job.settings["normalise"] == "batch"
    finish = Finish(job) if here else lambda images: images

    def epoch(_: int):
        for images, labels in loader:
            yield finish(images), labels

    return epoch


def _augment() -> Any:
    """torchvision's transforms as FFCV takes them: a module on a batch, which draws anew for each image of it."""
    import torch
    from transforms import augmentation

    class Augment(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = augmentation()

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.each(image) for image in batch])

    return Augment()


def prepare(data: Path) -> None:
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class VerbatimJpeg(RGBImageField):
        """RGBImageField in its mode 'jpg', but of the file's own bytes: FFCV's writer would encode them anew."""

        def encode(self, destination, file, malloc):
            jpeg = np.frombuffer(Path(file).read_bytes(), np.uint8)
            with Image.open(file) as image:
                destination["width"], destination["height"] = image.size
            destination["mode"] = 0
            destination["data_ptr"], storage = malloc(jpeg.nbytes)
            storage[:] = jpeg

    class Records:
        def __init__(self) -> None:
            self.rows = list_images(data)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> tuple[str, int]:
            path, label = self.rows[i]
            return str(path), label

    class Decoded(Records):
        def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
            path, label = self.rows[i]
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB")), label

    kinds = [(FORMAT, VerbatimJpeg(), Records)]
    if data.name.startswith("tiny"):  # where our resident backend holds pixels too
        kinds.append((RAW, RGBImageField(write_mode="raw"), Decoded))
    for name, images, records in kinds:
        (data / name).unlink(missing_ok=True)
        writer = DatasetWriter(str(data / name), {"image": images, "label": IntField()}, num_workers=2)
        writer.from_indexed_dataset(records())


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
