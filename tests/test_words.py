"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from alexnet_fast.words import counted


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [(1, "image", "1 image"), (2, "image", "2 images"), (0, "class", "0 classes"), (1, "class", "1 class"),
     (1000, "batch", "1,000 batches"), (3, "worker process", "3 worker processes"), (2, "epoch", "2 epochs")],
)  # fmt: skip
def test_a_noun_agrees_with_its_number(count, noun, words):
    assert counted(count, noun) == words
