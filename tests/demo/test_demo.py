"""The demo, small: its images, and every file that its summary names."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.demo import demo
from alexnet_fast.demo.images import CLASSES, draw, make_images
from alexnet_fast.errors import UsageError


def test_images_are_real_jpegs_of_several_sizes_with_the_oddities_of_imagenet(tmp_path):
    assert make_images(tmp_path, train=8, val=3) == 11 * len(CLASSES)
    kinds, sizes = Counter(), set()
    for path in sorted(tmp_path.rglob("*.jpg")):
        with Image.open(path) as image:
            kinds[f"{image.format} {image.mode}"] += 1
            sizes.add(image.size)
    assert kinds["PNG RGB"] == 2
    assert kinds["JPEG CMYK"] == 2
    assert kinds["JPEG RGB"] > 90
    assert len(sizes) > 3


def test_images_are_a_function_of_the_seed_and_differ_from_each_other():
    first, again, other = (np.asarray(draw("ring", np.random.default_rng(n))) for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_the_demo_leaves_everything_that_its_summary_names(tmp_path, capsys):
    out = tmp_path / "my demo"
    words = demo(out, device="cpu", epochs=1, train_per_class=8, val_per_class=3)
    named = [Path(match) for match in re.findall(r"^  (\S.*?\S)  +\S", words, re.MULTILINE)]
    assert len(named) == 5
    assert all(path.stat().st_size > 500 for path in named)
    shown = capsys.readouterr().out
    for command in ("pack", "verify", "inspect", "bench-loader", "train", "evaluate", "predict"):
        assert f"$ alexnet-fast {command} " in shown
    assert "encoded anew, CMYK JPEG: 2" in shown
    # The run's own last words: that one epoch is too few to tell, or that it has not learned yet.
    assert "\n   Validated 1 time: too few epochs to tell" in shown or "the fewest to learn something" in shown
    # What it shows is what it does: the run's own record of how to start it again has the same words; those of the
    # loader's settings stand there one by one.
    (command,) = re.findall(r"^   \$ (alexnet-fast train .*) --loader-settings", shown, re.MULTILINE)
    record = json.loads((out / "run" / "config.json").read_text())["command"]
    assert set(shlex.split(command)) <= set(shlex.split(record))


def test_the_demo_replaces_its_own_folder_and_no_other(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="did not make"):
        demo(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
