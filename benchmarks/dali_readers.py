"""Which way into DALI is fastest, on the same shards: records fed from this process, or DALI's own LMDB reader.

    python benchmarks/dali_readers.py DATASET --out benchmarks/results/dali-readers.json [--seconds 6] [--repeats 5]

Two questions. How many records a second does each reader deliver, with nothing decoded? And how many images a second
does a whole training pipeline give: with our boxes and flips fed beside the records, and with DALI's own generators?
Every variant decodes the same region, resizes with the same filter and gives uint8 images. Variants alternate, so
that a change of the machine's pace meets all of them.

Shuffling is not equal, and cannot be: fed records come in a full permutation of the split, while DALI's reader draws
from a buffer of `initial_fill` records that it reads in the order of the file. A buffer that holds the whole split is
what would be equal, and holds all its bytes in memory; it is measured too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast.dataset import ShardReader
from alexnet_fast.images import sample_crops, sample_flips
from alexnet_fast.loaders import epoch_order
from alexnet_fast.loaders.dali.pipeline import Decoding, build_pipeline, cut_train
from alexnet_fast.system import cpu_name, usable_cores

BATCH, SIZE = 128, 224


@dataclass(frozen=True)
class Variant:
    """A name, what it does, and how to build it: a pipeline whose every run is one batch."""

    name: str
    does: str
    build: Callable[[ShardReader, int], Any]


def _feed(reader: ShardReader, *, cuts: bool) -> Callable[[], Any]:
    """A source of endless epochs, each in a new full permutation."""
    from nvidia.dali.tensors import TensorCPU

    held: list[Any] = []  # DALI reads the memory in place: what was fed lives as long as it may be under way

    def records() -> Iterator[tuple[int, Any]]:
        epoch = 0
        while True:
            order = epoch_order(len(reader), seed=0, epoch=epoch)
            for i in range(len(order) // BATCH):
                yield epoch, order[i * BATCH : (i + 1) * BATCH]
            epoch += 1

    batches = records()

    def source() -> Any:
        epoch, batch = next(batches)
        jpegs = [TensorCPU(view, "") for view in reader.view_many(batch)]
        fed: Any = jpegs
        if cuts:
            rows = reader.index[batch]
            boxes = sample_crops(0, epoch, batch, rows["height"], rows["width"])
            fed = (jpegs, *cut_train(boxes, sample_flips(0, epoch, batch)))
        held.append(fed)
        del held[:-8]
        return fed

    return source


def _fed_boxes(reader: ShardReader, threads: int) -> Any:
    return build_pipeline(
        _feed(reader, cuts=True),
        batch_size=BATCH,
        image_size=SIZE,
        num_threads=threads,
        device_id=None,
        depth=3,
        decoding=Decoding(),
    )


def _own_pipeline(threads: int, jpegs_of: Callable[[], Any], *, decode: bool) -> Any:
    """DALI's generators on whatever `jpegs_of` reads: image_random_crop, and a coin for the mirror."""
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=3, exec_dynamic=True, seed=0
    )
    with pipeline:
        jpegs = jpegs_of()
        if not decode:
            pipeline.set_outputs(jpegs.shape())
        else:
            regions = fn.decoders.image_random_crop(
                jpegs,
                random_area=[0.08, 1.0],
                random_aspect_ratio=[3 / 4, 4 / 3],
                num_attempts=10,
                adjust_orientation=False,
            )
            width = regions.shape(dtype=types.DALIDataType.FLOAT)[1]
            height = regions.shape(dtype=types.DALIDataType.FLOAT)[0]
            mirror = fn.random.coin_flip(probability=0.5)
            # The mirror for nothing, as in our own graph: the resize runs backwards over the columns.
            pipeline.set_outputs(
                fn.resize(
                    regions,
                    size=[SIZE, SIZE],
                    roi_start=fn.stack(height * 0, width * mirror),
                    roi_end=fn.stack(height, width * (1 - mirror)),
                    interp_type=types.DALIInterpType.INTERP_LINEAR,
                    antialias=True,
                )
            )
    pipeline.build()
    return pipeline


