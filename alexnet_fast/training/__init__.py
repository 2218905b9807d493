"""From batches to a run folder: recipes, the loop, checkpoints, stopping, several processes."""

from __future__ import annotations

from .checkpoint import LoadedRun, load_run
from .distributed import Ranks
from .run import TrainResult, train
from .run_folder import hardware, versions
from .scoring import TTA, score

__all__ = ["TTA", "LoadedRun", "Ranks", "TrainResult", "hardware", "load_run", "score", "train", "versions"]
