"""What every peer's writer starts from: the same list of files, labels as ImageFolder has them, in shuffled order."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path


def images(folder: str) -> list[tuple[str, int]]:
    """(path, label) of every labelled image of Tiny ImageNet's tree, or of any tree of class folders, shuffled.

    Shuffled, since a training set that is read in order has to be: pack shuffles too.
    """
    root = Path(folder, "train") if Path(folder, "train").is_dir() else Path(folder)
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    rows = []
    for label, wnid in enumerate(classes):
        inner = root / wnid / "images"
        place = inner if inner.is_dir() else root / wnid
        rows += [(entry.path, label) for entry in os.scandir(place) if entry.name.lower().endswith((".jpeg", ".jpg"))]
    notes = Path(folder, "val", "val_annotations.txt")
    if notes.exists():
        index = {wnid: label for label, wnid in enumerate(classes)}
        for line in notes.read_text().splitlines():
            file, wnid = line.split("\t")[:2]
            rows.append((str(Path(folder, "val", "images", file)), index[wnid]))
    random.Random(0).shuffle(rows)
    return rows


def main(write: Callable[[list[tuple[str, int]], Path, int], None], package: str) -> None:
    """Run as ``python ADAPTER.py FOLDER OUT WORKERS``; prints JSON: version, images, seconds after the imports."""
    folder, out, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    from importlib.metadata import version

    began = time.perf_counter()
    rows = images(folder)
    write(rows, out, workers)
    seconds = time.perf_counter() - began
    print(
        json.dumps({"version": version(package), "pictures": len(rows), "seconds_after_imports": seconds}), flush=True
    )
