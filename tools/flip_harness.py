"""Flip single bits of a packed data set and of a checkpoint, one at a time, and count what became of each.

python tools/flip_harness.py --flips 4000 --seed 0 --json benchmarks/results/flips.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from alexnet_fast.checkpoint import load_checkpoint, save_checkpoint
from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.shards import (
    ClassInfo,
    DatasetInfo,
    ShardReader,
    ShardWriter,
    SplitInfo,
    shard_name,
    write_dataset_info,
)
from alexnet_fast.verify import verify

_RECORDS = 60


def main() -> int:
    """Flip, look, put back; 1 where any flip went unseen and changed something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = _write(folder, chance)
        save_checkpoint(folder, _state())
        files = [*sorted(folder.glob("*.lmdb/data.mdb")), *folder.glob("*.npy"), folder / "dataset.json"]
        counts = {path.name.split(".", 1)[-1]: Counter[str]() for path in [*files, folder / "last.pt"]}
        for _ in range(options.flips):
            path = chance.choice([*files, folder / "last.pt"])
            sound = path.read_bytes()
            content = bytearray(sound)
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
            look = _checkpoint if path.name == "last.pt" else _dataset
            counts[path.name.split(".", 1)[-1]][look(folder, pictures)] += 1
            path.write_bytes(sound)
    result = {"seed": options.seed, "flips": options.flips, "files": {k: dict(v) for k, v in counts.items()}}
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    return int(any("UNSEEN" in outcome for found in counts.values() for outcome in found))


def _write(folder: Path, chance: random.Random) -> list[bytes]:
    pictures = [chance.randbytes([30, 700, 1900, 2600, 9000][i % 5]) for i in range(_RECORDS)]
    infos = []
    for number in range(2):
        with ShardWriter(folder, shard_name("train", number, 2)) as writer:
            for i in range(number * _RECORDS // 2, (number + 1) * _RECORDS // 2):
                writer.add(pictures[i], label=i % 4, width=4, height=4, key=f"k{i}")
            infos.append(writer.finish())
    split = SplitInfo(records=_RECORDS, bytes=sum(i.bytes for i in infos), labelled=True, shards=tuple(infos))
    classes = tuple(ClassInfo(index=i, wnid=f"n{i}", name=f"c{i}") for i in range(4))
    write_dataset_info(folder, DatasetInfo(classes=classes, splits={"train": split}))
    return pictures


def _dataset(folder: Path, pictures: list[bytes]) -> str:
    try:
        reader = ShardReader(folder, "train")
    except (DamagedDataError, UsageError):
        return "refused when opened"
    if reader.labels.tolist() != [i % 4 for i in range(_RECORDS)]:
        return "UNSEEN: a label changed"
    refused = False
    for record in range(_RECORDS):
        try:
            reader.read(record)
        except DamagedDataError:
            refused = True
    reader.close()
    if verify(folder, workers=0).ok:
        return "UNSEEN by verify"
    return "a record refused when read, and found by verify" if refused else "found by verify"


def _state() -> dict[str, object]:
    return {"model": {"weight": torch.arange(3000.0).reshape(30, 100)}, "step": 7, "rows": [{"epoch": 1}]}


def _checkpoint(folder: Path, pictures: list[bytes]) -> str:
    try:
        state = load_checkpoint(folder / "last.pt")
    except (DamagedDataError, UsageError):
        return "refused when opened"
    expected = _state()
    same = torch.equal(state["model"]["weight"], expected["model"]["weight"])  # type: ignore[index]
    same = same and state["step"] == 7 and state["rows"] == [{"epoch": 1}]
    return "in unused bytes: nothing changed" if same else "UNSEEN: its contents changed"


if __name__ == "__main__":
    sys.exit(main())
