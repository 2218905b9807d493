"""Packing over a Ray cluster whose machines share a file system: the same work on the same shards, elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..errors import AlexNetFastError, MissingDependencyError, UsageError, WorkerError
from ..system import Progress
from .shard_work import FinishedShard, ShardJob, write_shard


def write_shards_on_ray(jobs: Sequence[ShardJob], cpus: int | None, report: Progress) -> list[FinishedShard]:
    """`write_shard` of every job, each a Ray task of one CPU.

    Uses the cluster that this process is connected to, else the one that Ray finds (RAY_ADDRESS, `ray start`), else
    starts one on this machine with `cpus` CPUs. Source and DATASET must be reachable under the same paths everywhere.

    Raises:
        MissingDependencyError: Ray is not installed.
        WorkerError: a task died several times over.
    """
    try:
        import ray
    except ImportError:
        raise MissingDependencyError(
            "--engine ray needs Ray: install it with `pip install 'alexnet-fast[ray]'`"
        ) from None
    if not ray.is_initialized():
        _connect(ray, cpus)
    task = ray.remote(num_cpus=1, max_retries=2)(_write)
    places = {task.remote(job): place for place, job in enumerate(jobs)}
    finished: dict[int, FinishedShard] = {}
    waiting = list(places)
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        for reference in ready:
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                text = (str(error).splitlines() or [""])[0]
                raise WorkerError(
                    f"a Ray task ended before its shard did ({type(error).__name__}: {text}): what is finished is "
                    "kept; run the same command again to go on"
                ) from None
            if isinstance(result, Exception):
                raise result
            finished[places[reference]] = result
            report.advance(jobs[places[reference]].records)
    return [finished[place] for place in range(len(jobs))]


def _connect(ray: Any, cpus: int | None) -> None:
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        try:
            ray.init(address="auto", **options)
        except ConnectionError:
            ray.init("local", num_cpus=cpus, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray cannot be reached or started ({(str(error).splitlines() or [''])[0]})") from None


def _write(job: ShardJob) -> FinishedShard | Exception:
    # Errors of ours go back as values: as exceptions, Ray would wrap them into another class with a traceback as text.
    try:
        return write_shard(job)
    except (AlexNetFastError, OSError) as error:
        return error
