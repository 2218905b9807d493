"""Ray Data: parquet files, images made by `map_batches` in Ray's workers, batches through its object store.

Its order is that of shuffled files, so weaker than the others': a full shuffle of each epoch would cost more.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import Epoch, Job, defaults_of, fresh, list_images, main
from transforms import DECODERS, Finish, Transform

CANDIDATES = {"decoder": DECODERS, "workers": (2, 3, 1), "rows": (128, 64)}
FLOAT_CANDIDATES = {"normalise": ("batch", "worker")}
PACKAGES = ("ray", "pyarrow", "torch", "torchvision", "simplejpeg", "opencv-python-headless", "numpy")
FORMAT = "parquet"
FILES = 12


class _Images:
    """A batch of encoded images to one of crops; an instance stays in each of Ray's workers."""

    def __init__(self, job: Job) -> None:
        self.transform = Transform(job)

    def __call__(self, rows):
        import numpy as np

        images = np.stack([self.transform(jpeg).numpy() for jpeg in rows["image"]])
        return {"image": images, "label": rows["label"]}


def open_epochs(job: Job) -> Epoch:
    import logging

    import ray
    import torch

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for its workers, which import this module's neighbours
    ray.init(
        num_cpus=job.workers + 1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=2 << 30,
    )  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    dataset = ray.data.read_parquet(str(job.data / FORMAT), shuffle="files", override_num_blocks=FILES)
    dataset = dataset.map_batches(
        _Images,
        fn_constructor_args=(job,),
        batch_size=int(job.settings["rows"]),
        compute=ray.data.ActorPoolStrategy(size=job.workers),
        zero_copy_batch=True,
    )
    finish = Finish(job)

    def epoch(_: int):
        for batch in dataset.iter_batches(
            batch_size=job.batch_size, drop_last=True, prefetch_batches=2, batch_format="numpy"
        ):
            # The store's memory is read-only, which torch warns of; nothing is written to it.
            yield finish(torch.from_numpy(batch["image"])), torch.from_numpy(batch["label"])

    return epoch


def prepare(data: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, rows = fresh(data / FORMAT), list_images(data)
    for i in range(FILES):
        part = rows[i::FILES]
        table = pa.table({"image": [path.read_bytes() for path, _ in part], "label": [label for _, label in part]})
        pq.write_table(table, folder / f"{i:05d}.parquet", compression="none", row_group_size=128)


if __name__ == "__main__":
    main(open_epochs, prepare, {**defaults_of(CANDIDATES), **defaults_of(FLOAT_CANDIDATES)}, PACKAGES)
