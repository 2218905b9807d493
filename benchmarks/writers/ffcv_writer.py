"""FFCV's DatasetWriter, its image field given the files' own bytes: by itself it would decode and encode each anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import main
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from PIL import Image


class VerbatimJpeg(RGBImageField):
    """RGBImageField in its mode 'jpg', storing what the file holds."""

    def encode(self, destination, file, malloc):
        jpeg = np.fromfile(file, np.uint8)
        with Image.open(file) as image:
            destination["width"], destination["height"] = image.size
        destination["mode"] = 0
        destination["data_ptr"], storage = malloc(jpeg.nbytes)
        storage[:] = jpeg


class Rows:
    def __init__(self, rows: list[tuple[str, int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[str, int]:
        return self.rows[i]


def write(rows: list[tuple[str, int]], out: Path, workers: int) -> None:
    out.mkdir(parents=True)
    fields = {"image": VerbatimJpeg(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(out / "all.beton"), fields, num_workers=max(1, workers)).from_indexed_dataset(Rows(rows))


if __name__ == "__main__":
    main(write, "ffcv")
