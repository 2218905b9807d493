"""The limit: libjpeg-turbo decodes whole images from memory; nothing is cropped, resized or handed over."""

from __future__ import annotations

from pathlib import Path

from common import Epoch, Job, defaults_of, list_images, main

CANDIDATES = {"workers": (2, 1), "kind": ("threads", "processes"), "fast_idct": (False,)}
FLOAT_CANDIDATES: dict[str, tuple] = {}
PACKAGES = ("simplejpeg", "numpy")


def _decode(jpegs: list[bytes], fast: bool) -> int:
    import simplejpeg

    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=fast, fastupsample=False)
    return len(jpegs)


def _decode_at(part: slice) -> int:
    return _decode(_JPEGS[part], _FAST)


_JPEGS: list[bytes] = []
_FAST = False


def open_epochs(job: Job) -> Epoch:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    global _FAST
    _FAST = bool(job.settings["fast_idct"])
    _JPEGS[:] = [path.read_bytes() for path, _ in list_images(job.data)]
    if job.settings["kind"] == "threads":
        pool = ThreadPoolExecutor(job.workers)
    else:
        pool = ProcessPoolExecutor(job.workers, mp_context=multiprocessing.get_context("fork"))
    step = job.batch_size // 8
    parts = [slice(i, i + step) for i in range(0, len(_JPEGS), step)]

    def epoch(_: int):
        done = 0
        for count in pool.map(_decode_at, parts):
            done += count
            while done >= job.batch_size:
                done -= job.batch_size
                yield None, range(job.batch_size)

    return epoch


def prepare(data: Path) -> None:
    """Reads the image files as they are."""


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES, check=False)
