"""``alexnet-fast bench-loader``: which loader settings are best on this machine, and why.

sweep.py      the whole of it: probe, demand, cells over their repeats, verdict, files; a child process each
probe.py      in a child: machine, data set, ms an image of each stage
measure.py    in a child: one loader, or the network's own images/s
results.py    the figures as dataclasses, and their JSON
verdict.py    figures -> setting; pure      sentences.py, reasons.py, words.py   figures -> sentences; pure
report.py     what is shown and written
"""

from __future__ import annotations

from .results import BenchReport, Row, Setting, read_report
from .sweep import bench_loader

__all__ = ["BenchReport", "Row", "Setting", "bench_loader", "read_report"]
