"""docs/loader.md: its table lists the options that there are, and its code runs."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from alexnet_fast import LoaderConfig

PAGE = Path(__file__).parents[2] / "docs" / "loader.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="docs/ does not come with this copy")


def test_the_table_lists_every_option_with_its_default() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = []
    for field in fields(LoaderConfig):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        shown = "Augmentation()" if field.name == "augmentation" else repr(default)
        wanted.append((field.name, shown))
    assert listed == wanted


def test_its_code_runs(packed_small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    code = "\n".join(blocks).replace('"data/tiny"', repr(str(packed_small))).replace("batch_size=128", "batch_size=8")
    scope: dict[str, object] = {}
    exec(code.replace("image_size=64", 'image_size=32, device="cpu"'), scope)
    assert "torch.Size([8, 200])" in capsys.readouterr().out
