"""What a trained network is worth, and its use: evaluate, report, predict, export."""

from __future__ import annotations

from .evaluate import evaluate
from .export import export
from .predict import predict
from .result import EvalResult

__all__ = ["EvalResult", "evaluate", "export", "predict"]
