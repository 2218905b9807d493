"""A run with every choice made, before anything heavy begins; and what makes two runs the same one."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..config import LoaderConfig, TrainConfig
from ..dataset import MANIFEST, DatasetInfo, ShardReader
from ..errors import UsageError
from ..loaders import choose_records
from ..models import (
    PUBLISHED_SIZE,
    SMALLEST_SIZE,
    Architecture,
    Precision,
    choose_precision,
    count_parameters,
    create_model,
    feature_sizes,
)
from ..options import command_words, is_url, options_of, word
from ..system import hardware, open_store, read_object, versions
from .distributed import Ranks
from .recipes import Recipe, choose_recipe, training_size

Say = Callable[[str], None]
# What makes a run that run: with another value of these, its checkpoints mean something else.
_BEFORE = {"shuffle": "full", "freeze": "none", "val_split": "val"}  # what runs did that do not say it
_RECIPE_DEFAULTS = {entry.name: entry.default for entry in fields(Recipe)}
_SAME = tuple(entry.name for entry, known in options_of(TrainConfig) if known.same_run)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run with nothing left at 'auto'.

    Attributes:
        config: what was asked for.
        image_size: side of the images that the network sees, pixels.
        recipe: every hyper-parameter.
        precision: the number format.
        backend, shuffle: asked of the loaders.
        compile: whether the network goes through torch.compile.
        per_rank: images of a batch that one rank reads.
        steps_per_epoch, total_steps: of the optimiser.
        records: numbers of the training records; None: all of the split.
        parameters: of the network.
        stop_at: step at which the run ends: total_steps, or max_steps before it.
        record: what config.json holds.
    """

    config: TrainConfig
    image_size: int
    recipe: Recipe
    precision: Precision
    backend: str
    shuffle: str
    compile: bool
    per_rank: int
    steps_per_epoch: int
    total_steps: int
    records: npt.NDArray[np.int64] | None
    parameters: int
    stop_at: int
    record: dict[str, Any]


def plan_run(config: TrainConfig, info: DatasetInfo, ranks: Ranks, stored: Mapping[str, Any] | None) -> Plan:
    """Fit recipe, precision and batch to data set and machine; what is left at auto follows a stored run.

    Raises:
        UsageError: they cannot be fitted; the text says why.
    """
    reading = LoaderConfig(dataset=config.dataset, cache=config.cache, cache_bytes=config.cache_bytes)
    records = choose_records(reading, config.records, config.share)
    images = info.split("train").records if records is None else len(records)
    recipe = _recipe(config, images, stored)
    image_size = _image_size(config, stored)
    if recipe.batch_size > images:
        raise UsageError(
            f"a batch of {recipe.batch_size} is more than the {images} training images there are: "
            f"use --batch-size {images} or less"
        )
    if recipe.batch_size % ranks.world_size:
        raise UsageError(
            f"a batch of {recipe.batch_size} does not divide over {ranks.world_size} processes: "
            f"use a --batch-size that is a multiple of {ranks.world_size}"
        )
    per_rank = recipe.batch_size // ranks.world_size
    if per_rank == 1 and config.model == "alexnet-bn":
        raise UsageError("alexnet-bn normalises over the batch, so it needs two images: use --batch-size 2 or more")
    asked = {"precision": config.precision, "backend": config.backend, "shuffle": config.shuffle}
    if stored is not None:
        asked = {name: stored.get(name, value) if value == "auto" else value for name, value in asked.items()}
    if asked["shuffle"] == "auto":
        asked["shuffle"] = "window" if stored is None and is_url(config.dataset) and records is None else "full"
    precision = choose_precision(asked["precision"], ranks.device)
    if config.precision == "auto" and stored is not None:
        precision = replace(precision, reason="as this run has computed from its start")
    with torch.device("meta"):  # refuses what cannot be built before anything is written
        model = create_model(config.model, info.num_classes, image_size, **recipe.network)
        if "start_size" not in config.overrides:
            recipe = replace(recipe, start_size=_smallest_start(recipe, model.architecture, image_size))
        for epoch in range(recipe.epochs):
            feature_sizes(model.architecture, training_size(recipe, epoch, image_size))
    steps = images // recipe.batch_size
    record = {
        "format": 1,
        "model": config.model,
        "image_size": image_size,
        "seed": config.seed,
        "init": None if config.init is None else str(Path(config.init).resolve()),
        "freeze": config.freeze,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "epochs_at_start": recipe.epochs
        if stored is None
        else stored.get("epochs_at_start", stored["recipe"]["epochs"]),
        "precision": precision.name,
        "backend": asked["backend"],
        "compile": bool(config.compile),
        "dataset": str(config.dataset if is_url(config.dataset) else Path(config.dataset).resolve()),
        "dataset_id": _dataset_id(info),
        "shuffle": asked["shuffle"],
        "val_split": config.val_split,
        "splits": {name: split.records for name, split in info.splits.items()},
        "num_classes": info.num_classes,
        "num_workers": config.num_workers,
        "pin_memory": config.pin_memory,
        "device": ranks.device.type,
        "world_size": ranks.world_size,
        "checkpoint_every": config.checkpoint_every,
        "max_steps": config.max_steps,
        "records": images,
        "records_id": None if records is None else hashlib.sha256(records.tobytes()).hexdigest()[:16],
        "hardware": hardware(ranks.device),
        "versions": versions("torch", "numpy"),
    }
    total = steps * recipe.epochs
    return Plan(
        config=config, image_size=image_size, recipe=recipe, precision=precision, backend=asked["backend"],
        shuffle=asked["shuffle"], compile=bool(config.compile), per_rank=per_rank, steps_per_epoch=steps,
        total_steps=total, records=records, parameters=count_parameters(model),
        stop_at=min(total, config.max_steps or total), record=record,
    )  # fmt: skip


