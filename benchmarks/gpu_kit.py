"""What travels to a machine that has a GPU and no network: packages and data, in pieces, checked when they arrive.

`prepare` runs where there is a network. It makes a folder of packages for Python 3.12, three packed data sets, and
cuts all of it into pieces of at most 60 MiB. `receive` runs on the other machine: it checks a piece, unpacks it, and
puts together what is complete.

A piece holds chunks, each an xz stream of its own, so that they are packed and unpacked side by side. The chunks of a
bundle, one after another, are a tar file. kit.json says which chunks belong where, with a SHA-256 of each piece.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = (3, 12)
MANIFEST = "kit.json"
CHUNK = 16 << 20
# The package that decodes on the GPU with what it needs and a PyTorch installation may not have.
DALI = (
    "nvidia-dali-cuda120", "nvidia-nvimgcodec-cu12", "nvidia-nvjpeg-cu12", "astunparse", "gast", "libcst", "makefun",
    "nvtx", "optree", "pyyaml", "six",
)  # fmt: skip
OURS = ("lmdb", "simplejpeg")
_PLATFORMS = tuple(
    f"{name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
)
_FAT_MAGIC = 0xBA55ED50
_FAT_KINDS = (1, 2)  # PTX, machine code
_LARGE = 1 << 20


class KitError(Exception):
    """What is wrong and what to do, in a sentence; `code` is the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


# ---------------------------------------------------------------------------------------------------------------------
# Packages


def download_wheels(folder: Path, *, dali: bool, python: tuple[int, int] = PYTHON) -> list[Path]:
    """The wheels of `OURS` and, with `dali`, of `DALI`, for that Python on Linux x86-64, by pip as it is configured."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", ".".join(map(str, python)), "--dest", str(folder)]
    command += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command += ["--constraint", str(ROOT / "constraints.txt"), *OURS, *(DALI if dali else ())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise KitError(f"pip cannot download the packages ({' '.join(reason[-1:])[:300]}): is there a network?")
    return sorted(folder.glob("*.whl"))


def build_our_wheel(folder: Path, python: tuple[int, int] = PYTHON) -> Path:
    """A wheel of this tree with its compiled code, which a Python from 3.11 on makes fit for all later ones."""
    environment = {**os.environ, "ALEXNET_FAST_NATIVE": "require"}
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", made, str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise KitError(f"pip cannot build our wheel: {reason[:300]}")
        (wheel,) = Path(made).glob("*.whl")
        if "-abi3-" not in wheel.name and f"-cp{python[0]}{python[1]}-" not in wheel.name:
            raise KitError(f"{wheel.name} is for this Python alone: run prepare with Python 3.11 or a later one")
        return Path(shutil.move(wheel, folder / wheel.name))


def make_site(site: Path, wheels: list[Path], *, capability: int, python: tuple[int, int] = PYTHON) -> dict[str, int]:
    """Unpack wheels into a folder for PYTHONPATH, without what that Python and that GPU do not use.

    Returns:
        Bytes of the files: as they came, without other Pythons' payload, and of them machine code blanked out.
    """
    sizes = {"unpacked": 0, "kept": 0, "blanked": 0}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                sizes["unpacked"] += member.file_size
                if member.is_dir() or not wanted(member.filename, python):
                    continue
                sizes["kept"] += member.file_size
                archive.extract(member, site)
    for path in sorted(site.rglob("*.so*")):
        if path.stat().st_size > _LARGE:
            sizes["blanked"] += blank_other_gpus(path, capability)
    namespace = site / "nvidia" / "__init__.py"
    if namespace.parent.is_dir():
        # PyTorch's own packages of that name must stay importable beside these.
        namespace.write_text("__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n")
    return sizes


def wanted(name: str, python: tuple[int, int]) -> bool:
    """Whether a file of a wheel is of use: not another Python's extension, no codec but JPEG's, no header or test."""
    tag = re.search(r"\.cpython-(\d+t?)-", name)
    if tag is not None and tag[1] != "".join(map(str, python)):
        return False
    return not re.search(r"(^|/)(include|tests|samples)/|\.(h|hpp|pyi|cc|cu)$|/libnv(tiff|jpeg2k)_ext", name)


def blank_other_gpus(path: Path, capability: int) -> int:
    """Overwrite with zeros the code that a CUDA library holds for other GPUs; the bytes that were overwritten.

    A fat binary is a header of 16 bytes (magic, version, its own size, size of what follows) and entries, each with a
    header that gives its kind, its size and the compute capability. The driver takes the entry that fits its GPU, so
    the rest may be zeros, which xz makes nothing of. One without an entry for this GPU stays as it is: there the driver
    needs another's, or PTX.
    """
    data = bytearray(path.read_bytes())
    at = blanked = 0
    while (at := data.find(struct.pack("<I", _FAT_MAGIC), at)) >= 0:
        _, version, header, size = struct.unpack_from("<IHHQ", data, at)
        end = at + header + size
        entries = list(_fat_entries(data, at + header, end)) if version == 1 and end <= len(data) else []
        if not entries:
            at += 4
            continue
        if any(kind == 2 and arch == capability for kind, arch, _, _ in entries):
            for kind, arch, begin, length in entries:
                if (kind, arch) != (2, capability):
                    data[begin : begin + length] = bytes(length)
                    blanked += length
        at = end
    if blanked:
        path.write_bytes(data)
    return blanked


def _fat_entries(data: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(kind, compute capability, place, length) of each entry; none where they do not fill the space exactly."""
    found = []
    while at < end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
        (arch,) = struct.unpack_from("<I", data, at + 28)
        if kind not in _FAT_KINDS or header < 32 or at + header + size > end:
            return
        found.append((kind, arch, at + header, size))
        at += header + size
    yield from found


