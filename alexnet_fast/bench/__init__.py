"""``alexnet-fast bench-loader``: which loader settings are best on this machine, and why.

session.py   the whole of it: probe, demand, sweep, verdict, files
probe.py     machine, data set, ms an image of each stage        demand.py  the network's own images/s
sweep.py     the cells, interleaved over repeats                   cell.py    one measurement, in its own process
verdict.py   figures -> setting and sentences; pure                results.py dataclasses and JSON
tables.py, plot.py, display.py   what is shown and written         processes.py  CPU time and memory of a tree
"""

from __future__ import annotations

from .results import BenchReport, Row, Setting, read_report
from .session import bench_loader

__all__ = ["BenchReport", "Row", "Setting", "bench_loader", "read_report"]
