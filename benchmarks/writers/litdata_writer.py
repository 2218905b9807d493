"""LitData's optimize."""

from __future__ import annotations

from pathlib import Path

from common import main
from litdata import optimize


def record(row: tuple[str, int]) -> dict[str, object]:
    return {"image": Path(row[0]).read_bytes(), "label": row[1]}


def write(rows: list[tuple[str, int]], out: Path, workers: int) -> None:
    optimize(
        fn=record, inputs=rows, output_dir=str(out), chunk_bytes="64MB", num_workers=max(1, workers), mode="overwrite"
    )


if __name__ == "__main__":
    main(write, "litdata")
