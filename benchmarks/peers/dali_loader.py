"""NVIDIA DALI on the CPU: region decode, resize (antialiased or not), and mirror in its C++ threads."""

from __future__ import annotations

from pathlib import Path

from common import AREA, ASPECT, MEAN, STD, Epoch, Job, defaults_of, list_images, main

CANDIDATES = {
    "decode": ("region", "whole"),
    "fast_idct": (False, True),
    "mirror": ("normalize", "flip"),
    "reader": ("caffe", "file"),
    "workers": (2, 3, 4, 1),
    "prefetch": (2, 3),
    "antialias": (True,),
}
FLOAT_CANDIDATES = {"normalise": ("pipeline", "batch")}
PACKAGES = ("nvidia-dali-cuda120", "torch", "numpy")
FORMAT = "lmdb"


def _pipeline(job: Job):
    from nvidia.dali import fn, pipeline_def, types

    s, size = job.settings, job.image_size
    as_float = job.float_output and s["normalise"] == "pipeline"

    @pipeline_def(
        batch_size=job.batch_size,
        num_threads=job.workers,
        device_id=None,
        prefetch_queue_depth=int(s["prefetch"]),
    )
    def pipeline():
        if s["reader"] == "caffe":
            jpegs, labels = fn.readers.caffe(path=[str(job.data / FORMAT)], random_shuffle=True, name="pictures")
        else:
            jpegs, labels = fn.readers.file(file_root=str(job.data / "jpeg"), random_shuffle=True, name="pictures")
        decode = {"output_type": types.RGB, "use_fast_idct": bool(s["fast_idct"])}
        crop = {"random_area": AREA, "random_aspect_ratio": ASPECT, "num_attempts": 10}
        resize = {"size": (size, size), "interp_type": types.INTERP_LINEAR, "antialias": bool(s["antialias"])}
        if s["decode"] == "region":
            images = fn.resize(fn.decoders.image_random_crop(jpegs, **decode, **crop), **resize)
        else:
            images = fn.random_resized_crop(fn.decoders.image(jpegs, **decode), **crop, **resize)
        coin = fn.random.coin_flip(probability=0.5)
        if as_float:
            images = fn.crop_mirror_normalize(
                images,
                mirror=coin,
                mean=[255 * x for x in MEAN],
                std=[255 * x for x in STD],
                dtype=types.FLOAT,
                output_layout="CHW",
            )
        elif s["mirror"] == "normalize":
            images = fn.crop_mirror_normalize(
                images, mirror=coin, mean=0.0, std=1.0, dtype=types.UINT8, output_layout="HWC"
            )
        else:
            images = fn.flip(images, horizontal=coin)
        return images, labels

    return pipeline()


def open_epochs(job: Job) -> Epoch:
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator
    from transforms import Finish

    iterator = DALIGenericIterator(
        [_pipeline(job)],
        ["images", "labels"],
        reader_name="pictures",
        auto_reset=True,
        last_batch_policy=LastBatchPolicy.DROP,
    )
    here = job.float_output and job.settings["normalise"] == "batch"
    finish = Finish(job) if here or not job.float_output else lambda images: images

    def epoch(_: int):
        for (batch,) in iterator:
            yield finish(batch["images"]), batch["labels"].squeeze(-1).long()

    return epoch


def prepare(data: Path) -> None:
    """One LMDB of Caffe Datum records, the packed format that DALI reads with many threads."""
    import lmdb
    from common import fresh

    rows = list_images(data)
    out = fresh(data / FORMAT)
    size = sum(path.stat().st_size for path, _ in rows)
    env = lmdb.open(str(out), map_size=2 * size + (64 << 20) + 8192 * len(rows), lock=False)
    with env.begin(write=True) as txn:
        for i, (path, label) in enumerate(rows):
            txn.put(b"%08d" % i, _datum(path.read_bytes(), label), append=True)
    env.close()


def _datum(jpeg: bytes, label: int) -> bytes:
    return b"\x22" + _varint(len(jpeg)) + jpeg + b"\x28" + _varint(label) + b"\x38\x01"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
