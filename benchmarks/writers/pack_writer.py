"""alexnet-fast's pack, run and timed as the peers' writers are; it shuffles, decodes and checks on top of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from alexnet_fast import __version__
from alexnet_fast.packing import pack


def main() -> None:
    """Run as ``python ADAPTER.py FOLDER OUT``; prints what `common.main` prints."""
    folder, out = sys.argv[1], Path(sys.argv[2])
    # Of Tiny ImageNet, what the peers are given: the images that have labels.
    splits = ["train", "val"] if Path(folder, "val", "val_annotations.txt").exists() else None
    began = time.perf_counter()
    info = pack(folder, out, splits=splits)
    seconds = time.perf_counter() - began
    images = sum(split.records for split in info.splits.values())
    print(json.dumps({"version": __version__, "pictures": images, "seconds_after_imports": seconds}), flush=True)


if __name__ == "__main__":
    main()
