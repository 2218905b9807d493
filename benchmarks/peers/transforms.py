"""JPEG bytes to a training image, for the peers that read bytes and leave decoding to their user.

Two ways are candidates for each of them: torchvision (decode_jpeg and the v2 transforms on uint8), and simplejpeg with
OpenCV's area resize. TorchCodec's decode_jpeg, which takes the place of torchvision's, is a third where asked for.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from common import AREA, ASPECT, MEAN, STD, Job, random_crop

DECODERS = ("opencv", "torchvision")
NORMALISE = ("batch", "worker")


def augmentation() -> Any:
    """What an image passes through for the output `augmented`: uint8 (3, S, S), with random numbers of its own."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandAugment(), v2.ColorJitter(0.4, 0.4, 0.4)])


class Transform:
    """Bytes to one image: CHW from torchvision, HWC from OpenCV; normalised float32 where workers normalise."""

    def __init__(self, job: Job) -> None:
        self.size = job.image_size
        self.in_worker = job.float_output and job.settings.get("normalise") == "worker"
        self.opencv = job.settings.get("decoder") == "opencv"
        self.antialias = bool(job.settings.get("antialias", True))
        self._call: Any = None
        # Imported before the workers are forked; made in each of them, so that nothing of it is pickled.
        if self.opencv:
            import cv2  # noqa: F401
            import simplejpeg  # noqa: F401
        else:
            import torchvision.io
            import torchvision.transforms.v2  # noqa: F401

            if job.settings.get("decoder") == "torchcodec":
                import torchcodec.decoders  # noqa: F401
        self.torchcodec = job.settings.get("decoder") == "torchcodec"
        self.augmented = job.augmented
        if self.augmented:
            augmentation()

    def __call__(self, jpeg: Any) -> Any:
        if self._call is None:
            self._call = self._opencv() if self.opencv else self._torchvision()
        return self._call(jpeg)

    def _torchvision(self) -> Any:
        import torch
        from torchvision.transforms import v2

        torch.set_num_threads(1)
        if self.torchcodec:
            from torchcodec.decoders import decode_jpeg as decode
        else:
            from torchvision.io import ImageReadMode, decode_jpeg

            decode = partial(decode_jpeg, mode=ImageReadMode.RGB)
        steps = [v2.RandomResizedCrop(self.size, AREA, ASPECT, antialias=self.antialias), v2.RandomHorizontalFlip()]
        if self.in_worker:
            steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        if self.augmented:
            steps.append(augmentation())
        transform = v2.Compose(steps)

        def call(jpeg: Any) -> Any:
            data = jpeg if isinstance(jpeg, torch.Tensor) else torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
            return transform(decode(data))

        return call

    def _opencv(self) -> Any:
        import cv2
        import numpy as np
        import simplejpeg
        import torch

        cv2.setNumThreads(0)
        scale = (1 / (np.array(STD, np.float32) * 255)).astype(np.float32)
        shift = (-np.array(MEAN, np.float32) / np.array(STD, np.float32)).astype(np.float32)
        augment = augmentation() if self.augmented else None
        if self.augmented:
            torch.set_num_threads(1)

        def call(jpeg: Any) -> Any:
            image = simplejpeg.decode_jpeg(bytes(jpeg), "RGB")
            top, left, h, w = random_crop(*image.shape[:2])
            out = cv2.resize(
                image[top : top + h, left : left + w], (self.size, self.size), interpolation=cv2.INTER_AREA
            )
            if random.random() < 0.5:
                out = cv2.flip(out, 1)
            if self.in_worker:
                out = out.astype(np.float32) * scale + shift
            if augment is not None:
                return augment(torch.from_numpy(np.ascontiguousarray(out.transpose(2, 0, 1))))
            return torch.from_numpy(out)

        return call


class Finish:
    """A collated batch to what is handed over: channels second, normalised here unless the workers did it."""

    def __init__(self, job: Job) -> None:
        import torch

        self.size = job.image_size
        self.here = job.float_output and job.settings.get("normalise") != "worker"
        self.scale = (1 / (torch.tensor(STD) * 255)).view(1, 3, 1, 1)
        self.shift = (-torch.tensor(MEAN) / torch.tensor(STD)).view(1, 3, 1, 1)

    def __call__(self, images: Any) -> Any:
        if images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        if self.here:
            images = images.float().mul_(self.scale).add_(self.shift)
        return images


def finished_epochs(job: Job, loader: Any) -> Any:
    """The epochs of a DataLoader, or of one that behaves as one: each pass gives its batches, finished."""
    finish = Finish(job)

    def epoch(_: int) -> Any:
        for images, labels in loader:
            yield finish(images), labels

    return epoch