def source_digest(package: Path) -> str:
    """One SHA-256 over the sources of a package folder: whether a wheel is of these very files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Data sets


def make_datasets(folder: Path, *, tiny: Path | None, images: Path | None, longest: int = 375) -> dict[str, int]:
    """Packed data sets in `folder`: tiny (as it comes), full (the images) and small (at most `longest` pixels a side).

    Returns:
        Records of each, over all splits.
    """
    from alexnet_fast import pack

    made: dict[str, int] = {}

    def packed(source: Path, name: str, splits: list[str] | None) -> None:
        info = pack(source, folder / name, splits=splits, overwrite=(folder / name).exists())
        made[name] = sum(split.records for split in info.splits.values())

    if tiny is not None:
        packed(tiny, "tiny", None)
    if images is not None:
        with tempfile.TemporaryDirectory() as aside:
            source = by_class(images, Path(aside) / "full")
            packed(source, "full", ["train"])
            packed(shrink(source, Path(aside) / "small", longest), "small", ["train"])
    return made


def by_class(images: Path, folder: Path) -> Path:
    """`images` itself where it is a data set already; a folder of files WNID_anything as one of class folders."""
    files = [p for p in sorted(images.iterdir()) if p.suffix.lower() in (".jpeg", ".jpg")] if images.is_dir() else []
    if not files:
        return images
    for path in files:
        place = folder / "train" / path.name.partition("_")[0]
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path.resolve())
    return folder


def shrink(source: Path, folder: Path, longest: int) -> Path:
    """A copy of a folder of images whose longer side has at most that many pixels, as JPEGs of quality 95."""
    from PIL import Image

    def one(path: Path) -> None:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
            image.convert("RGB").save(target, "JPEG", quality=95)

    paths = [p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in (".jpeg", ".jpg")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, paths))
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


@dataclass
class _Tar(io.RawIOBase):
    """A file that tarfile writes to; what it has is taken away in chunks."""

    held: bytearray = field(default_factory=bytearray)
    place: int = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.held += data
        self.place += len(data)
        return len(data)

    def tell(self) -> int:
        return self.place

    def take(self, size: int) -> bytes:
        taken = bytes(self.held[:size])
        del self.held[:size]
        return taken


def _tar_chunks(folder: Path) -> Iterator[bytes]:
    """The tar file of a folder's content, in pieces of `CHUNK` bytes, never whole in memory."""
    sink = _Tar()
    with tarfile.open(fileobj=sink, mode="w", bufsize=1 << 20) as archive:  # type: ignore[call-overload]
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
            while len(sink.held) >= CHUNK:
                yield sink.take(CHUNK)
    while sink.held:
        yield sink.take(CHUNK)


