"""examples/lesson*.ipynb: the English one runs in a real kernel; the Chinese one has the same cells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import draw_image, encode

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LESSON, CHINESE = EXAMPLES / "lesson.ipynb", EXAMPLES / "lesson.zh-CN.ipynb"
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytestmark = pytest.mark.skipif(not LESSON.exists(), reason="examples/ does not come with this copy")


def tiny_imagenet(folder, classes=3, train=60, val=8):
    """A small tree of Tiny ImageNet's form."""
    wnids = [f"n{label:08d}" for label in range(classes)]
    lines = []
    for label, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for i in range(train):
            (images / f"{wnid}_{i}.JPEG").write_bytes(encode(draw_image(label, i, (64, 64))))
        for i in range(val):
            path = folder / "val" / "images" / f"val_{len(lines)}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(draw_image(label, 500 + i, (64, 64))))
            lines.append(f"{path.name}\t{wnid}\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("".join(f"{wnid}\tname of {label}\n" for label, wnid in enumerate(wnids)))
    return folder


# The kernel is a process of its own; what jupyter's client warns of on the way there is not ours.
@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_the_lesson_shows_each_trap_and_its_remedy(tmp_path, monkeypatch):
    folder = tmp_path / "my note book"
    values = {
        "TINY_IMAGENET": tiny_imagenet(folder / "tiny-imagenet-200"),
        "LESSON_WORK": folder / "out",
        "LESSON_CLASSES": 2,
        "LESSON_EPOCHS": 2,
        "LESSON_WIDTH": 0.07,
        "LESSON_RATE": 0.1,
        "LESSON_SECONDS": 0.2,
        "LESSON_DEMAND": "none",
        "LESSON_SWEEP": "0",
        "PYTHONPATH": EXAMPLES.parent,
        "JUPYTER_PLATFORM_DIRS": 1,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(LESSON, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    text = "".join(o.get("text", "") for o in outputs)
    for words in (
        "136 images of ['n00000000', 'n00000001']",
        "classes: ['images']  labels: Counter({0: 16})",  # the trap ...
        "{'n00000000': 8, 'n00000001': 8}",  # ... and the remedy
        "1 n00000001 name of 1",
        "torch.Size([16, 3, 64, 64])",
        "256 x",
        "He, no clip: stands still: True",
        "Stands still after 120 steps: loss",
        "Cause: the rate of 0.1 is too high",
        "the recipe's own: stands still: False",
        "no epoch is better than guessing",
        "ten-crop  top-1",
        "no photo given: an image of name of",
    ):
        assert words in text, words
    assert re.search(r"RuntimeError: DataLoader worker .* exited unexpectedly", text)
    assert re.search(r"It is \d, |they pay here", text)
    assert text.count("images/s") > 1  # bench-loader's sentences
    blown, kept = (re.search(rf"{re.escape(name)} .* loss (\S+)", text)[1] for name in ("N(0, 0.1)", "He"))
    assert float(blown) > 10 * float(kept)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 5


def test_the_chinese_lesson_has_the_same_cells_and_neither_keeps_outputs():
    english, chinese = (nbformat.read(path, as_version=4).cells for path in (LESSON, CHINESE))
    assert [cell.cell_type for cell in english] == [cell.cell_type for cell in chinese]
    for one, other in zip(english, chinese, strict=True):
        if one.cell_type == "code":
            assert one.source == other.source
            assert not one.outputs and one.execution_count is None
        else:
            marks = [re.match(r"#* ?\d*", cell.source)[0] for cell in (one, other)]  # the same heading and number
            assert marks[0] == marks[1]
            assert re.search(r"[\u4e00-\u9fff]", other.source) and not re.search(r"[\u4e00-\u9fff]", one.source)
