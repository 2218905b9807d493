"""`open_loader`: the one place that chooses a backend, imports it, and says what to do where it cannot run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Batch, Loader

if TYPE_CHECKING:
    from ..config import LoaderConfig

__all__ = ["Batch", "Loader", "open_loader"]


def open_loader(config: LoaderConfig) -> Loader:
    """Open the loader that `config` asks for.

    Raises:
        UsageError: the data set or the device is not there, or the backend cannot run here; the text names the remedy.
        DamagedDataError: the data set is damaged.
    """
    name = config.backend
    if name == "auto":
        name = "torchvision"
    if name == "torchvision":
        from .torchvision import TorchvisionLoader

        return TorchvisionLoader(config)
    if name == "resident":
        from .resident import ResidentLoader

        return ResidentLoader(config)
    if name == "synthetic":
        from .synthetic import SyntheticLoader

        return SyntheticLoader(config)
    from .dali import DaliLoader

    return DaliLoader(config)
