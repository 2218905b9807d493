"""What an installation gets: metadata, the tested versions, and the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import alexnet_fast

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def names(text):
    return {re.split(r"[^A-Za-z0-9._-]", item)[0].lower() for item in re.findall(r'"([A-Za-z][^"]*[>=][^"]*)"', text)}


def test_every_dependency_has_a_tested_version():
    section = PROJECT[PROJECT.index("dependencies = [") : PROJECT.index("[project.scripts]")]
    pinned = {re.split(r"==", line)[0].lower() for line in PINS}
    assert names(section) - pinned - {"nvidia-dali-cuda130", "hatchling"} == set()


def test_pins_are_exact_and_name_no_index():
    for line in PINS:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*(; python_version (<|>=) \"3\.1\d\")?", line), line
    pairs = [re.split("==", line)[0] for line in PINS if "python_version" in line]
    assert all(pairs.count(name) == 2 for name in pairs)


def test_the_extras_that_the_documents_name_exist():
    section = PROJECT[PROJECT.index("[project.optional-dependencies]") : PROJECT.index("[project.scripts]")]
    extras = set(re.findall(r"^([a-z0-9-]+) = \[", section, re.MULTILINE))
    assert extras >= {"ray", "remote", "export", "test", "dev", "parquet", "tensorboard", "notebook"}
    for page in [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]:
        for named in re.findall(r"alexnet-fast\[([a-z0-9,-]+)\]", page.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= extras, page.name


@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    assert alexnet_fast.__version__ in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
        (entry,) = [name for name in held if name.endswith("entry_points.txt")]
        assert "alexnet-fast = alexnet_fast.cli:main" in archive.read(entry).decode()
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"alexnet_fast"}
    source = {str(p.relative_to(ROOT)) for p in (ROOT / "alexnet_fast").rglob("*.py")} | {"alexnet_fast/py.typed"}
    assert source <= set(held)
