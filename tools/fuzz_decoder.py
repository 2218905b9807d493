"""Throws damaged JPEGs at the compiled decoder, built with the sanitizers, with libjpeg-turbo as the judge.

    python tools/fuzz_decoder.py --seconds 600 [--seed 0] [--json FILE] [JPEG ...]
    python tools/fuzz_decoder.py --boxes [--json FILE]     every box of every small image instead
    python tools/fuzz_decoder.py --libfuzzer DIRECTORY     what clang's libFuzzer needs, where clang is there

Images of every sampling, with restart markers and without, are damaged: bits flipped, bytes set, cut out, put in,
copied from place to place, the end cut off. Each is decoded whole and in a box, with row starts and without; row starts
are damaged as well. Address and undefined-behaviour sanitizers end the process at the first fault. Where the decoder
accepts a whole image, libjpeg-turbo must decode it without a warning to the same pixels; where it accepts a box, the
box must hold what libjpeg-turbo makes of that part.

`--boxes` damages nothing: every box of images of every size from 1 x 1 to 17 x 17, in every sampling, with a seek entry
and without, by each kind of kernels, must be the slice of what libjpeg-turbo makes of the whole. This is built as it is
shipped, without the sanitizers: there are 22 million boxes.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "alexnet_fast" / "images" / "native"
SOURCES = [*(path for path in sorted(NATIVE.glob("*.c")) if path.name != "module.c"), ROOT / "tools" / "fuzz_decoder.c"]
SANITIZE = "-fsanitize=address,undefined"
STATUSES = ("ok", "unsupported", "damaged", "wrong size", "bad box", "bad seek entry", "no memory")


def seeds() -> list[bytes]:
    """Small images of every kind that is decoded."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:41, :51]
    smooth = np.stack([x * 5, y * 6, (x + y) * 3], -1) % 256
    found = []
    for height, width in ((41, 51), (16, 33), (9, 7), (3, 2)):
        pixels = (
            (smooth[:height, :width] + generator.integers(-40, 41, (height, width, 3))).clip(0, 255).astype(np.uint8)
        )
        found += [
            simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling=sampling)
            for sampling, quality in (("444", 45), ("422", 60), ("440", 80), ("420", 95))
        ]
        found.append(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), colorspace="GRAY"))
        for subsampling in range(3):
            for options in ({"restart_marker_blocks": 2}, {"optimize": True}, {"restart_marker_rows": 1}):
                held = io.BytesIO()
                Image.fromarray(pixels).save(held, "JPEG", subsampling=subsampling, quality=90, **options)
                found.append(held.getvalue())
    return found


def damage(jpeg: bytes, rng: random.Random) -> bytes:
    data = bytearray(jpeg)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        kind, at = rng.random(), rng.randrange(len(data))
        if kind < 0.45:
            data[at] ^= 1 << rng.randrange(8)
        elif kind < 0.65:
            data[at] = rng.choice((0, 0xFF, 0xD9, 0xD0 + rng.randrange(8), rng.randrange(256)))
        elif kind < 0.75:
            del data[at : at + rng.choice((1, 2, 3, 17))]
        elif kind < 0.85:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 5))))
        elif kind < 0.95:
            begin = rng.randrange(len(data))
            part = data[begin : begin + rng.randrange(1, 40)]
            data[at : at + len(part)] = part
        else:
            del data[max(4, at) :]
        if len(data) < 4:
            break
    return bytes(data)


