"""JPEGs decoded and crops resized by compiled code, many images a call and without Python's lock.

It is compiled when the package is installed, where a C compiler and Python's headers are there; wheels bring it. Where
there is none, or ALEXNET_FAST_NATIVE=off is set in the environment, everything works without, slower. jpeg.h says what
the C files do.
"""

from __future__ import annotations

import base64
import functools
import multiprocessing
import os
import threading
import warnings
import zlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np

# A JPEG of 24 x 24 pixels in 4:2:0, and the checksum of its pixels as libjpeg-turbo decodes them.
_TRIAL = base64.b64decode(
    b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5a"
    b"YVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAAR"
    b"CAAYABgDASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEG"
    b"E1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWG"
    b"h4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEB"
    b"AQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYk"
    b"NOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0"
    b"tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwDhYLXHatCC17Yq1Da+1aEFt7VUDXCYorQW"
    b"3tRWzDa9OKK6FsfQ0sV7pDBa9OK0ILXnpRRXNA+CwlSRoQ2vTiiiiuhH0FKpLlP/2Q=="
)
_TRIAL_CRC = 0xD5F3087E

_THREAD = threading.local()


@functools.cache
def compiled_code() -> Any | None:
    """The compiled module; None where there is none, or it does not decode as it should here, which is said."""
    module, why_not = _load()
    switched_off = os.environ.get("ALEXNET_FAST_NATIVE") == "off" or not _files()
    if module is None and not switched_off and multiprocessing.parent_process() is None:
        warnings.warn(f"compiled code is not used, and loading is slower: {why_not}", RuntimeWarning, stacklevel=2)
    return module


def describe_compiled_code() -> str:
    """Whether compiled code is used, from which file, and why not; a line of `doctor`."""
    module, why_not = _load()
    if module is None:
        return f"no: {why_not}"
    others = ", ".join(path.name for path in _files() if path.name != Path(module.__file__).name)
    return f"yes, {module.KERNELS}, {module.__file__}" + (f" (beside it, not used: {others})" if others else "")


def _files() -> list[Path]:
    """The files that hold compiled code for this Python, the one that Python takes first."""
    found = [Path(__file__).with_name(f"_native{suffix}") for suffix in EXTENSION_SUFFIXES]
    return [path for path in found if path.exists()]


def _load() -> tuple[Any | None, str]:
    """(the module, '') or (None, why it is not used)."""
    if os.environ.get("ALEXNET_FAST_NATIVE") == "off":
        return None, "ALEXNET_FAST_NATIVE=off is set"
    files = _files()
    if not files:
        return None, "install a C compiler and Python's headers and alexnet-fast once more to load faster"
    remedy = "install alexnet-fast once more (in a source tree: python tools/build_native.py)"
    try:
        from . import _native  # type: ignore[attr-defined]

        pixels = np.zeros((24, 24, 3), np.uint8)
        plan = np.array([24, 24, 0, 0, 24, 24], np.int32)
        status = _native.decode(_native.workspace(), _TRIAL, None, plan, pixels)
    except Exception as error:  # whatever an extension does that was made for another version, Python or system
        return None, f"{files[0]} does not suit this installation ({type(error).__name__}: {error}): {remedy}"
    if status or zlib.crc32(pixels.tobytes()) != _TRIAL_CRC:
        return None, f"{files[0]} decodes a trial image wrongly: {remedy}"
    return _native, ""


def thread_workspace() -> Any:
    """A workspace of the compiled code for this thread, made once."""
    workspace = getattr(_THREAD, "workspace", None)
    if workspace is None:
        workspace = _THREAD.workspace = compiled_code().workspace()  # type: ignore[union-attr]
    return workspace
