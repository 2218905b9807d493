"""The report of an evaluation as a reader sees it: opened in headless Chromium, on a wide and on a narrow window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import make_samples, pack_images
from PIL import Image

from alexnet_fast import read_dataset_info
from alexnet_fast.evaluation import EvalResult
from alexnet_fast.evaluation.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
NAMES = ["金鱼", "<b>bold</b> & co", "a name so long that it has to be cut somewhere, or the table grows", "orange"]
# Quiet on the network: Chromium of its own accord asks for updates and the like.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
# What a page is like in a frame of each width, after a click on each heading of its last table.
PROBE = """
<pre id="found"></pre><script>
const widths = [1180, 390], found = [];
let open = widths.length;
widths.forEach((width, frameAt) => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.srcdoc = PAGE;
  frame.addEventListener("load", () => {
    const inside = frame.contentDocument, errors = [];
    frame.contentWindow.addEventListener("error", (event) => errors.push(event.message));
    const table = [...inside.querySelectorAll("table.sort")].pop();
    const column = (at) => [...table.tBodies[0].rows].map(({cells}) => cells[at].dataset.v ?? cells[at].textContent);
    const sorted = [...table.tHead.rows[0].cells].map((head, at) => {
      head.click(); const up = column(at); head.click(); return [up, column(at)];
    });
    found[frameAt] = {  // frames load in any order
      width, errors, sorted, scroll: inside.documentElement.scrollWidth,
      images: [...inside.images].map((image) => [image.complete, image.naturalWidth, image.alt]),
      bold: inside.querySelectorAll("td b").length,
      requests: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name)
        .filter((name) => !name.startsWith("data:")),
    };
    if (!--open) document.querySelector("#found").textContent = JSON.stringify(found);
  });
  document.body.append(frame);
});
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page on 24 images of four classes, of which every third was taken for another class."""
    folder = tmp_path_factory.mktemp("report")
    dataset = pack_images(folder / "data", {"val": make_samples("val", 24, 4)}, num_classes=4)
    info = read_dataset_info(dataset)
    from alexnet_fast import ShardReader

    reader = ShardReader(dataset, "val")
    labels = np.asarray(reader.labels, dtype=np.int64)
    reader.close()
    first = np.where(np.arange(24) % 3 == 0, (labels + 1) % 4, labels)
    (folder / "run").mkdir()
    row = {"train_loss": 1.2, "train_top1": 0.5, "val_loss": 1.1, "val_top1": 0.6, "val_top5": 1.0, "lr": 0.1,
           "images_per_s": 100.0, "data_wait": 0.1, "seconds": 1.0}  # fmt: skip
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps({"epoch": n, **row}) + "\n" for n in (1, 2, 3)))
    classes = tuple(type(c)(index=c.index, wnid=c.wnid, name=name) for c, name in zip(info.classes, NAMES, strict=True))
    result = EvalResult(
        run=folder / "run", dataset=dataset, split="val", tta="none", description="alexnet at 32 pixels, best.pt",
        images=24, loss=1.1, top1=16 / 24, top5=1.0, seconds=1.0, classes=classes, labels=labels,
        predictions=np.stack([first, (first + 1) % 4], axis=1), probabilities=np.tile([[0.7, 0.2]], (24, 1)),
        records=np.arange(24),
    )  # fmt: skip
    return write_report(result, folder / "a report 图片")


def chromium(folder, *arguments):
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_shows_the_page_whole_on_wide_and_narrow_windows(report, tmp_path):
    page = report.read_text(encoding="utf-8")
    probe = tmp_path / "probe.html"
    text = json.dumps(page).replace("</", "<\\/")
    probe.write_text('<!doctype html><meta charset="utf-8"><body>' + PROBE.replace("PAGE", text), encoding="utf-8")
    shown = chromium(tmp_path, "--virtual-time-budget=10000", "--dump-dom", probe.as_uri())
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    views = json.loads(html.unescape(found))
    assert [view["width"] for view in views] == [1180, 390]
    for view in views:
        assert view["errors"] == view["requests"] == []
        assert view["scroll"] <= view["width"], "the page is wider than its window"
        assert len(view["images"]) == 24 + 2  # each image, the curves and the confusion
        assert all(complete and width > 0 and words for complete, width, words in view["images"])
        assert view["bold"] == 0  # a name with tags in it is text
        for up, down in view["sorted"]:
            key = float if re.fullmatch(r"[\d.]+", up[0]) else str
            assert up == sorted(up, key=key) or key is str  # words stand in the order of the reader's language
            assert sorted(up) == sorted(down)
            assert down[0] == up[-1] and down[-1] == up[0]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_draws_the_page(report, tmp_path):
    page = tmp_path / "page.png"
    chromium(tmp_path, "--window-size=1180,2400", f"--screenshot={page}", report.as_uri())
    with Image.open(page) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1180
    for band in np.array_split(pixels, 6):  # from its head down to the images there is something everywhere
        assert band.std() > 3
