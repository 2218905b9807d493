"""MosaicML Streaming's MDSWriter; with more workers, a writer each in its own folder, merged as its docs show."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from common import main
from streaming import MDSWriter
from streaming.base.util import merge_index


def part(rows: list[tuple[str, int]], out: str) -> None:
    with MDSWriter(out=out, columns={"image": "bytes", "label": "int"}) as writer:
        for path, label in rows:
            writer.write({"image": Path(path).read_bytes(), "label": label})


def write(rows: list[tuple[str, int]], out: Path, workers: int) -> None:
    if workers < 2:
        part(rows, str(out))
        return
    with multiprocessing.Pool(workers) as pool:
        pool.starmap(part, [(rows[i::workers], str(out / f"{i:02d}")) for i in range(workers)])
    merge_index(str(out), keep_local=True)


if __name__ == "__main__":
    main(write, "mosaicml-streaming")
