"""Sources that are URLs: fetched once into DATASET's work folder through fsspec, whatever the protocol."""

from __future__ import annotations

import errno
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import DamagedDataError, MissingDependencyError, StorageError, UsageError
from .recognise import describe_file
from .staging import Staging

_BLOCK = 4 << 20
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)
_STATUS = {
    401: "asks for a login (401): download it in a browser, and give the file",
    403: "is refused by the server (403): it may need a login, or the link has run out; download it, and give the file",
    404: "is not there (404): there is nothing at that address",
    410: "is no longer there (410)",
    429: "is refused for now (429): the server has been asked too often; try again later",
}


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
            "a URL as SOURCE needs fsspec: install it with `pip install 'alexnet-fast[remote]'`"
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
        if _is_file(system, path, url):
            return _fetch_file(system, path, url, PurePosixPath(path.partition("?")[0]).name, staging)
        return _fetch_folder(system, path, url, staging)
    except ImportError as error:
        raise MissingDependencyError(f"{url} needs a package that is not installed: {error}") from None
    except (UsageError, DamagedDataError, StorageError):
        raise
    except Exception as error:  # each protocol's client raises what it likes
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        raise UsageError(f"{url} {why_not_fetched(error)}") from None


def _is_file(system: Any, path: str, url: str) -> bool:
    """Whether a URL is of a file; of a web server, all are but those that end in '/'.

    fsspec's own answer is no for whatever cannot be reached, and hides why.
    """
    if url.partition(":")[0].lower() in ("http", "https"):
        system.info(path)
        return not path.partition("?")[0].endswith("/")
    return bool(system.isfile(path))


def why_not_fetched(error: BaseException) -> str:
    """Why a URL could not be fetched, by the first error of its chain that tells; the words behind the URL."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    for one in chain:
        status = getattr(one, "status", None)
        if isinstance(status, int) and status >= 400:
            return _STATUS.get(status) or f"cannot be fetched: the server answers {status}"
    for one in chain:
        kind, text = type(one).__name__, " ".join(str(one).split())
        if "SSL" in kind or "Certificate" in kind:
            return f"cannot be fetched: the server's TLS certificate is not accepted ({text[:160]})"
        if kind == "gaierror" or "DNS" in kind:
            return "cannot be fetched: its host is not known; check the address and the network"
        if isinstance(one, ConnectionRefusedError) or getattr(one, "errno", None) == errno.ECONNREFUSED:
            return "cannot be fetched: the host refuses the connection; check the port, or whether the server runs"
        if isinstance(one, TimeoutError):
            return "cannot be fetched: the server does not answer; try again"
    if isinstance(error, FileNotFoundError):
        return "is not there: there is nothing at that address"
    return f"cannot be fetched ({type(error).__name__}: {' '.join(str(error).split())[:200]}): try again"


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
        _fetch_file(system, file, url, f"{top.name}/{relative}", staging, sole=False)
    return top


def _fetch_file(system: Any, path: str, url: str, name: str, staging: Staging, *, sole: bool = True) -> Path:
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
        target.flush()
        what = describe_file(Path(target.name))
        if what is not None and sole:
            raise UsageError(f"{url} gave what is {what}")

    if not name or name.startswith("."):
        raise UsageError(f"{url} names no file")
    return staging.file(name, write)
