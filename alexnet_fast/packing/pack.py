"""Packing: from images in any form that ImageNet is held in to LMDB shards, in parallel and resumable."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..commands import PackConfig
from ..dataset import ClassInfo, DatasetInfo, SplitInfo, write_dataset_info
from ..errors import StorageError
from ..images import compiled_code
from ..options import is_url, takes_options
from ..sources import count_and_reason, open_source, select_classes
from ..system import NoProgress, Progress, WorkerPool, usable_cores
from ..words import counted
from .plan import Plan, plan_shards, write_plan_files
from .publish import published
from .ray_engine import write_shards_on_ray
from .shard_work import (
    FinishedShard,
    Notes,
    ShardJob,
    load_finished,
    write_shard,
)
from .target import open_target, refuse_difference

# dataset.json lists so many re-encoded images of each reason by name; the counts are of all.
_LISTED = 1000
# Images from which on worker processes pay: they take 0.3 s to start.
_MANY = 4000
# Mean bytes of images from which on threads pay.
_LARGE = 16 << 10


@takes_options(PackConfig)
def pack(source: str | Path, dataset: str | Path, *, progress: Progress | None = None, **options: Any) -> DatasetInfo:
    """Write the images of SOURCE into LMDB shards in DATASET; each is decoded once on the way.

    The result is a function of the source's images, the options and the seed: not of the number of workers, nor of
    interruptions. A run that was ended, even by SIGKILL or a full disk, goes on from its finished shards when it is
    asked for again.

    Args:
        source, dataset, options: as in `PackConfig`.
        progress: told of images done.

    Raises:
        UsageError: an option, the source or the target is not usable; the text says what to do.
        DamagedDataError: the source is damaged, or an image cannot be used.
        WorkerError: a worker process was killed; what is finished is kept.
    """
    return write_dataset(PackConfig(source=source, dataset=dataset, **options), progress or NoProgress())


def write_dataset(config: PackConfig, report: Progress) -> DatasetInfo:
    """`pack` of what a config asks for."""
    if is_url(config.dataset):
        with published(str(config.dataset), config.overwrite, report) as local:
            return write_dataset(replace(config, dataset=local), report)
    dataset, engine = Path(config.dataset), config.engine
    pool = WorkerPool(
        usable_cores() if config.workers == "auto" else config.workers,
        on_progress=report.advance,
        imports="alexnet_fast.packing.shard_work",
    )
    with _plain_disk_errors(dataset), open_target(dataset) as target, pool:
        found = open_source(
            config.source, format=config.format, splits=config.splits, staging=target.staging, note=report.note,
            on_missing=config.on_missing,
        )  # fmt: skip
        if config.classes is not None:
            found = select_classes(found, config.classes)
        plan = plan_shards(found, config, shard_bytes=None if config.overwrite else target.shard_bytes())
        if config.overwrite:
            target.clear()
        complete = target.complete()
        if complete is None and engine == "local":
            _start(pool, plan)
        identity = plan.identity()
        if complete is not None:
            refuse_difference(complete.packing, identity, f"{dataset} is complete and was packed")
            report.start(plan.records)
            report.note("was complete already")
            report.advance(plan.records)
            return complete
        target.begin(identity)
        target.drop_leftovers()
        write_plan_files(plan, target.work)
        jobs = [
            ShardJob(
                dataset=str(target.dataset.resolve()), work=str(target.work.resolve()), plan=shard,
                containers=tuple(map(str, found.containers)), source_name=found.name,
                resize_shorter=config.resize_shorter, quality=config.quality,
                skip_bad=config.on_bad_image == "skip", seek_index=config.seek_index,
            )
            for shard in plan.shards
        ]  # fmt: skip
        finished = _write_shards(jobs, plan, pool, engine, report)
        info = _describe(plan, identity, finished, config.on_bad_image)
        write_dataset_info(target.dataset, info)
    return info


def _start(pool: WorkerPool, plan: Plan) -> None:
    """Start the workers, which come up while the rest is made ready; threads where a plan is too small for processes.

    Decoding large images is nearly all of the work and holds no lock of the interpreter; small ones take as long in
    Python as in the decoder.
    """
    if plan.config.workers == "auto" and plan.records < _MANY:
        size = sum(shard.source_bytes for shard in plan.shards)
        pool.stay_here(min(usable_cores(), 8) if size >= _LARGE * plan.records else 0)
    pool.start()


@contextlib.contextmanager
def _plain_disk_errors(dataset: str | Path) -> Iterator[None]:
    """A full disk is no defect of ours: say so in a sentence; what is finished stays."""
    full = (errno.ENOSPC, errno.EDQUOT)
    kept = f"the disk of {dataset} is full: finished shards are kept; make room and run the same command again"
    try:
        yield
    except StorageError as error:
        if any(os.strerror(number) in str(error) for number in full):
            raise StorageError(kept) from None
        raise
    except OSError as error:
        if error.errno in full:
            raise StorageError(kept) from None
        raise


def _write_shards(
    jobs: Sequence[ShardJob], plan: Plan, pool: WorkerPool, engine: str, report: Progress
) -> list[FinishedShard]:
    """All shards, those of an earlier run included, in the plan's order."""
    done = {job.plan.name: found for job in jobs if (found := load_finished(job)) is not None}
    todo = [job for job in jobs if job.plan.name not in done]
    report.start(plan.records)
    if done:
        report.note(f"{len(done):,} of {counted(len(jobs), 'shard')} were finished already")
        report.advance(sum(job.records for job in jobs if job.plan.name in done))
    if engine == "ray":
        results = write_shards_on_ray(todo, pool.count or None, report)
    else:
        results = list(pool.map(write_shard, ((job,) for job in todo), ahead=len(todo)))
    done |= {job.plan.name: result for job, result in zip(todo, results, strict=True)}
    return [done[job.plan.name] for job in jobs]


