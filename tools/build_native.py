"""Compiles the C code of alexnet_fast.images when the package is built, where that can be done; else goes without.

    python tools/build_native.py     compile into the source tree, for an editable installation

ALEXNET_FAST_NATIVE=off leaves it out, =require fails where it cannot be compiled with libjpeg-turbo.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "alexnet_fast" / "images" / "native"

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    BuildHookInterface = object  # type: ignore[assignment, misc]


def extension_path(folder: Path = SOURCES) -> Path:
    return folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"


def build(target: Path, *, jpeg: bool = True, flags: tuple[str, ...] = ()) -> None:
    """Compile the extension to `target`.

    Raises:
        OSError, subprocess.CalledProcessError: there is no compiler, or it fails; `stderr` says how.
    """
    compiler = shlex.split(os.environ.get("CC") or "")
    if not compiler:
        usual = shlex.split(sysconfig.get_config_var("CC") or "")[:1]
        compiler = usual if usual and shutil.which(usual[0]) else ["cc"]
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    sources = [SOURCES / "module.c", SOURCES / "resize.c"]
    if jpeg:
        sources.append(SOURCES / "region.c")
    compile_flags, libraries = _jpeg_flags() if jpeg else ([], [])
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / target.name
        command = [
            *compiler, "-O3", "-fPIC", "-Wall", "-Wextra", *link, *flags, f"-I{sysconfig.get_path('include')}",
            *(["-DWITH_JPEG", *compile_flags] if jpeg else []),
            *map(str, sources), *libraries, "-lm", "-o", str(made),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, text=True)
        # Not over the old file: a program that has it loaded would crash.
        shutil.copyfile(made, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


def _jpeg_flags() -> tuple[list[str], list[str]]:
    """What to compile and link libjpeg-turbo with."""
    try:
        answers = [
            subprocess.run(["pkg-config", what, "libjpeg"], check=True, capture_output=True, text=True).stdout
            for what in ("--cflags", "--libs")
        ]
    except (OSError, subprocess.CalledProcessError):
        return [], ["-ljpeg"]
    return shlex.split(answers[0]), shlex.split(answers[1])


def build_what_can_be(target: Path, wish: str) -> str:
    """Compile with libjpeg-turbo, or without; what came of it, in a sentence. See the module for `wish`."""
    target.unlink(missing_ok=True)
    if wish == "off" or os.name != "posix":
        return "no compiled code: the libraries that Python calls cut crops"
    try:
        build(target)
        return "compiled with libjpeg-turbo"
    except (OSError, subprocess.CalledProcessError) as error:
        why = _first_error(error)
    if wish == "require":
        raise RuntimeError(f"alexnet_fast/images/native cannot be compiled: {why}")
    try:
        build(target, jpeg=False)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not compiled, the libraries that Python calls cut crops ({_first_error(error)})"
    return f"compiled without libjpeg-turbo, for images kept decoded alone ({why})"


def _first_error(error: Exception) -> str:
    lines = str(getattr(error, "stderr", None) or error).splitlines()
    return next((line for line in lines if "error" in line or "cannot find" in line), lines[0] if lines else "unknown")


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the compiled extension into the wheel, which then is for this Python and system."""
        target = extension_path()
        said = build_what_can_be(target, os.environ.get("ALEXNET_FAST_NATIVE", ""))
        print(f"alexnet_fast.native: {said}", file=sys.stderr)
        if target.exists():
            build_data["artifacts"].append(str(target.relative_to(ROOT)))
            build_data["pure_python"], build_data["infer_tag"] = False, True


if __name__ == "__main__":
    print(build_what_can_be(extension_path(), os.environ.get("ALEXNET_FAST_NATIVE", "")))
