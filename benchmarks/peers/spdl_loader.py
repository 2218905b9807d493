"""SPDL: a pipeline of threads over the image files; images decoded by FFmpeg through spdl.io, or as for others."""

from __future__ import annotations

import random
from pathlib import Path

from common import Epoch, Job, defaults_of, list_images, main, random_crop
from transforms import Finish, Transform

CANDIDATES = {
    "unit": ("chunk", "picture"),
    "decoder": ("opencv", "torchvision", "ffmpeg"),
    "workers": (2, 3, 4, 1),
    "sink": (3,),
}
FLOAT_CANDIDATES = {"normalise": ("batch", "worker")}
PACKAGES = ("spdl", "spdl-io", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
CHUNK = 16


def _ffmpeg(size: int):
    """Bytes to frames: crop, scale and flip in FFmpeg's filter graph (its scaler widens the filter when it shrinks)."""
    import spdl.io

    def call(jpeg: bytes):
        packets = spdl.io.demux_image(jpeg)
        top, left, h, w = random_crop(packets.height, packets.width)
        flip = ",hflip" if random.random() < 0.5 else ""
        graph = f"crop={w}:{h}:{left}:{top}:exact=1,scale={size}:{size}:flags=bilinear{flip},format=pix_fmts=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=graph)

    return call


def open_epochs(job: Job) -> Epoch:
    import numpy as np
    import spdl.io
    import torch
    from spdl.pipeline import PipelineBuilder

    torch.set_num_threads(1)
    rows = list_images(job.data)
    ffmpeg = job.settings["decoder"] == "ffmpeg"
    decode = _ffmpeg(job.image_size) if ffmpeg else Transform(job)
    chunked = job.settings["unit"] == "chunk"
    finish = Finish(job)

    def one(row: tuple[Path, int]):
        path, label = row
        return decode(path.read_bytes()), label

    def some(part: list[tuple[Path, int]]):
        return [one(row) for row in part]

    def collate(samples):
        if chunked:
            samples = [sample for part in samples for sample in part]
        items, labels = zip(*samples, strict=True)
        if ffmpeg:
            images = spdl.io.to_torch(spdl.io.convert_frames(list(items)))
        else:
            images = torch.stack(items)
        return finish(images), torch.tensor(labels)

    def epoch(number: int):
        order = np.random.default_rng(number).permutation(len(rows))
        builder = PipelineBuilder().add_source(rows[i] for i in order)
        if chunked:
            builder.aggregate(CHUNK)
        builder.pipe(some if chunked else one, concurrency=job.workers)
        builder.aggregate(job.batch_size // CHUNK if chunked else job.batch_size, drop_last=True)
        builder.pipe(collate, concurrency=1)
        builder.add_sink(int(job.settings["sink"]))
        pipeline = builder.build(num_threads=job.workers)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    return epoch


def prepare(data: Path) -> None:
    """Reads the image files as they are."""


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