def cut_pieces(bundles: dict[str, Path], folder: Path, *, most: int, about: dict[str, Any]) -> dict[str, Any]:
    """Write the content of the `bundles` folders as pieces of at most `most` bytes, and kit.json beside them.

    Where they travel in order, an earlier bundle is complete before a later one. Returns what kit.json holds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pieces: list[dict[str, Any]] = []
    content = bytearray()
    chunks: list[dict[str, Any]] = []

    def close() -> None:
        if content:
            name = f"piece-{len(pieces):02d}.xz"
            (folder / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            pieces.append({"file": name, "bytes": len(content), "sha256": digest, "chunks": list(chunks)})
            content.clear()
            chunks.clear()

    counts: dict[str, int] = {}
    for bundle, source in bundles.items():
        counts[bundle] = 0
        for packed in _packed_chunks(source):
            if len(packed) > most:
                raise KitError(f"a chunk of {len(packed)} bytes does not fit into pieces of {most}: make them larger")
            if len(content) + len(packed) > most:
                close()
            chunks.append({"bundle": bundle, "number": counts[bundle], "at": len(content), "bytes": len(packed)})
            content += packed
            counts[bundle] += 1
    close()
    kit = {"format": 1, "bundles": counts, "pieces": pieces, **about}
    (folder / MANIFEST).write_text(json.dumps(kit, indent=1) + "\n")
    return kit


def _packed_chunks(folder: Path) -> Iterator[bytes]:
    """The xz streams of a bundle's chunks, in order. JPEGs share little but their tables, for which level 1 does."""
    level = 1 if (folder / "dataset.json").exists() else 3
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:  # lzma lets go of Python's lock
        waiting: list[Any] = []
        for chunk in _tar_chunks(folder):
            waiting.append(pool.submit(lzma.compress, chunk, preset=level))
            if len(waiting) > workers:
                yield waiting.pop(0).result()
        for packed in waiting:
            yield packed.result()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What kit.json in `folder` says."""
    try:
        kit: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise KitError(f"{folder / MANIFEST} cannot be read ({error}): it travels beside every piece") from None
    if kit.get("format") != 1:
        raise KitError(f"{folder / MANIFEST} has format {kit.get('format')!r}, this program reads 1: prepare it again")
    return kit


def receive(piece: Path, kit_folder: Path) -> list[str]:
    """Check a piece against the kit.json beside it and unpack it into `kit_folder`; the bundles that are complete.

    Raises:
        KitError: the piece is not of this kit, or damaged.
    """
    kit = read_manifest(piece.parent)
    entry = next((one for one in kit["pieces"] if one["file"] == piece.name), None)
    if entry is None:
        raise KitError(f"{piece} is no piece of the kit that {piece.parent / MANIFEST} describes")
    try:
        content = piece.read_bytes()
    except OSError as error:
        raise KitError(f"{piece} cannot be read: {error.strerror}") from None
    if (found := hashlib.sha256(content).hexdigest()) != entry["sha256"]:
        raise KitError(
            f"{piece} is damaged: {len(content)} bytes of SHA-256 {found[:16]}, where {entry['bytes']} bytes of "
            f"{entry['sha256'][:16]} were sent: carry it again",
            1,
        )
    kit_folder.mkdir(parents=True, exist_ok=True)
    _same_kit(kit, kit_folder)

    def unpack(chunk: dict[str, Any]) -> None:
        place = kit_folder / "arriving" / chunk["bundle"] / f"{chunk['number']:05d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_suffix(".part")
        aside.write_bytes(lzma.decompress(content[chunk["at"] : chunk["at"] + chunk["bytes"]]))
        os.replace(aside, place)

    todo = [chunk for chunk in entry["chunks"] if not (kit_folder / chunk["bundle"]).exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(unpack, todo))
    for bundle, count in kit["bundles"].items():
        _join(kit_folder, bundle, count)
    return complete(kit_folder)


def _same_kit(kit: dict[str, Any], kit_folder: Path) -> None:
    """Start over where what lies there came of another kit."""
    known = kit_folder / MANIFEST
    text = json.dumps(kit, indent=1) + "\n"
    if not known.exists() or known.read_text() != text:
        for name in ("arriving", *kit["bundles"]):
            shutil.rmtree(kit_folder / name, ignore_errors=True)
        known.write_text(text)


def _join(kit_folder: Path, bundle: str, count: int) -> None:
    """Make the bundle's folder of its chunks, where they are all there."""
    arrived = sorted((kit_folder / "arriving" / bundle).glob("[0-9]" * 5))
    if (kit_folder / bundle).exists() or len(arrived) < count:
        return
    aside = kit_folder / f".{bundle}"
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.closing(_Joined(arrived)) as source, tarfile.open(fileobj=source, mode="r|") as archive:
        archive.extractall(aside, filter="data")
    os.replace(aside, kit_folder / bundle)
    shutil.rmtree(kit_folder / "arriving" / bundle)