def _image_size(config: TrainConfig, stored: Mapping[str, Any] | None) -> int:
    if config.image_size != "auto":
        return config.image_size
    if stored is not None:
        return int(stored["image_size"])
    reader = ShardReader(config.dataset, "train", config.cache, config.cache_bytes)
    try:
        shorter = np.minimum(reader.heights, reader.widths)
    finally:
        reader.close()
    return min(PUBLISHED_SIZE, max(SMALLEST_SIZE, int(np.median(shorter)))) if len(shorter) else PUBLISHED_SIZE


def _smallest_start(recipe: Recipe, architecture: Architecture, image_size: int) -> float:
    """The recipe's share of the image size to begin at, or the next eighth at which the network has a pixel left."""
    for share in (recipe.start_size, *(n / 8 for n in range(1, 8) if n / 8 > recipe.start_size)):
        try:
            feature_sizes(architecture, training_size(replace(recipe, start_size=share), 0, image_size))
        except UsageError:
            continue
        return share
    return 1.0


def _recipe(config: TrainConfig, images: int, stored: Mapping[str, Any] | None) -> Recipe:
    """The recipe; of a run that is there, fitted to the epochs that it began with."""
    if stored is None:
        return choose_recipe(config, images)
    before = stored["recipe"]["epochs"]
    asked = config.overrides.get("epochs", config.epochs or before)
    overrides = {name: value for name, value in config.overrides.items() if name != "epochs"}
    recipe = choose_recipe(replace(config, epochs=stored.get("epochs_at_start", before), overrides=overrides), images)
    return replace(recipe, epochs=asked)


def _dataset_id(info: DatasetInfo) -> str:
    """Of the classes and of every record in its place; not of where it was packed from, nor of how."""
    shards = {name: [shard.sha256 for shard in split.shards] for name, split in info.splits.items()}
    content = [[c.wnid for c in info.classes], shards]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _old_dataset_id(dataset: str) -> str:
    """The identity that runs of before hold: of the whole manifest, with the name of what was packed."""
    manifest = (
        read_object(open_store(dataset), MANIFEST) if is_url(dataset) else (Path(dataset) / MANIFEST).read_bytes()
    )
    return hashlib.sha256(manifest).hexdigest()[:16]


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """What makes the run in `stored` another one than `asked`, in words; nothing where it is the same.

    The number of epochs may change: a run can be made longer.
    """
    for name in (*_SAME, "recipe", "dataset_id", "records_id"):
        old, new = stored.get(name, _BEFORE.get(name)), asked[name]
        if name == "recipe" and isinstance(old, dict):
            for field in new:
                before = old.get(field, _RECIPE_DEFAULTS.get(field))  # a run of before there was this hyper-parameter
                if field != "epochs" and before != new[field]:
                    yield f"{field} {word(before)} there, {word(new[field])} asked for"
        elif old != new:
            if name == "dataset_id":
                if old == _old_dataset_id(asked["dataset"]):
                    continue
                yield f"it trained on other data, {stored.get('dataset')}"
            elif name == "records_id":
                yield f"it trained on other records, {stored.get('records', 'all')} of them (--records, --share)"
            else:
                yield f"{name} {word(old)} there, {word(new)} asked for"


def resume_command(config: TrainConfig, run_dir: Path) -> str:
    """The command line that goes on with this run."""
    words = ["alexnet-fast", "train", str(config.dataset), "--run-dir", str(run_dir), *command_words(config)]
    return " ".join(map(shlex.quote, [*words, "--resume"]))


def apply_loader_settings(config: TrainConfig, say: Say) -> TrainConfig:
    """Fill what is left at auto from the recommendation of a bench-loader.json.

    Raises:
        UsageError: there is no such file, or it holds no recommendation.
    """
    if config.loader_settings is None:
        return config
    path = Path(config.loader_settings)
    path = path / "bench-loader.json" if path.is_dir() else path
    try:
        advice = json.loads(path.read_text())["recommendation"]
        known = {name: advice[name] for name in ("backend", "num_workers", "pin_memory") if name in advice}
    except OSError as error:
        raise UsageError(f"--loader-settings {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"--loader-settings {path} is not a bench-loader.json with a recommendation: make one with "
            f"`alexnet-fast bench-loader {shlex.quote(str(config.dataset))} --out FOLDER`"
        ) from None
    chosen = {name: value for name, value in known.items() if getattr(config, name) == "auto" and value is not None}
    if not chosen:
        return config
    say(f"loader settings of {path}: " + ", ".join(f"{name} {word(value)}" for name, value in chosen.items()))
    return replace(config, **chosen)