def _describe(
    plan: Plan, identity: dict[str, Any], finished: Sequence[FinishedShard], on_bad_image: str
) -> DatasetInfo:
    """dataset.json's contents."""
    splits = {}
    notes = {split: Notes() for split in plan.tables}
    for split in plan.tables:
        infos = []
        for shard, result in zip(plan.shards, finished, strict=True):
            if shard.split == split:
                infos.append(result.info)
                notes[split].add(result.notes)
        splits[split] = SplitInfo(
            records=sum(info.records for info in infos),
            bytes=sum(info.bytes for info in infos),
            labelled=plan.source.splits[split].labelled,
            shards=tuple(infos),
        )
    packing = {
        **identity,
        "source": plan.source.name,
        "source_format": plan.source.format,
        "on_bad_image": on_bad_image,
        "exif_orientation": "ignored",
        "files": _account(plan, notes),
        "notes": list(plan.source.account.notes),
        "resized": sum(n.resized for n in notes.values()),
        "re_encoded": _re_encoded(notes),
        "left_out": [
            {"split": split, "key": key, "reason": reason} for split, n in notes.items() for key, reason in n.left_out
        ],
    }
    classes = tuple(ClassInfo(index=i, wnid=w, name=n) for i, (w, n) in enumerate(plan.source.classes))
    return DatasetInfo(classes=classes, splits=splits, packing=packing)


def _account(plan: Plan, notes: dict[str, Notes]) -> dict[str, Any]:
    """What became of every file of the source, in counts: see `Account.as_dict`."""
    account = plan.source.account
    for name, split in plan.source.splits.items():
        keys = split.images["key"]
        table = plan.tables.get(name)
        rest = len(keys) - (0 if table is None else len(table))
        if rest:
            reason = f"of split {name}, which is not asked for" if table is None else f"beyond --limit (split {name})"
            account.leave_out(reason, bytes(keys[0] if table is None else np.setdiff1d(keys, table["key"])[0]), rest)
    account.leave_out_all(
        "that cannot be decoded", (key for split_notes in notes.values() for key, _ in split_notes.left_out)
    )
    return account.as_dict()


def _re_encoded(notes: dict[str, Notes]) -> dict[str, Any]:
    """Counts by reason, and the names of the first _LISTED of each."""
    counts: Counter[str] = Counter()
    listed = []
    for split, split_notes in notes.items():
        for key, reason in split_notes.re_encoded:
            kind = reason.partition(":")[0]
            counts[kind] += 1
            if counts[kind] <= _LISTED:
                listed.append({"split": split, "key": key, "reason": reason})
    return {"counts": dict(counts), "images": listed}


def describe_pack(info: DatasetInfo, dataset: str | Path, *, seek_index: bool = True) -> str:
    """The closing lines of `alexnet-fast pack`: what is in DATASET, and what was changed or left out.

    Args:
        seek_index: whether one was asked for.
    """
    lines = []
    for name, split in info.splits.items():
        label = "" if split.labelled else ", without labels"
        lines.append(
            f"{name}: {counted(split.records, 'image')}{label}, {split.bytes / 1e6:,.1f} MB in "
            f"{counted(len(split.shards), 'shard')}"
        )
    packing = info.packing
    lines += packing.get("notes", [])
    if packing.get("resized"):
        lines.append(f"shrunk: {packing['resized']:,}")
    re_encoded = packing.get("re_encoded", {})
    for kind, count in re_encoded.get("counts", {}).items():
        listed = re_encoded.get("images", re_encoded.get("pictures", ()))  # the second is of before 0.2
        names = [entry["key"] for entry in listed if entry["reason"].partition(":")[0] == kind]
        lines.append(f"encoded anew, {kind}: {count:,} ({_some(names)})")
    lines += [f"left out: {e['key']} ({e['split']}): {e['reason']}" for e in packing.get("left_out", [])[:20]]
    if len(packing.get("left_out", [])) > 20:
        lines.append(f"left out: {len(packing['left_out']):,} in all, listed in {Path(dataset) / 'dataset.json'}")
    lines += _left_out_lines(packing.get("files"))
    if info.classes and all(re.fullmatch(r"n\d{8}", c.wnid) and c.name == c.wnid for c in info.classes):
        lines.append(
            "classes have no names but their wnids: words.txt (from Tiny ImageNet) or LOC_synset_mapping.txt (from "
            "Kaggle's ImageNet) beside the images would give them"
        )
    if seek_index and compiled_code() is None:
        lines.append(
            "no seek index was written: it takes compiled code (alexnet-fast doctor says why there is none), and "
            "without it crops are decoded from the first row of their image on"
        )
    lines.append(f"{counted(info.num_classes, 'class')}; packed into {dataset}")
    return "\n".join(lines)


def _left_out_lines(files: dict[str, Any] | None) -> list[str]:
    """What became of the files that are not packed; data sets of before 0.2 do not tell."""
    if files is None or files["found"] == files["packed"]:
        return []
    lines = [f"files in SOURCE: {files['found']:,}, of which {files['packed']:,} are packed; the others are"]
    for entry in files["left_out"]:
        names = ", ".join(entry["examples"]) + (", ..." if entry["files"] > len(entry["examples"]) else "")
        lines.append(f"  {count_and_reason(entry['files'], entry['reason'])} ({names})")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
