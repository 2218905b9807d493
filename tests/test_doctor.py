"""The report that a bug report wants."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

import alexnet_fast
from alexnet_fast import doctor as module
from alexnet_fast.system import usable_cores


def run_doctor(**environment):
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_report_holds_what_a_bug_report_needs():
    report = run_doctor(OMP_NUM_THREADS="2")
    facts = dict(
        line.strip().split("  ", 1) for line in report.splitlines() if line.startswith("  ") and "  " in line[2:]
    )
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["version"] == alexnet_fast.__version__
    assert facts["usable cores"].startswith(str(usable_cores()))
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert facts["simplejpeg"] not in ("", "yes")  # its version; that it decodes stands above it
    assert facts["Pillow"].startswith("yes")
    assert facts["OMP_NUM_THREADS"] == "2"
    assert report.splitlines()[-2] == "Problems" or "  - " in report


def test_a_check_that_fails_is_a_line_not_an_error(monkeypatch):
    def broken():
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(module, "_machine", broken)
    monkeypatch.setattr(module, "_decoders", broken)
    report = module.doctor()
    assert report.count("not known  RuntimeError: no such thing here") == 2
    assert "Packages" in report


def test_little_shared_memory_is_named_as_a_problem(monkeypatch):
    monkeypatch.setattr(module, "_shared_memory", lambda: (64 << 20, 64 << 20))
    assert any("--shm-size" in problem for problem in module._problems())