def _fed(*, decode: bool) -> Callable[[ShardReader, int], Any]:
    def build(reader: ShardReader, threads: int) -> Any:
        from nvidia.dali import fn, types

        source = _feed(reader, cuts=False)
        return _own_pipeline(
            threads,
            lambda: fn.external_source(source, no_copy=True, ndim=1, dtype=types.DALIDataType.UINT8),
            decode=decode,
        )

    return build


def _caffe(fill: int | None, *, decode: bool) -> Callable[[ShardReader, int], Any]:
    """DALI's LMDB reader; `fill` records in its shuffling buffer, None: the whole split."""

    def build(reader: ShardReader, threads: int) -> Any:
        from nvidia.dali import fn

        paths = [str(reader.dataset / shard.path) for shard in reader.split_info.shards]
        return _own_pipeline(
            threads,
            lambda: fn.readers.caffe(
                path=paths, random_shuffle=True, initial_fill=fill or len(reader), read_ahead=True, name="records"
            )[0],
            decode=decode,
        )

    return build


READS = [
    Variant("fed", "records fed from this process, full permutation", _fed(decode=False)),
    Variant("caffe-1024", "readers.caffe, buffer of 1,024 records", _caffe(1024, decode=False)),
    Variant("caffe-all", "readers.caffe, buffer of the whole split", _caffe(None, decode=False)),
]
TRAINS = [
    Variant("fed, boxes fed", "records, boxes and flips fed (what the backend does)", _fed_boxes),
    Variant("fed, DALI's crops", "records fed, DALI draws crops and flips", _fed(decode=True)),
    Variant("caffe-1024, DALI's crops", "readers.caffe, DALI draws crops and flips", _caffe(1024, decode=True)),
]


def measure(variants: list[Variant], reader: ShardReader, *, threads: int, seconds: float, repeats: int) -> Any:
    """Records a second of each variant: `repeats` turns of `seconds`, the variants taking turns."""
    pipelines = [variant.build(reader, threads) for variant in variants]
    rates: list[list[float]] = [[] for _ in variants]
    for turn in range(repeats + 1):
        for pipeline, found in zip(pipelines, rates, strict=True):
            begin, batches = time.perf_counter(), 0
            # Each turn begins with a full queue and ends with one: what is in it was paid for by the turn before.
            while time.perf_counter() - begin < (seconds if turn else min(2.0, seconds)):
                pipeline.schedule_run()
                pipeline.share_outputs()
                pipeline.release_outputs()
                batches += 1
            if turn:  # the first fills queues and buffers
                found.append(batches * BATCH / (time.perf_counter() - begin))
    rows = []
    for variant, pipeline, found in zip(variants, pipelines, rates, strict=True):
        pipeline._shutdown()
        rows.append(
            {
                "variant": variant.name,
                "does": variant.does,
                "records_per_s": round(statistics.median(found), 1),
                "lowest": round(min(found), 1),
                "highest": round(max(found), 1),
            }
        )
    return rows


def environment() -> dict[str, Any]:
    """The machine and the versions that the figures hold for."""
    from importlib.metadata import version

    packages = ("nvidia-dali-cuda120", "nvidia-nvimgcodec-cu12", "lmdb", "numpy")
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "device": "cpu",
        "python": sys.version.split()[0],
        **{name: version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    reader = ShardReader(chosen.dataset, chosen.split)
    how = {"threads": chosen.threads, "seconds": chosen.seconds, "repeats": chosen.repeats}
    index = reader.index
    result = {
        "environment": environment(),
        "settings": {"batch_size": BATCH, "image_size": SIZE, "output": "uint8", **how},
        "data": {
            "records": len(reader),
            "shards": len(reader.split_info.shards),
            "mean_bytes": round(float(np.mean(index["length"]))),
            "mean_megapixels": round(float(np.mean(index["width"].astype(float) * index["height"])) / 1e6, 3),
        },
        "reading": measure(READS, reader, **how),
        "training": measure(TRAINS, reader, **how),
    }
    for table in ("reading", "training"):
        print(f"\n{table}")
        for row in result[table]:  # type: ignore[attr-defined]
            print(f"{row['records_per_s']:>12,.0f}/s  ({row['lowest']:,.0f} to {row['highest']:,.0f})  {row['does']}")
    if chosen.out:
        known = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
        known[chosen.dataset.name] = result
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
