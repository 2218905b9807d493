"""WebDataset's ShardWriter; with more workers, a process for each part."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import webdataset as wds
from common import main


def part(rows: list[tuple[str, int]], out: str, first: int) -> None:
    with wds.ShardWriter(f"{out}/{first:02d}-%06d.tar", maxcount=1 << 30, maxsize=1 << 30, verbose=0) as writer:
        for i, (path, label) in enumerate(rows):
            name = f"{first:02d}{i:08d}"
            writer.write({"__key__": name, "jpg": Path(path).read_bytes(), "cls": str(label).encode()})


def write(rows: list[tuple[str, int]], out: Path, workers: int) -> None:
    out.mkdir(parents=True)
    if workers < 2:
        part(rows, str(out), 0)
        return
    with multiprocessing.Pool(workers) as pool:
        pool.starmap(part, [(rows[i::workers], str(out), i) for i in range(workers)])


if __name__ == "__main__":
    main(write, "webdataset")
