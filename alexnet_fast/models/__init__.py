"""The AlexNets, their local response normalisation, and the precision that they compute in."""

from __future__ import annotations

from .alexnet import (
    ARCHITECTURES,
    INITS,
    PUBLISHED_SIZE,
    SMALLEST_SIZE,
    AlexNet,
    Architecture,
    count_parameters,
    create_model,
    feature_sizes,
)
from .precision import Precision, choose_precision, copy_for_computing, measured_gain

__all__ = [
    "ARCHITECTURES",
    "INITS",
    "PUBLISHED_SIZE",
    "SMALLEST_SIZE",
    "AlexNet",
    "Architecture",
    "Precision",
    "choose_precision",
    "copy_for_computing",
    "count_parameters",
    "create_model",
    "feature_sizes",
    "measured_gain",
]
