"""Fuzzing in bounds: every input of the kept corpus, and mutations of them that are the same in every run."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
# A datum takes microseconds; a source or a command line lays down files.
EXAMPLES = {"datum": 400, "manifest": 200, "source": 300, "command_line": 80}


@lru_cache
def kept(target: str) -> list[bytes]:
    return [base64.b85decode(text) for text in json.loads((CORPUS / f"{target}.json").read_text())]


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    content = bytearray(draw(st.sampled_from(kept(target))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["set", "insert", "delete", "cut", "repeat", "join"]))
        if how == "set" and content:
            content[at] = draw(st.integers(0, 255))
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif how == "delete":
            del content[at : at + draw(st.integers(1, 16))]
        elif how == "cut":
            del content[at:]
        elif how == "repeat":
            content[at:at] = content[at : at + 64]
        else:
            content[at:] = draw(st.sampled_from(kept(target)))[at:]
    return bytes(content)


@pytest.mark.parametrize("target", ["datum", "manifest", "source", "command_line"])
def test_the_kept_corpus(target):
    """Every input that a longer run found to reach something new."""
    assert set(TARGETS) == {"datum", "manifest", "source", "command_line"}
    for content in kept(target):
        TARGETS[target](content)


@pytest.mark.parametrize("target", ["datum", "manifest", "source", "command_line"])
def test_mutations_of_the_corpus(target):
    """Bytes set, inserted, deleted, cut, repeated, and inputs joined."""

    @settings(
        max_examples=EXAMPLES[target], deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutated(target))
    def fuzz(content: bytes) -> None:
        TARGETS[target](content)

    fuzz()
