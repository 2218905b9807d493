"""Flip single bits of a packed data set and of a checkpoint, or cut the file, one at a time; count what became of each.

python tools/flip_harness.py --flips 20000 --seed 0 --json benchmarks/results/flips.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from alexnet_fast.dataset import (
    ClassInfo,
    DatasetInfo,
    ShardReader,
    ShardWriter,
    SplitInfo,
    read_dataset_info,
    shard_name,
    verify,
    write_dataset_info,
)
from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.system import cpu_name
from alexnet_fast.training.checkpoint import load_checkpoint, save_checkpoint

_RECORDS = 60
_CUTS = 0.1  # share of the trials in which the file is cut short instead
_REPORT_EVERY = 1000


def main() -> int:
    """Flip or cut, look, put back; 1 where any damage went unseen and changed something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help=f"written anew after every {_REPORT_EVERY} flips")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _write(folder, chance)
        save_checkpoint(folder, _state())
        files = [*sorted(folder.glob("*.lmdb/data.mdb")), *sorted(folder.glob("*.npy")), folder / "dataset.json"]
        files.append(folder / "last.pt")
        counts = {path.name.split(".", 1)[-1]: {"flipped": Counter[str](), "cut": Counter[str]()} for path in files}
        for done in range(1, options.flips + 1):
            path = chance.choice(files)
            sound = path.read_bytes()
            at, bit = chance.randrange(len(sound)), chance.randrange(8)
            how = "cut" if chance.random() < _CUTS else "flipped"
            path.write_bytes(
                sound[:at] if how == "cut" else sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :]
            )
            outcome = _checkpoint(path) if path.name == "last.pt" else _dataset(folder, images, path)
            counts[path.name.split(".", 1)[-1]][how][outcome] += 1
            path.write_bytes(sound)
            if options.json and (done % _REPORT_EVERY == 0 or done == options.flips):
                options.json.write_text(json.dumps(_report(options.seed, done, counts), indent=2) + "\n")
    print(json.dumps(_report(options.seed, options.flips, counts), indent=2))
    return int(any("UNSEEN" in outcome for file in counts.values() for found in file.values() for outcome in found))


def _report(seed: int, done: int, counts: dict[str, dict[str, Counter[str]]]) -> dict[str, object]:
    return {
        "seed": seed,
        "flips": done,
        "environment": {
            "cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "lmdb")},
        },
        "files": counts,
    }  # fmt: skip


def _write(folder: Path, chance: random.Random) -> list[bytes]:
    images = [chance.randbytes([30, 700, 1900, 2600, 9000][i % 5]) for i in range(_RECORDS)]
    infos = []
    for number in range(2):
        with ShardWriter(folder, shard_name("train", number, 2)) as writer:
            for i in range(number * _RECORDS // 2, (number + 1) * _RECORDS // 2):
                writer.add(images[i], label=i % 4, width=4, height=4, key=f"k{i}")
            infos.append(writer.finish())
    split = SplitInfo(records=_RECORDS, bytes=sum(i.bytes for i in infos), labelled=True, shards=tuple(infos))
    classes = tuple(ClassInfo(index=i, wnid=f"n{i}", name=f"c{i}") for i in range(4))
    write_dataset_info(folder, DatasetInfo(classes=classes, splits={"train": split}))
    return images


def _dataset(folder: Path, images: list[bytes], damaged: Path) -> str:
    try:
        reader = ShardReader(folder, "train")
    except (DamagedDataError, UsageError):
        return "refused when opened"
    if reader.labels.tolist() != [i % 4 for i in range(_RECORDS)]:
        return "UNSEEN: a label changed"
    refused = False
    for record, image in enumerate(images):
        try:
            changed = reader.read(record) != image
        except DamagedDataError:
            refused = True
        else:
            if changed and damaged.name != "data.mdb":  # a loader leaves the images' sums to verify, below
                return "UNSEEN: another image was read"
    reader.close()
    if verify(folder, workers=0).ok:
        same = damaged.name == "dataset.json" and read_dataset_info(folder).to_json() == damaged.read_text() + "\n"
        return "nothing changed: its last newline is gone" if same else "UNSEEN by verify"
    return "a record refused when read, and found by verify" if refused else "found by verify"


def _state() -> dict[str, object]:
    return {"model": {"weight": torch.arange(3000.0).reshape(30, 100)}, "step": 7, "rows": [{"epoch": 1}]}


def _checkpoint(path: Path) -> str:
    try:
        state = load_checkpoint(path)
    except (DamagedDataError, UsageError):
        return "refused when opened"
    expected = _state()
    same = torch.equal(state["model"]["weight"], expected["model"]["weight"])  # type: ignore[index]
    same = same and state["step"] == 7 and state["rows"] == [{"epoch": 1}]
    return "in unused bytes: nothing changed" if same else "UNSEEN: its contents changed"


if __name__ == "__main__":
    sys.exit(main())
