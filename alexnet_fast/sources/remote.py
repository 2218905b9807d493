"""Sources that are URLs: fetched once into DATASET's work folder through fsspec, whatever the protocol."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import DamagedDataError, MissingDependencyError, UsageError
from .staging import Staging

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)", re.IGNORECASE)
_BLOCK = 4 << 20


def is_url(source: object) -> bool:
    """Whether SOURCE is a URL (s3://, gs://, https://, ...) and not a path."""
    return isinstance(source, str) and _URL.match(source) is not None


def fetch(url: str, staging: Staging) -> Path:
    """The file or folder at `url`, fetched into `staging`; what an earlier run fetched whole is not fetched again.

    Raises:
        UsageError: there is nothing there, or it cannot be reached.
        MissingDependencyError: fsspec or the protocol's own package is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise MissingDependencyError(
            "a URL as SOURCE needs fsspec: install it with `pip install alexnet-fast[remote]`"
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
        if system.isfile(path):
            return _fetch_file(system, path, url, PurePosixPath(path).name, staging)
        return _fetch_folder(system, path, url, staging)
    except ImportError as error:
        raise MissingDependencyError(f"{url} needs a package that is not installed: {error}") from None
    except FileNotFoundError:
        raise UsageError(f"there is nothing at {url}") from None
    except ValueError as error:
        raise UsageError(f"{url} cannot be read: {error}") from None
    except UsageError:
        raise
    except Exception as error:  # each protocol's client raises what it likes
        if isinstance(error, (DamagedDataError, OSError)) and getattr(error, "errno", None):
            raise
        raise UsageError(f"{url} cannot be fetched ({type(error).__name__}: {error}): try again") from None


def _fetch_folder(system: Any, path: str, url: str, staging: Staging) -> Path:
    found = system.find(path, detail=False)
    if not found:
        raise UsageError(f"there is nothing at {url}")
    top = staging.folder(PurePosixPath(path).name or "source")
    root = system._strip_protocol(path).rstrip("/") + "/"
    for file in sorted(found):
        relative = system._strip_protocol(file).removeprefix(root)
        parts = PurePosixPath(relative).parts
        if not parts or ".." in parts or relative.startswith("/"):
            raise DamagedDataError(f"{url} lists a file with an unsafe name ({relative[:200]!r}): nothing was packed")
        _fetch_file(system, file, url, f"{top.name}/{relative}", staging)
    return top


def _fetch_file(system: Any, path: str, url: str, name: str, staging: Staging) -> Path:
    def write(target: IO[bytes]) -> None:
        staging.note(f"fetching {name}")
        fetched = 0
        expected = system.info(path).get("size")
        with system.open(path, "rb", block_size=_BLOCK) as file:
            while block := file.read(_BLOCK):
                target.write(block)
                fetched += len(block)
        if expected is not None and fetched != expected:
            raise UsageError(f"{url} ended after {fetched} of {expected} bytes: run the same command again")

    if not name or name.startswith("."):
        raise UsageError(f"{url} names no file")
    return staging.file(name, write)
