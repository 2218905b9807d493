"""What a run reads: its loaders, and the labels and sample images by which it is judged."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ..config import LoaderConfig
from ..dataset import DatasetInfo, ShardReader
from ..loaders import Loader, open_loader
from .diagnosis import PROBE_IMAGES
from .distributed import Ranks
from .plan import Plan
from .recipes import training_size, transforms

_PROBE_BATCH = 64


class RunData:
    """The loaders of a run, each opened when it is first asked for."""

    def __init__(self, plan: Plan, info: DatasetInfo, ranks: Ranks, say: Callable[[str], None]) -> None:
        self._plan, self._info, self._ranks, self._say = plan, info, ranks, say
        self._train: Loader | None = None
        self._val: Loader | None = None

    def train_loader(self, epoch: int) -> Loader:
        """That of training, whose images have the size of this epoch, counted from 0."""
        size = training_size(self._plan.recipe, epoch, self._plan.image_size)
        if self._train is None or self._train.config.image_size != size:
            if self._train is not None:
                self._train.close()
            self._train = self._open("train", True, size)
            grown = f"; images of {size} pixels" if epoch or size < self._plan.image_size else ""
            self._say(f"loader {self._train.description}{grown}")
        return self._train

    def val_loader(self) -> Loader | None:
        """That of validation; None where there is nothing with labels to validate on."""
        name = self._plan.config.val_split
        split = self._info.splits.get(name)
        if split is None or not split.labelled or split.records == 0:
            return None
        if self._val is None:
            self._val = self._open(name, False, self._plan.image_size)
        return self._val

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """(N,) of all records of a split."""
        config = self._plan.config
        reader = ShardReader(config.dataset, split, config.cache, config.cache_bytes)
        try:
            return np.asarray(reader.labels)
        finally:
            reader.close()

    def probe(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to `PROBE_IMAGES` of a split and their labels, on the CPU, as validation sees them."""
        config = LoaderConfig(
            dataset=self._plan.config.dataset, split=split, train=False, backend="torchvision",
            batch_size=_PROBE_BATCH, image_size=self._plan.image_size, num_workers=0, device="cpu",
            cache=self._plan.config.cache, cache_bytes=self._plan.config.cache_bytes,
        )  # fmt: skip
        with open_loader(config) as loader:
            batches = list(itertools.islice(loader, PROBE_IMAGES // _PROBE_BATCH))
        return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])

    def close(self) -> None:
        """Give back the loaders' workers and memory."""
        for loader in (self._train, self._val):
            if loader is not None:
                loader.close()
        self._train = self._val = None

    def _open(self, split: str, train: bool, image_size: int) -> Loader:
        plan, config = self._plan, self._plan.config
        return open_loader(
            LoaderConfig(
                dataset=config.dataset, split=split, train=train, backend=plan.backend, batch_size=plan.per_rank,
                image_size=image_size, num_workers=config.num_workers, pin_memory=config.pin_memory,
                device=str(self._ranks.device), dtype=plan.precision.dtype, seed=config.seed, rank=self._ranks.rank,
                world_size=self._ranks.world_size, augmentation=plan.recipe.augmentation, shuffle=plan.shuffle,
                cache=config.cache, cache_bytes=config.cache_bytes, records=plan.records if train else None,
                options={} if config.hw_decoder_load is None else {"hw_decoder_load": config.hw_decoder_load},
                **(transforms(plan.recipe, self._info.num_classes) if train else {}),
            )
        )  # fmt: skip
