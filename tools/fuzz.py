"""Fuzz one of tests/tools/fuzz_targets.py under atheris, by hand; keep what reaches something new in its corpus.

python -m pip install atheris
python tools/fuzz.py source --seconds 300

The kept corpus is the smallest that reaches as much; `make test` runs it, and mutations of it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "tests" / "tools" / "corpus"
_LARGEST = 4096  # bytes of an input; what is kept is committed
_MOST = 150  # inputs of a target that are kept, the shortest first


def main() -> int:
    """Fuzz, reduce, keep; 1 where an input broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kept = CORPUS / f"{options.target}.json"
    with tempfile.TemporaryDirectory() as name:
        found, least = Path(name) / "found", Path(name) / "least"
        found.mkdir()
        least.mkdir()
        before = json.loads(kept.read_text()) if kept.exists() else []
        for number, text in enumerate(before):
            (found / f"kept-{number}").write_bytes(base64.b85decode(text))
        # To reduce, libFuzzer starts its program again and again: by this name.
        again = Path(name) / "again"
        again.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" --inner {options.target} "$@"\n')
        again.chmod(0o755)
        flags = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", f"-max_len={_LARGEST}", "-timeout=30"]
        broken = _libfuzzer(again, *flags, f"-artifact_prefix={Path.cwd()}/", str(found))
        _libfuzzer(again, "-merge=1", str(least), str(found))
        inputs = sorted((path.read_bytes() for path in least.iterdir()), key=lambda content: (len(content), content))
        if not inputs:
            raise SystemExit("the corpus could not be reduced: what was kept before stays")
        # What is longer than the rest of its kind is left to the next run to find again.
        kept.write_text(json.dumps([base64.b85encode(content).decode() for content in inputs[:_MOST]], indent=0) + "\n")
    print(f"{options.target}: {len(before)} inputs before, {len(inputs[:_MOST])} of {len(inputs)} kept")
    return broken


def _libfuzzer(program: Path, *arguments: str) -> int:
    return subprocess.run(
        [program, *arguments], check=False, env={**os.environ, "FUZZ_PROGRAM": str(program)}
    ).returncode


def _inner(target: str, arguments: list[str]) -> None:
    """The process that libFuzzer takes over."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tools")]
    import atheris

    with atheris.instrument_imports(include=["alexnet_fast"]):
        import fuzz_targets
    atheris.Setup([os.environ["FUZZ_PROGRAM"], *arguments], fuzz_targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inner"]:
        _inner(sys.argv[2], sys.argv[3:])
    sys.exit(main())
