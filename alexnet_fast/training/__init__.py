"""From batches to a run folder: recipes, the loop, checkpoints, stopping, several processes."""

from __future__ import annotations

from .checkpoint import LoadedRun, load_run
from .distributed import Ranks
from .fit import fit_verdict
from .recipes import made_harder_by
from .run import TrainResult, train
from .scoring import score
from .step import Step

__all__ = ["LoadedRun", "Ranks", "Step", "TrainResult", "fit_verdict", "load_run", "made_harder_by", "score", "train"]
