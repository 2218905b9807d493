"""Write docs/reliability.md from the tests' names and descriptions and from the committed results of the long runs.

python tools/make_reliability.py

A test compares the page with what this writes.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reliability.md"
_ALL = r".*"
_FILES = {"mdb": "data.mdb of a shard", "index.npy": "index of a shard", "json": "dataset.json", "pt": "checkpoint"}
# What is listed: (title, module, names of tests).
_SECTIONS = (
    ("Killed, stopped and out of space while packing", "packing/test_pack", r"killed|ctrl_c|at_once|refusing|changes"),
    ("Killed and stopped while training", "training/test_train_processes", r"killed|signal|refusal"),
    ("Run folders and checkpoints", "training/test_train", r"damaged|in_use|refused"),
    ("Killed at random moments", "tools/test_kill", _ALL),
    ("Disks, permissions, changing sources, bad images and labels", "test_faults", _ALL),
    ("Bad and hostile images", "images/test_jpeg", r"bomb|cannot|damaged|truncated|trailing"),
    ("JPEGs that the own decoder must not take", "images/test_decoder", r"trunc|damage|range|odd"),
    ("Damage to the seek index", "dataset/test_seek", r"damage|cut_short|another"),
    ("Hostile and torn archives", "sources/test_sources", r"hostile|torn|pipe|inflates|share_their|unpack"),
    ("Hostile data sets", "dataset/test_shards",
     r"hostile|no_manifest|pickle|twice|lies|missing_cut|descriptors|leftover"),
    ("Bit rot, and checkpoints built to hurt", "dataset/test_bitrot", _ALL),
    ("Verify", "dataset/test_verify", r"flipped|bad|compared|missing|wrecked"),
    ("Fuzzed", "tools/test_fuzz", _ALL),
    ("Mistakes on the command line", "test_cli", r"mistake|full_output|goes_away|fault_of_ours|ctrl_c"),
)  # fmt: skip


def page() -> str:
    """The text of docs/reliability.md."""
    lines = [
        "# What was tried, and what survived",
        "",
        (
            "Written by `tools/make_reliability.py` from the tests and from the committed results of the long runs. "
            "Every test below is part of `make test`, which passes only where all of them do."
        ),
        "",
    ]
    lines += _kills() + _flips() + _damaged_jpegs() + _boxes()
    lines += ["## The tests", ""]
    for title, module, names in _SECTIONS:
        path = ROOT / "tests" / f"{module}.py"
        lines += [f"### {title}", "", f"`tests/{module}.py`", "", "| what is tried | test |", "|---|---|"]
        lines += [f"| {what} | `{name}` |" for name, what in _tests(path, names)]
        lines.append("")
    wrapped = [line if line[:1] in ("|", "#") else textwrap.fill(line, 120) for line in lines]
    return "\n".join(wrapped).rstrip() + "\n"


def _tests(path: Path, names: str) -> list[tuple[str, str]]:
    """(name, what it tries) of the tests whose name is matched."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and re.search(names, node.name):
            words = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split()) or node.name[5:].replace(
                "_", " "
            )
            cases = _cases(node)
            words = words.rstrip(".") + (f": {', '.join(cases)}" if cases else "")
            found.append((node.name, (words[0].upper() + words[1:]).replace("|", "\\|")))
    return found


