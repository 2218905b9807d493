"""Top-1 and top-5 of a trained network on a split, with what each image was taken for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..commands import EvaluateConfig
from ..config import LoaderConfig
from ..dataset import ClassInfo, DatasetInfo, read_dataset_info
from ..errors import StorageError, UsageError
from ..images import eval_resize
from ..loaders import choose_records, open_loader
from ..models import choose_precision
from ..options import takes_options
from ..system import (
    check_writable,
    choose_device,
    follow_usable_cores,
    memory_format,
    progress_bar,
    storage_error,
    use_device,
)
from ..training import LoadedRun, Ranks, load_run, score
from ..words import counted
from .result import EvalResult


@takes_options(EvaluateConfig)
def evaluate(run: Path | str, dataset: Path | str, **options: Any) -> EvalResult:
    """Evaluate RUN on a split: shorter side to 256/224 of the network's size, centre crop, every record once.

    Args:
        run, dataset, options: as in `EvaluateConfig`.

    Raises:
        UsageError: an argument does not fit, the split has no labels, or the classes are not those of the run.
        DamagedDataError: the checkpoint or a record is damaged.
        StorageError: the JSON file or the report cannot be written; the text holds the scores.
    """
    asked = EvaluateConfig(run=run, dataset=dataset, **options)
    check_writable(asked.json, "--json")
    info = read_dataset_info(dataset)
    _check_split(info, asked.split, dataset)
    if asked.report is not None and asked.report.exists() and not asked.report.is_dir():
        raise UsageError(f"the report goes into a folder, and {asked.report} is a file: give another --report")
    kept: dict[str, Any] = {"cache": asked.cache, "cache_bytes": asked.cache_bytes}
    chosen = choose_records(LoaderConfig(dataset=dataset, split=asked.split, **kept), asked.records, asked.share)
    loaded = load_run(run)
    _check_classes(loaded.classes, loaded.model.num_classes, info, dataset)
    follow_usable_cores()
    place = choose_device(asked.device)
    use_device(place)
    numbers = choose_precision(asked.precision, place)
    model = loaded.model.to(place).to(memory_format=memory_format(place))
    config = LoaderConfig(
        dataset=dataset, split=asked.split, train=False, backend=asked.backend, batch_size=asked.batch_size,
        num_workers=asked.num_workers, image_size=loaded.image_size, device=str(place), dtype=numbers.dtype,
        records=chosen, **kept,
    )  # fmt: skip
    if asked.tta == "ten-crop":
        # The crops are cut out of the whole centre square, so the loader must not cut first.
        whole = eval_resize(loaded.image_size)
        config = replace(config, image_size=whole, eval_resize=whole)
    begin = time.perf_counter()
    with open_loader(config) as loader, progress_bar("evaluating") as progress:
        progress.start(loader.num_records)
        found = score(
            model, loader, numbers, Ranks(0, 1, place), tta=asked.tta, keep=True, advance=progress.advance
        )  # fmt: skip
    result = EvalResult(
        run=Path(run), dataset=asked.dataset, split=asked.split, tta=asked.tta, description=loaded.description,
        images=found.images, loss=found.loss, top1=found.top1, top5=found.top5,
        seconds=time.perf_counter() - begin, classes=info.classes, labels=found.labels.numpy(),
        predictions=found.classes.numpy(), probabilities=found.probabilities.numpy(),
        records=np.arange(found.images) if chosen is None else chosen, classes_checked=bool(loaded.classes), **kept,
    )  # fmt: skip
    return _written(result, asked, loaded)


def _written(result: EvalResult, asked: EvaluateConfig, loaded: LoadedRun) -> EvalResult:
    """Write what was asked for; where the file system refuses, the sentence that says so holds the scores."""
    path = asked.json
    try:
        if asked.json is not None:
            result.write_json(asked.json)
        path = asked.report
        if asked.report is not None:
            from .report import write_report

            result = replace(result, report=write_report(result, asked.report, loaded))
    except (StorageError, OSError) as error:
        assert path is not None
        why = storage_error(error, path) if isinstance(error, OSError) else error
        raise StorageError(f"not written: {why}; the result is {result.scores()}") from None
    return result


def _check_split(info: DatasetInfo, split: str, dataset: Path | str) -> None:
    """Refuse a split that cannot be scored, and name those that can."""
    usable = [name for name, found in info.splits.items() if found.labelled and found.records]
    others = sorted((name for name in usable if name != split), key=lambda name: name == "train")
    hint = f"evaluate on another, as in --split {others[0]}" if others else "pack a source that has one with labels"
    if split not in info.splits:
        raise UsageError(f"{dataset} has no split {split!r} (it has {', '.join(info.splits) or 'none'}): {hint}")
    if not info.splits[split].labelled:
        raise UsageError(
            f"split {split!r} of {dataset} has no labels to compare with: use `alexnet-fast predict`, or {hint}"
        )
    if not info.splits[split].records:
        raise UsageError(f"split {split!r} of {dataset} holds no images: {hint}")


def _check_classes(trained: tuple[ClassInfo, ...], num_classes: int, info: DatasetInfo, dataset: Path | str) -> None:
    if num_classes != info.num_classes:
        raise UsageError(
            f"the network knows {counted(num_classes, 'class')} and {dataset} has {info.num_classes}: "
            "evaluate on the data set that it was trained for"
        )
    if trained and [c.wnid for c in trained] != [c.wnid for c in info.classes]:
        different = next(i for i, (a, b) in enumerate(zip(trained, info.classes, strict=True)) if a.wnid != b.wnid)
        raise UsageError(
            f"class {different} is {trained[different].wnid} for the network and {info.classes[different].wnid} in "
            f"{dataset}: evaluate on the data set that it was trained for"
        )
