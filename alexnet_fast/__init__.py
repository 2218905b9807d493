"""Train AlexNet on ImageNet, Tiny ImageNet or your own images, with a loader that keeps up.

    import alexnet_fast as af

    af.pack("tiny-imagenet-200.zip", "data")
    loader = af.open_loader("data", split="train", batch_size=128)
    for images, labels in loader:
        ...

Names are imported on first use, so that importing the package costs nothing that is not needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

_HOME = {
    "AlexNetFastError": "errors",
    "Augmentation": "config",
    "Batch": "loaders",
    "BenchConfig": "config",
    "DamagedDataError": "errors",
    "DatasetInfo": "dataset",
    "EvaluateConfig": "commands",
    "Loader": "loaders",
    "LoaderConfig": "config",
    "PackConfig": "commands",
    "PredictConfig": "commands",
    "ShardReader": "dataset",
    "Share": "config",
    "TrainConfig": "config",
    "UsageError": "errors",
    "bench_loader": "bench",
    "create_model": "models",
    "epoch_order": "loaders",
    "evaluate": "evaluation",
    "export": "evaluation",
    "inspect": "inspection",
    "open_loader": "loaders",
    "pack": "packing",
    "predict": "evaluation",
    "ray_datasource": "dataset",
    "read_dataset_info": "dataset",
    "train": "training",
    "verify": "dataset",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .bench import bench_loader as bench_loader
    from .commands import EvaluateConfig as EvaluateConfig
    from .commands import PackConfig as PackConfig
    from .commands import PredictConfig as PredictConfig
    from .config import Augmentation as Augmentation
    from .config import BenchConfig as BenchConfig
    from .config import LoaderConfig as LoaderConfig
    from .config import Share as Share
    from .config import TrainConfig as TrainConfig
    from .dataset import DatasetInfo as DatasetInfo
    from .dataset import ShardReader as ShardReader
    from .dataset import ray_datasource as ray_datasource
    from .dataset import read_dataset_info as read_dataset_info
    from .dataset import verify as verify
    from .errors import AlexNetFastError as AlexNetFastError
    from .errors import DamagedDataError as DamagedDataError
    from .errors import UsageError as UsageError
    from .evaluation import evaluate as evaluate
    from .evaluation import export as export
    from .evaluation import predict as predict
    from .inspection import inspect as inspect
    from .loaders import Batch as Batch
    from .loaders import Loader as Loader
    from .loaders import epoch_order as epoch_order
    from .loaders import open_loader as open_loader
    from .models import create_model as create_model
    from .packing import pack as pack
    from .training import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