class Library:
    """The decoder, built with the sanitizers."""

    def __init__(self, path: str) -> None:
        pointer = ctypes.c_void_p
        self._library = ctypes.CDLL(path)
        self._library.fuzz_new.restype = pointer
        self._library.fuzz_new.argtypes = [ctypes.c_char_p]
        self._library.fuzz_decode.argtypes = [
            pointer, ctypes.c_char_p, ctypes.c_size_t, pointer, ctypes.c_char_p, ctypes.c_size_t, pointer,
        ]  # fmt: skip
        self._library.fuzz_row_starts.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t, pointer, pointer]
        self._library.fuzz_all_boxes.argtypes = [
            pointer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t,
            pointer, pointer,
        ]  # fmt: skip
        made = {name: self._library.fuzz_new(name.encode()) for name in ("plain", "sse2", "avx2", "neon")}
        self.kernels = [name for name, decoder in made.items() if decoder]
        self.decoders = [made[name] for name in self.kernels]
        self._starts = np.zeros(81920, np.uint8)

    def decode(self, which: int, jpeg: bytes, plan: list[int], starts: bytes | None = None) -> tuple[str, np.ndarray]:
        out = np.zeros((plan[4], plan[5], 3), np.uint8)
        numbers = np.array(plan, np.int32)
        status = self._library.fuzz_decode(
            self.decoders[which], jpeg, len(jpeg), numbers.ctypes.data, starts, len(starts or b""), out.ctypes.data
        )
        return STATUSES[status], out

    def row_starts(self, which: int, jpeg: bytes) -> tuple[str, bytes]:
        length = ctypes.c_size_t()
        status = self._library.fuzz_row_starts(
            self.decoders[which], jpeg, len(jpeg), self._starts.ctypes.data, ctypes.addressof(length)
        )
        return STATUSES[status], self._starts[: length.value if status == 0 else 0].tobytes()

    def all_boxes(self, which: int, jpeg: bytes, whole: np.ndarray, starts: bytes | None) -> int:
        """How many boxes the image has.

        Raises:
            ValueError: one of them has other pixels than `whole`.
        """
        wrong = (ctypes.c_int32 * 4)()
        count: int = self._library.fuzz_all_boxes(
            self.decoders[which],
            jpeg,
            len(jpeg),
            *whole.shape[:2],
            starts,
            len(starts or b""),
            whole.ctypes.data,
            wrong,
        )
        if count < 0:
            raise ValueError(f"top, left, height, width {list(wrong)}")
        return count


def judged(jpeg: bytes, strict: bool) -> np.ndarray | None:
    """What libjpeg-turbo makes of it; None where it does not, or warns and that is a fault."""
    try:
        return simplejpeg.decode_jpeg(jpeg, "RGB", strict=strict)
    except ValueError:
        return None


