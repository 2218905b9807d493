"""The whole pipeline on images that it makes itself."""

from __future__ import annotations

from .run import demo

__all__ = ["demo"]