class _Joined(io.RawIOBase):
    """Files read as one, one after another."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = iter(paths)
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            data: bytes = self._file.read(size) if self._file else b""
            if data:
                return data
            path = next(self._paths, None)
            if path is None:
                return b""
            self._close()
            self._file = path.open("rb")

    def _close(self) -> None:
        if self._file:
            self._file.close()

    def close(self) -> None:
        self._close()
        super().close()


def complete(kit_folder: Path) -> list[str]:
    """The bundles that are there whole."""
    try:
        bundles = read_manifest(kit_folder)["bundles"]
    except KitError:
        return []
    return [name for name in bundles if (kit_folder / name).is_dir()]


# ---------------------------------------------------------------------------------------------------------------------
# All of it


def prepare(
    out: Path, *, tiny: Path | None, images: Path | None, most: int, dali: bool, capability: int
) -> dict[str, Any]:
    """Make the kit in `out`: kit.json and the pieces."""
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as name:
        work = Path(name)
        wheels = [*download_wheels(work / "wheels", dali=dali), build_our_wheel(work / "wheels")]
        sizes = make_site(work / "site", wheels, capability=capability)
        print(
            f"packages: {len(wheels)} wheels, {sizes['unpacked'] >> 20} MiB unpacked, {sizes['kept'] >> 20} MiB kept, "
            f"{sizes['blanked'] >> 20} MiB of them code for other GPUs, blanked",
            flush=True,
        )
        records = make_datasets(work / "data", tiny=tiny, images=images)
        for dataset, count in records.items():
            print(f"data: {dataset}, {count:,} records", flush=True)
        # In order of worth: with packages and Tiny ImageNet alone there is a result.
        bundles = {"site": work / "site"} | {n: work / "data" / n for n in ("tiny", "small", "full") if n in records}
        about = {
            "python": list(PYTHON),
            "capability": capability,
            "wheels": [wheel.name for wheel in wheels],
            "records": records,
            "sources": source_digest(ROOT / "alexnet_fast"),
        }
        return cut_pieces(bundles, out, most=most, about=about)


def commands(kit: dict[str, Any], out: Path) -> Iterator[str]:
    """What to type on the other machine, in order."""
    name = os.path.relpath(out, ROOT)
    for piece in kit["pieces"]:
        path = shlex.quote(f"{name}/{piece['file']}")
        yield f"python benchmarks/gpu.py receive {path} --kit /tmp/gpu-kit"
    yield "python benchmarks/gpu.py run --kit /tmp/gpu-kit --out gpu-out --budget 540"
