"""What Windows lacks is done without: a process that has no fcntl, no resource and no pread packs, reads and trains."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

# What the standard library of Windows has not, taken away before anything of the package is imported. Worker processes
# and memory files are left alone: they are the system's, and this one's stay what they are.
_WITHOUT = """
import os, sys
for name in ("fcntl", "resource", "termios", "pwd"):
    sys.modules[name] = None
for name in ("pread", "posix_fadvise", "sched_getaffinity", "memfd_create"):
    if hasattr(os, name):
        delattr(os, name)
"""


def without(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_every_module_is_imported(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, alexnet_fast
for module in pkgutil.walk_packages(alexnet_fast.__path__, "alexnet_fast."):
    if not module.name.endswith(("__main__", "_native", "ray_engine")):
        importlib.import_module(module.name)
print("all")
"""
    done = without(code)
    assert done.stdout == "all\n", done.stderr


def test_images_of_any_form_are_packed_and_read(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    folder = make_images(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.JPEG")):
            archive.write(path, path.relative_to(folder))
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, "images")
    code = """
from alexnet_fast import LoaderConfig, ShardReader, open_loader, pack
for source in ("images", "images.zip", "images.tar"):
    data = sys.argv[1] + "/packed-" + source
    pack(sys.argv[1] + "/" + source, data, workers=0)
    reader = ShardReader(data, "train")
    print(len(reader), len({bytes(reader.read(i)) for i in range(len(reader))}))
    config = LoaderConfig(dataset=data, train=False, batch_size=4, image_size=32, device="cpu", num_workers=2,
                          options={"workers": "thread"}, backend="torchvision")
    with open_loader(config) as loader:
        print(sum(len(batch.labels) for batch in loader))
"""
    done = without(code, tmp_path)
    assert done.stdout.split() == ["12", "12", "12"] * 3, done.stderr
    assert not list(tmp_path.glob("packed-*/.pack"))
