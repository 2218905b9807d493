"""What a trained network is worth, and its use: evaluate, report, predict, export."""

from __future__ import annotations

from .evaluate import EvalResult, evaluate
from .export import export
from .predict import predict

__all__ = ["EvalResult", "evaluate", "export", "predict"]
