"""Compiles the C code of alexnet_fast.images when the package is built, where that can be done; else goes without.

    python tools/build_native.py     compile into the source tree, for an editable installation

Any C compiler will do, and nothing but Python's headers is needed. CC names the compiler, and CFLAGS more options.
ALEXNET_FAST_NATIVE=off leaves the code out, =require fails where it cannot be compiled. ALEXNET_FAST_WHEEL_PLATFORM is
the platform that CC compiles for, where that is another one than this: tools/build_wheels.py sets it.

On macOS and Windows this is untried.
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
# From Python 3.11 on, one extension does for all later ones.
LIMITED = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    BuildHookInterface = object  # type: ignore[assignment, misc]


def extension_path(folder: Path = SOURCES) -> Path:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if LIMITED:
        suffix = ".pyd" if os.name == "nt" else ".abi3.so"
    return folder / f"_native{suffix}"


def build(target: Path, flags: tuple[str, ...] = ()) -> None:
    """Compile the extension to `target`.

    Raises:
        OSError, subprocess.CalledProcessError: there is no compiler, or it fails; `stderr` says how.
    """
    compiler = _compiler()
    include = sysconfig.get_path("include")
    defines = ["LIMITED_API"] if LIMITED else []
    sources = sorted(map(str, SOURCES.glob("*.c")))
    flags = (*shlex.split(os.environ.get("CFLAGS") or ""), *flags)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / target.name
        if Path(compiler[0]).stem.lower() == "cl":
            command = [
                *compiler, "/nologo", "/O2", "/std:c11", "/LD", *flags, f"/I{include}", *(f"/D{d}" for d in defines),
                *sources, f"/Fe:{made}", "/link", f"/LIBPATH:{_libraries()}",
            ]  # fmt: skip
        else:
            command = [
                *compiler, "-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra",
                *_linking(), *flags,
                f"-I{include}", *(f"-D{d}" for d in defines), *sources, "-o", str(made),
                *([] if os.name == "nt" else ["-lm"]),
            ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
        # Not over the old file: a program that has it loaded would crash.
        shutil.copyfile(made, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC") or "")
    if named:
        return named
    if os.name == "nt":
        return ["cl"] if shutil.which("cl") else ["clang"]
    usual = shlex.split(sysconfig.get_config_var("CC") or "")[:1]
    return usual if usual and shutil.which(usual[0]) else ["cc"]


def _libraries() -> Path:
    """Where Windows keeps python3*.lib."""
    return Path(sysconfig.get_config_var("installed_base") or sys.base_prefix) / "libs"


def _linking() -> list[str]:
    if sys.platform == "darwin":
        # A Python for two kinds of processors wants both in its extension, unless ARCHFLAGS names those to compile for.
        universal = ["-arch", "x86_64", "-arch", "arm64"] if sysconfig.get_platform().endswith("universal2") else []
        return [
            "-bundle",
            "-undefined",
            "dynamic_lookup",
            *(shlex.split(os.environ.get("ARCHFLAGS") or "") or universal),
        ]
    if os.name == "nt":
        return ["-shared", f"-L{_libraries()}", "-lpython3" if LIMITED else f"-lpython3{sys.version_info.minor}"]
    return ["-shared", "-fPIC"]


def build_what_can_be(target: Path, wish: str) -> str:
    """Compile, or go without; what came of it, in a sentence. See the module for `wish`."""
    for old in target.parent.glob("_native.*"):  # also what an older version or another Python left
        if old.suffix in (".so", ".pyd"):
            old.unlink()
    if wish == "off":
        return "no compiled code: the libraries that Python calls cut crops"
    try:
        build(target)
        return "compiled"
    except (OSError, subprocess.CalledProcessError) as error:
        why = _first_error(error)
    if wish == "require":
        raise RuntimeError(f"alexnet_fast/images/native cannot be compiled: {why}")
    return f"not compiled, the libraries that Python calls cut crops ({why})"


def _first_error(error: Exception) -> str:
    lines = str(getattr(error, "stderr", None) or error).splitlines()
    return next((line for line in lines if "error" in line or "cannot find" in line), lines[0] if lines else "unknown")


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the compiled extension into the wheel, which then is for this system, and this Python or later ones."""
        target = extension_path()
        said = build_what_can_be(target, os.environ.get("ALEXNET_FAST_NATIVE", ""))
        print(f"alexnet_fast.images.native: {said}", file=sys.stderr)
        if target.exists():
            build_data["artifacts"].append(str(target.relative_to(ROOT)))
            build_data["pure_python"] = False
            here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            platform = os.environ.get("ALEXNET_FAST_WHEEL_PLATFORM") or here
            python = f"cp3{sys.version_info.minor}"
            abi = "cp311-abi3" if LIMITED else f"{python}-{python}"
            if LIMITED or os.environ.get("ALEXNET_FAST_WHEEL_PLATFORM"):
                build_data["tag"] = f"{abi}-{platform}"
            else:
                build_data["infer_tag"] = True


if __name__ == "__main__":
    print(build_what_can_be(extension_path(), os.environ.get("ALEXNET_FAST_NATIVE", "")))
