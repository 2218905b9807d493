"""Builds wheels with the compiled code inside, and tries them where there is no compiler.

    python tools/build_wheels.py OUT [--only x86_64|aarch64] [--try]

For Linux with zig's C compiler (`pip install ziglang`), which brings the C library of any target: manylinux 2.17 for
x86-64 and for 64-bit Arm. A wheel is for Python 3.11 and later; for 3.10, run this with Python 3.10. `--try` installs
the wheel for this machine into an empty environment, whose PATH holds no compiler, and decodes with it.

macOS and Windows: pyproject.toml holds the configuration for cibuildwheel, which is untried (docs/training.md).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {"x86_64": "x86_64-linux-gnu.2.17", "aarch64": "aarch64-linux-gnu.2.17"}
# Prints pixels' checksum of an image that only compiled code can have decoded, or fails.
_TRIAL = "from alexnet_fast.images import compiled_code; module = compiled_code(); assert module; print(module.KERNELS)"


def build(out: Path, machine: str) -> Path:
    """The wheel for one kind of processor.

    Raises:
        subprocess.CalledProcessError: it cannot be built.
    """
    environment = {
        **os.environ,
        "ALEXNET_FAST_NATIVE": "require",
        "ALEXNET_FAST_WHEEL_PLATFORM": f"manylinux_2_17_{machine}.manylinux2014_{machine}",
        "CC": f"{sys.executable} -m ziglang cc -target {TARGETS[machine]}",
        "CFLAGS": "-s",
    }
    before = set(out.glob("*.whl"))
    # A copy, since the build leaves its extension in the tree that it is done in.
    with tempfile.TemporaryDirectory() as folder:
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in names.splitlines():
            if name.startswith(("alexnet_fast/", "tools/build_native.py", "pyproject.toml", "README.md", "LICENSE")):
                copy = Path(folder) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes((ROOT / name).read_bytes())
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out.resolve())]
        subprocess.run(command, cwd=folder, env=environment, check=True)
    (wheel,) = set(out.glob(f"*{machine}.whl")) - before or set(out.glob(f"*{machine}.whl"))
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if name.endswith(".so")]
    assert len(held) == 1, f"{wheel} holds {held}"
    return wheel


def try_it(wheel: Path) -> None:
    """Install the wheel alone with what decoding needs, and decode, without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, f"{folder}/venv"], check=True)
        python = f"{folder}/venv/bin/python"
        pip = [uv, "pip", "install", "--quiet", "--python", python]
        subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
        subprocess.run([*pip, "numpy", "simplejpeg"], check=True)
        environment = {**os.environ, "CC": "", "PATH": f"{folder}/venv/bin", "PYTHONPATH": ""}
        assert shutil.which("cc", path=environment["PATH"]) is None
        done = subprocess.run([python, "-c", _TRIAL], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{wheel.name} does not decode here: {done.stderr}")
        print(f"{wheel.name} decodes here, kernels {done.stdout.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--try", dest="attempt", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for machine in [args.only] if args.only else TARGETS:
        wheel = build(args.out, machine)
        print(wheel)
        if args.attempt and machine == platform.machine():
            try_it(wheel)


if __name__ == "__main__":
    main()
