"""What is fuzzed: functions of any bytes that return, or raise AssertionError where the package breaks a promise.

`test_fuzz.py` runs each on the kept corpus and on mutations of it; `tools/fuzz.py` runs them under atheris, by hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from alexnet_fast import cli
from alexnet_fast.dataset import MANIFEST, read_dataset_info
from alexnet_fast.dataset.datum import decode_datum, encode_datum
from alexnet_fast.errors import AlexNetFastError, DamagedDataError, UsageError
from alexnet_fast.sources import FileReader, open_source


def datum(content: bytes) -> None:
    """A record's value is decoded or refused; what is decoded comes back from its own encoding."""
    try:
        data, label = decode_datum(content)
    except DamagedDataError:
        return
    again, same_label = decode_datum(encode_datum(bytes(data), label))
    assert (bytes(again), same_label) == (bytes(data), label)


def manifest(content: bytes) -> None:
    """dataset.json is read or refused, with its checksum made to fit: an attacker can compute one as well."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
        if isinstance(found, dict):
            body = {key: value for key, value in found.items() if key != "checksum"}
            checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            content = json.dumps({**body, "checksum": checksum}).encode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(content)
        try:
            info = read_dataset_info(folder)
        except (DamagedDataError, UsageError):
            return
        assert info.num_classes >= 0
        for split in info.splits.values():
            assert split.records >= 0
            for shard in split.shards:
                assert Path(shard.path).name == shard.path
                assert Path(shard.index_path).name == shard.index_path
        (Path(folder) / MANIFEST).write_text(info.to_json(), errors="surrogateescape")
        assert read_dataset_info(folder) == info


ENDINGS = (".zip", ".tar", ".tar.gz", ".parquet", ".tgz", ".bin", ".tar.xz", ".mat", ".tar.bz2", ".csv")


def source(content: bytes) -> None:
    """A file of any content is recognised and listed, or refused; what is listed can be read, or is refused by name.

    The first byte chooses the file's ending.
    """
    if not content:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"source{ENDINGS[content[0] % len(ENDINGS)]}"
        path.write_bytes(content[1:])
        try:
            found = open_source(path, staging=Path(folder) / "staging")
            reader = FileReader([str(container) for container in found.containers])
            for split in found.splits.values():
                for row in split.images[:8].tolist():
                    container, method, offset, stored, size, crc, name, label, _ = row
                    assert -1 <= label < max(1, len(found.classes))
                    with contextlib.suppress(AlexNetFastError):
                        reader.read_place(container, method, offset, stored, size, crc, name)
        except AlexNetFastError:
            pass
        written = set(Path(folder).iterdir()) - {path, Path(folder) / "staging"}
        assert not written, f"left beside the source: {written}"


# Whatever is put together of these does no work of more than a moment: there is no sound data set among the places.
WORDS = (
    "pack", "verify", "inspect", "train", "bench-loader", "evaluate", "predict", "export", "demo", "doctor",
    "nowhere", "empty", "notes.txt", "tree", "rotten", "run", "image.png", "out", "out/out", "/dev/null", "/proc/x",
    "", " ", "-", "--", "-1", "0", "1", "3", "1e9", "nan", "inf", "-inf", "true", "null", "[]", "{}", "9" * 400,
    "9" * 5000, "x" * 300, "猫", "\udcff\udcfe", "٣", "²", "a\nb", "\x1b[31m", "a=b", "=", "lr=nan", "width=1e400",
    "area=[1,2,3]", "[" * 100_000, "width=" + "[" * 100_000, "1GiB", "1.5k", "-5MB", "auto", "on", "off", "cpu",
    "cuda:99", "mps", "none", "flip", "a,b", "0,1", ",", "https://", "file:///etc/passwd", "s3://x/y",
    "--help", "--version", "--nonsense", "--split", "--format", "--shard-bytes", "--resize-shorter", "--quality",
    "--workers", "--seed", "--on-bad-image", "--limit", "--engine", "--overwrite", "--decode", "--grid", "--augmented",
    "--image-size", "--backend", "--run-dir", "--model", "--recipe", "--epochs", "--batch-size", "--lr", "--set",
    "--precision", "--num-workers", "--pin-memory", "--compile", "--device", "--resume", "--checkpoint-every",
    "--loader-settings", "--max-steps", "--seconds", "--prefetch", "--baseline", "--timeout", "--out", "--tta",
    "--json", "--report", "--top", "--shard-bytes=0", "--seed=-1", "--set=x=1",
)  # fmt: skip
_SLOW = {"doctor", "demo"}  # they need no argument, and take seconds


def command_line(content: bytes) -> None:
    """Any words on the command line: an answer or one sentence, exit code 0, 1 or 2, never a traceback.

    Each byte is one of WORDS.
    """
    words = [WORDS[byte % len(WORDS)] for byte in content[:12]]
    if words and words[0] in _SLOW and "--help" not in words:
        return
    here, arguments = Path.cwd(), sys.argv
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        _places(Path(folder))
        os.chdir(folder)
        sys.argv = ["alexnet-fast", *words]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli._run()
        finally:
            os.chdir(here)
            sys.argv = arguments
    said = out.getvalue() + err.getvalue()
    assert "Traceback" not in said, (words, said)
    assert "a fault in alexnet-fast" not in said, (words, said)
    assert code in (0, 1, 2), (words, code, said)
    # Without a word there is the help, and nothing to complain of.
    assert (code == 0) != ("rror: " in said or not words), (words, code, said)


def _places(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("not what you are looking for")
    (folder / "rotten").mkdir()
    (folder / "rotten" / MANIFEST).write_text('{"format": 1}')
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text("[]")
    (folder / "run" / "last.pt").write_bytes(b"PK\x03\x04")
    image = Path(__file__).parent / "corpus" / "image.png"
    shutil.copy(image, folder / "image.png")
    place = folder / "tree" / "train" / "n00000000"
    place.mkdir(parents=True)
    shutil.copy(image, place / "a.png")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "datum": datum,
    "manifest": manifest,
    "source": source,
    "command_line": command_line,
}
