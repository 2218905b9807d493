"""From the archive ImageNet or Tiny ImageNet is downloaded as to a trained AlexNet, with no stage waiting on another.

    import alexnet_fast as af

    af.pack("tiny-imagenet-200.zip", "data")
    loader = af.open_loader(af.LoaderConfig(dataset="data", split="train", batch_size=128))
    for images, labels in loader:
        ...

Names are imported on first use, so that importing the package costs nothing that is not needed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AlexNetFastError": "errors",
    "Augmentation": "config",
    "Batch": "loaders",
    "BenchConfig": "config",
    "DamagedDataError": "errors",
    "DatasetInfo": "shards",
    "Loader": "loaders",
    "LoaderConfig": "config",
    "ShardReader": "shards",
    "TrainConfig": "config",
    "UsageError": "errors",
    "bench_loader": "bench",
    "create_model": "models",
    "epoch_order": "order",
    "evaluate": "evaluate",
    "export": "export",
    "inspect": "inspection",
    "open_loader": "loaders",
    "pack": "pack",
    "predict": "predict",
    "read_dataset_info": "shards",
    "train": "train",
    "verify": "verify",
}

__all__ = [
    "AlexNetFastError",
    "Augmentation",
    "Batch",
    "BenchConfig",
    "DamagedDataError",
    "DatasetInfo",
    "Loader",
    "LoaderConfig",
    "ShardReader",
    "TrainConfig",
    "UsageError",
    "__version__",
    "bench_loader",
    "create_model",
    "epoch_order",
    "evaluate",
    "export",
    "inspect",
    "open_loader",
    "pack",
    "predict",
    "read_dataset_info",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from .bench import bench_loader as bench_loader
    from .config import Augmentation as Augmentation
    from .config import BenchConfig as BenchConfig
    from .config import LoaderConfig as LoaderConfig
    from .config import TrainConfig as TrainConfig
    from .errors import AlexNetFastError as AlexNetFastError
    from .errors import DamagedDataError as DamagedDataError
    from .errors import UsageError as UsageError
    from .evaluate import evaluate as evaluate
    from .export import export as export
    from .inspection import inspect as inspect
    from .loaders import Batch as Batch
    from .loaders import Loader as Loader
    from .loaders import open_loader as open_loader
    from .models import create_model as create_model
    from .order import epoch_order as epoch_order
    from .pack import pack as pack
    from .predict import predict as predict
    from .shards import DatasetInfo as DatasetInfo
    from .shards import ShardReader as ShardReader
    from .shards import read_dataset_info as read_dataset_info
    from .train import train as train
    from .verify import verify as verify


class _Package(ModuleType):
    """The package itself, in which a function wins over the module of the same name (pack, train, evaluate ...).

    Importing ``alexnet_fast.pack`` binds the submodule in the package; without this, ``alexnet_fast.pack(...)`` would
    work or not depending on what was imported before.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted(__all__)


sys.modules[__name__].__class__ = _Package