def try_one(library: Library, jpeg: bytes, rng: random.Random, seen: collections.Counter[str]) -> str:
    """What is wrong with how the decoder takes one input; '' where nothing is."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc1"))
    height, width = (
        (jpeg[at + 5] << 8 | jpeg[at + 6], jpeg[at + 7] << 8 | jpeg[at + 8]) if 0 <= at < len(jpeg) - 9 else (8, 8)
    )
    if not 0 < height * width <= 1 << 16:
        height, width = 8, 8
    which = rng.randrange(len(library.decoders))
    status, pixels = library.decode(which, jpeg, [height, width, 0, 0, height, width, rng.randrange(1, 9)])
    seen[f"whole: {status}"] += 1
    if status == "ok":
        want = judged(jpeg, True)
        if want is None:
            return "accepted what libjpeg-turbo warns of"
        if not np.array_equal(pixels, want):
            return "other pixels than libjpeg-turbo's"
    found, starts = library.row_starts(which, jpeg)
    if found == "ok" and status != "ok" and status != "wrong size":
        return f"row starts of an image that is {status}"
    box_height, box_width = rng.randrange(1, height + 1), rng.randrange(1, width + 1)
    box = [rng.randrange(height - box_height + 1), rng.randrange(width - box_width + 1), box_height, box_width]
    for seek in (None, starts, damage(starts, rng)) if starts else (None,):
        got, part = library.decode(which, jpeg, [height, width, *box, rng.randrange(1, 9)], seek)
        seen[f"box: {got}"] += 1
        # Damaged row starts that lead to other MCUs cannot all be told: checksums are for that (docs/format.md).
        if got == "ok" and seek in (None, starts):
            want = judged(jpeg, status == "ok")
            if want is None:
                seen["box: libjpeg-turbo decodes none of it"] += 1
            elif not np.array_equal(part, want[box[0] : box[0] + box_height, box[1] : box[1] + box_width]):
                return f"a box with other pixels than the whole has there, {box}"
    return ""


def try_boxes(library: Library) -> dict[str, Any]:
    """Every box of every size from 1 x 1 to 17 x 17 in every sampling; counts, and what differed."""
    generator = np.random.default_rng(0)
    counts: collections.Counter[tuple[str, int, bool]] = collections.Counter()
    faults = []
    samplings = ("444", "422", "440", "420", "GRAY")
    for sampling, height, width in itertools.product(samplings, range(1, 18), range(1, 18)):
        pixels = generator.integers(0, 128, (height, width, 3)) + np.arange(0, 85, 5)[:height, None, None]
        jpeg = _encoded(pixels.astype(np.uint8), sampling, int(generator.integers(50, 100)))
        whole = simplejpeg.decode_jpeg(jpeg, "RGB")
        for which in range(len(library.kernels)):
            status, starts = library.row_starts(which, jpeg)
            if status != "ok":
                faults.append(f"{sampling}, {height} x {width}: row starts are {status}")
            for seek in (None, starts) if starts else (None,):
                try:
                    counts[sampling, which, seek is not None] += library.all_boxes(which, jpeg, whole, seek)
                except ValueError as error:
                    faults.append(f"{sampling}, {library.kernels[which]}, {height} x {width}: {error}")
    seen = [
        {
            "sampling": sampling, "kernels": kernels,
            "without": counts[sampling, which, False], "with": counts[sampling, which, True],
        }
        for sampling in samplings for which, kernels in enumerate(library.kernels)
    ]  # fmt: skip
    return {"boxes": sum(counts.values()), "faults": faults, "seen": seen}


def _encoded(pixels: np.ndarray, sampling: str, quality: int) -> bytes:
    if sampling == "GRAY":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[..., :1]), colorspace="GRAY", quality=quality)
    return simplejpeg.encode_jpeg(pixels, colorsubsampling=sampling, quality=quality)


def build(folder: Path, sanitized: bool) -> Path:
    target = folder / "decoder.so"
    options = ["-O1", "-g", SANITIZE, "-fno-sanitize-recover=all"] if sanitized else ["-O3"]
    subprocess.run(
        [
            os.environ.get("CC", "gcc"), "-std=c11", "-ffp-contract=off", *options, "-fPIC",
            "-shared", f"-I{NATIVE}", *map(str, SOURCES), "-lm", "-o", str(target),
        ],
        check=True,
    )  # fmt: skip
    return target


def libfuzzer(folder: Path) -> None:
    clang = shutil.which("clang")
    if clang is None:
        raise SystemExit("there is no clang here: run without --libfuzzer, whose mutations are this script's own")
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for i, jpeg in enumerate(seeds()):
        (folder / "corpus" / f"{i}.jpg").write_bytes(jpeg)
    sources = list(map(str, SOURCES))
    subprocess.run(
        [clang, "-O1", "-g", SANITIZE + ",fuzzer", f"-I{NATIVE}", *sources, "-lm", "-o", str(folder / "fuzz")],
        check=True,
    )
    print(f"run {folder}/fuzz {folder}/corpus")


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.partition(": ")[2].strip() for line in file if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpegs", nargs="*", type=Path, help="more images to damage")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--libfuzzer", type=Path)
    args = parser.parse_args()
    if args.libfuzzer:
        libfuzzer(args.libfuzzer)
        return
    if "FUZZ_LIBRARY" not in os.environ:  # Python itself is not built for the sanitizers, so they come first
        with tempfile.TemporaryDirectory() as folder:
            library = build(Path(folder), sanitized=not args.boxes)
            environment = {**os.environ, "FUZZ_LIBRARY": str(library)}
            if not args.boxes:
                runtime = subprocess.run(
                    [os.environ.get("CC", "gcc"), "-print-file-name=libasan.so"],
                    capture_output=True, text=True, check=True,
                ).stdout.strip()  # fmt: skip
                environment |= {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
            raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    compiler = subprocess.run([os.environ.get("CC", "gcc"), "--version"], capture_output=True, text=True).stdout
    made_with = {"cpu": _processor(), "compiler": compiler.splitlines()[0], "simplejpeg": version("simplejpeg")}
    library = Library(os.environ["FUZZ_LIBRARY"])
    begin = time.monotonic()
    found = try_boxes(library) if args.boxes else try_mutations(library, args)
    result = {**made_with, **found, "seconds": round(time.monotonic() - begin)}
    print(json.dumps(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(1 if result["faults"] else 0)


def try_mutations(library: Library, args: argparse.Namespace) -> dict[str, Any]:
    """Damaged images for so many seconds; counts. What is a fault is printed, and its image kept."""
    rng = random.Random(args.seed)
    bases = [*seeds(), *(path.read_bytes() for path in args.jpegs)]
    seen: collections.Counter[str] = collections.Counter()
    wrong = [fault for jpeg in bases if (fault := try_one(library, jpeg, rng, seen))]
    for fault in wrong:
        print(f"an image that is not damaged: {fault}", flush=True)
    seen.clear()
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < args.seconds:
        jpeg = damage(rng.choice(bases), rng)
        count += 1
        fault = try_one(library, jpeg, rng, seen)
        if fault:
            wrong.append(fault)
            Path(f"fuzz-{len(wrong)}.jpg").write_bytes(jpeg)
            print(f"{fault}: kept as fuzz-{len(wrong)}.jpg", flush=True)
    return {"seed": args.seed, "inputs": count, "faults": len(wrong), "seen": dict(seen)}


if __name__ == "__main__":
    main()