def _cases(node: ast.FunctionDef) -> list[str]:
    """The names of a parametrized test's cases, where they are written out."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.parametrize":
            for keyword in decorator.keywords:
                if keyword.arg == "ids" and isinstance(keyword.value, ast.List):
                    return [str(ast.literal_eval(element)) for element in keyword.value.elts]
            values = decorator.args[1]
            if isinstance(values, ast.List) and all(isinstance(e, ast.Constant) for e in values.elts):
                return [str(ast.literal_eval(element)) for element in values.elts]
    return []


def _machine(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {environment[name]}" for name in ("python", "torch", "numpy", "lmdb"))
    return f"On {environment['cores']} cores of an {environment['cpu']}, {versions}."


def _kills() -> list[str]:
    paths = sorted(RESULTS.glob("kills*.json"))
    if not paths:
        return []
    results = [json.loads(path.read_text()) for path in paths]
    commands: dict[str, dict[str, Any]] = {}
    for outcome in (outcome for result in results for outcome in result["commands"]):
        of = commands.setdefault(
            outcome["command"], {"rounds": 0, "kills": 0, "workers": 0, "at": Counter(), "lost": 0}
        )
        of["rounds"] += outcome["rounds"]
        of["kills"] += outcome["kills"]
        of["workers"] += outcome["kills_of_workers"]
        of["at"].update(outcome["kills_at"])
        of["lost"] += len(outcome["lost"])
    total, lost = (sum(of[name] for of in commands.values()) for name in ("kills", "lost"))
    processors = dict.fromkeys(result["environment"]["cpu"] for result in results)
    machine = _machine({**results[0]["environment"], "cpu": " or an ".join(processors)})
    lines = [
        f"## {total} kills, {lost} losses",
        "",
        (
            "`tools/kill_harness.py` sends SIGKILL to the process or to one of its workers, at a random moment, when a "
            "certain file appears or during validation; then the same command again, until it may finish. A loss is an "
            "outcome unlike that of the run that nobody killed, a process, shared memory or a temporary file left "
            f"behind, a traceback, or a hang. {machine} All of it is in "
            f"`benchmarks/results/kills-*.json`, {len(paths)} runs of other seeds."
        ),
        "",
        "| command | rounds | kills | of them workers | moments | losses |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for name, of in commands.items():
        moments = sorted(of["at"].items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count} {what if ' ' in what else f'at `{what}`'}" for what, count in moments)
        lines.append(f"| {name} | {of['rounds']} | {of['kills']} | {of['workers']} | {shown} | {of['lost']} |")
    return [*lines, ""]


def _damaged_jpegs() -> list[str]:
    paths = sorted(RESULTS.glob("damaged-jpegs*.json"))
    if not paths:
        return []
    results = [json.loads(path.read_text()) for path in paths]
    seen: Counter[str] = Counter()
    for result in results:
        seen.update(result["seen"])
    inputs, faults = (sum(result[name] for result in results) for name in ("inputs", "faults"))
    lines = [
        f"## {inputs:,} damaged JPEGs, {faults} faults",
        "",
        (
            "`tools/fuzz_decoder.py` damages JPEGs of every kind that the own decoder reads, and decodes each whole "
            "and a box of it, with its seek entry, with a damaged one and without, under the address and "
            "undefined-behaviour sanitizers. A fault is what these find, an image that is accepted though "
            "libjpeg-turbo warns of it, or a pixel unlike libjpeg-turbo's. "
            f"On an {results[0]['cpu']}, {results[0]['compiler']}, simplejpeg {results[0]['simplejpeg']}."
        ),
        "",
        "| decoded | what became of it | times |",
        "|---|---|---:|",
    ]
    for name, count in sorted(seen.items()):
        what, _, status = name.partition(": ")
        lines.append(f"| {'the whole image' if what == 'whole' else 'a box'} | {status} | {count:,} |")
    return [*lines, ""]


def _boxes() -> list[str]:
    path = RESULTS / "small-boxes.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    lines = [
        f"## {result['boxes']:,} boxes of small images, {len(result['faults'])} faults",
        "",
        (
            "`tools/fuzz_decoder.py --boxes` decodes every box of images of every size from 1 x 1 to 17 x 17, in every "
            "sampling, with a seek entry and without, by each kind of kernels. A fault is a box that is not the slice "
            "of what libjpeg-turbo makes of the whole. The tests below try every interval of rows and of columns."
        ),
        "",
        "| sampling | kernels | without a seek entry | with it |",
        "|---|---|---:|---:|",
    ]
    for row in result["seen"]:
        shown = " | ".join(f"{row[name]:,}" for name in ("without", "with"))
        lines.append(f"| {row['sampling']} | {row['kernels']} | {shown} |")
    return [*lines, ""]


def _flips() -> list[str]:
    path = RESULTS / "flips.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    outcomes = [o for file in result["files"].values() for found in file.values() for o in found.items()]
    unseen = sum(count for outcome, count in outcomes if "UNSEEN" in outcome)
    lines = [
        f"## {result['flips']:,} flipped bits and cuts, {unseen} unseen",
        "",
        (
            "`tools/flip_harness.py` flips one bit anywhere in a file or cuts the file short, and looks what a reader, "
            f"`verify` and `--resume` say. {_machine(result['environment'])}"
        ),
        "",
        "| file | damage | trials | what became of them |",
        "|---|---|---:|---|",
    ]
    for name, ways in result["files"].items():
        for how, found in ways.items():
            shown = "; ".join(f"{count:,} {outcome}" for outcome, count in sorted(found.items()))
            lines.append(f"| {_FILES.get(name, name)} | {how} | {sum(found.values()):,} | {shown} |")
    return [*lines, ""]


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
