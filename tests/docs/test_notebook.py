"""examples/tiny_imagenet.ipynb runs from top to bottom in a real kernel, in a folder with a space in its name."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "tiny_imagenet.ipynb"
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


# The kernel is a process of its own; what jupyter's client warns of on the way there is not ours.
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not NOTEBOOK.exists(), reason="examples/ does not come with this copy")
def test_the_notebook_runs(tmp_path, monkeypatch, make_images):
    folder = tmp_path / "my note book"
    for split, count in (("train", 16), ("val", 6)):
        make_images(folder / "source" / split, classes=3, per_class=count, size=(64, 64))
    values = {
        "TINY_IMAGENET": folder / "source",
        "NOTEBOOK_WORK": folder / "out",
        "NOTEBOOK_EPOCHS": 1,
        "NOTEBOOK_WIDTH": 0.1,
        "PYTHONPATH": NOTEBOOK.parent.parent,
        "JUPYTER_PLATFORM_DIRS": 1,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    text = "".join(o.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs)
    assert "{'train': 48, 'val': 18} in 3 classes" in text
    assert "best epoch 1" in text
    assert "it is: " in text
    assert (folder / "out" / "report" / "index.html").exists()
    images = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    assert sum("image/png" in o["data"] for o in images) == 2  # the batch and the curves


def test_the_notebook_is_kept_without_outputs():
    if NOTEBOOK.exists():
        for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
