"""Files at a URL: read whole, streamed, and written. Transfer, retries and sign-in are the libraries'.

obstore carries s3, gs, az and http. It brought 130 to 297 MB/s of shards of 6.4 MB from an S3 server on the loopback,
where s3fs brought 65 to 98 (4 threads, 3 rounds of each in turns, 2 busy cores). fsspec carries every other protocol,
such as hf. Objects are asked for whole: some S3 servers answer a range with all of it, which obstore refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

from ..errors import MissingDependencyError, StorageError, UsageError

_OBSTORE = ("s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https")
# A reply of which nothing comes for so long has stalled. No limit is set on a whole object: a shard may hold gigabytes.
STALLED_SECONDS = 60.0
_SENDING = timedelta(minutes=5)  # for 5 MiB: 17 kB/s
_CHUNK = 256 << 10
_INSTALL = "install it with `pip install 'alexnet-fast[remote]'`"


class ObjectStore(Protocol):
    """The files below one URL, by their names relative to it.

    Every method raises StorageError where the server fails or cannot be reached after the library's own retries,
    UsageError where it refuses who asks, and FileNotFoundError where there is no such file.
    """

    url: str

    def stream(self, name: str) -> Iterator[bytes]:
        """The file's bytes, a piece at a time; an error may come after some of them."""
        ...

    def put(self, name: str, content: Path | bytes) -> None:
        """Write the file whole."""
        ...

    def delete(self, name: str) -> None:
        """Remove the file; one that is not there is no error."""
        ...


def read_object(store: ObjectStore, name: str) -> bytes:
    """The whole file. Raises as `ObjectStore` says."""
    return b"".join(store.stream(name))


def open_store(url: str) -> ObjectStore:
    """The store that carries `url`; nothing is asked of the server yet.

    Raises:
        UsageError: the URL is none, or the profile that AWS's variables name is not there.
        MissingDependencyError: a package that the protocol needs is not installed.
    """
    protocol = url.partition("://")[0].lower()
    return _Obstore(url, protocol) if protocol in _OBSTORE else _Fsspec(url)


class _Obstore:
    def __init__(self, url: str, protocol: str) -> None:
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise MissingDependencyError(f"{url} needs obstore: {_INSTALL}") from None
        self.url = url.rstrip("/")
        settings: dict[str, Any] = {
            "client_options": {"timeout": timedelta(days=1), "connect_timeout": timedelta(seconds=10)},
            "retry_config": {"max_retries": 4, "retry_timeout": timedelta(seconds=30)},
        }
        if protocol in ("s3", "s3a"):
            settings.update(_s3_settings(url, settings["client_options"]))
        elif protocol == "http":
            settings["client_options"]["allow_http"] = True
        # A reply comes in pieces, and each has its own limit; what is sent goes in requests of 5 MiB at most.
        sending = {**settings, "client_options": {**settings["client_options"], "timeout": _SENDING}}
        try:
            self._store = from_url(self.url, **settings)
            self._sending = from_url(self.url, **sending)
        except (BaseError, ValueError, TypeError) as error:
            raise UsageError(f"{url} cannot be opened: {_first_line(error)}") from None

    def stream(self, name: str) -> Iterator[bytes]:
        loop = asyncio.new_event_loop()
        try:
            with self._said(name):
                # Asked for within the loop, where the library looks for it.
                pieces = loop.run_until_complete(_in_time(self._open, name))
                while (piece := loop.run_until_complete(_in_time(anext, pieces, None))) is not None:
                    yield bytes(piece)
        finally:
            loop.close()

    async def _open(self, name: str) -> Any:
        import obstore

        return aiter((await obstore.get_async(self._store, name)).stream(min_chunk_size=_CHUNK))

    def put(self, name: str, content: Path | bytes) -> None:
        import obstore

        with self._said(name):
            obstore.put(self._sending, name, content)

    def delete(self, name: str) -> None:
        import obstore

        with contextlib.suppress(FileNotFoundError), self._said(name):
            obstore.delete(self._store, name)

    @contextlib.contextmanager
    def _said(self, name: str) -> Iterator[None]:
        """Turns what the library raises within the block into what `ObjectStore` promises."""
        from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

        where = f"{self.url}/{name}"
        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise FileNotFoundError(where) from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise _refused(where) from None
        except TimeoutError:
            raise StorageError(f"{where}: nothing came for {STALLED_SECONDS:.0f} s: check the network") from None
        except (BaseError, OSError, ValueError) as error:
            text = _first_line(error)
            if re.search(r"\b(401|403)\b", text):
                raise _refused(where) from None
            if re.search(r"\b404\b", text):
                raise FileNotFoundError(where) from None
            raise StorageError(f"{where} cannot be reached ({text}): check the address and the network") from None


async def _in_time(ask: Callable[..., Any], *args: Any) -> Any:
    try:
        return await asyncio.wait_for(ask(*args), STALLED_SECONDS)
    except asyncio.TimeoutError:  # a class of its own before Python 3.11
        raise TimeoutError from None


def _s3_settings(url: str, client: dict[str, Any]) -> dict[str, Any]:
    """Where AWS's own tools take key, region and endpoint from: variables, profiles, sign-on, instance roles.

    botocore knows them all; without it, obstore knows the variables and the instance's role.
    """
    try:
        import botocore.exceptions
        import botocore.session
    except ImportError:
        client["allow_http"] = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        return {}
    session = botocore.session.get_session()
    try:
        region = session.get_config_variable("region") or "us-east-1"
        endpoint = session.create_client("s3", region_name=region).meta.endpoint_url
        credentials = session.get_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise UsageError(f"{url} cannot be opened: {error}") from None
    settings: dict[str, Any] = {"region": region}
    if not endpoint.endswith(("amazonaws.com", "amazonaws.com.cn")):
        settings["endpoint"] = endpoint
        client["allow_http"] = endpoint.startswith("http://")
    if credentials is None:
        return {**settings, "skip_signature": True}  # a public bucket; another one refuses
    return {**settings, "credential_provider": _Credentials(credentials)}


class _Credentials:
    """botocore's credentials, asked again now and then, since those of a role change."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> dict[str, Any]:
        now = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(timezone.utc) + timedelta(minutes=10),
        }


class _Fsspec:
    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise MissingDependencyError(f"{url} needs fsspec: {_INSTALL}") from None
        self.url = url.rstrip("/")
        try:
            self._system, self._path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise MissingDependencyError(f"{url} needs a package that is not installed: {error}") from None
        except ValueError as error:
            raise UsageError(f"{url} cannot be opened: {error}") from None

    def stream(self, name: str) -> Iterator[bytes]:
        with self._said(name), self._system.open(f"{self._path}/{name}", "rb") as file:
            while piece := file.read(_CHUNK):
                yield piece

    def put(self, name: str, content: Path | bytes) -> None:
        path = f"{self._path}/{name}"
        with self._said(name):
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(content, bytes):
                self._system.pipe_file(path, content)
            else:
                self._system.put_file(str(content), path)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._said(name):
            self._system.rm_file(f"{self._path}/{name}")

    @contextlib.contextmanager
    def _said(self, name: str) -> Iterator[None]:
        where = f"{self.url}/{name}"
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(where) from None
        except PermissionError:
            raise _refused(where) from None
        except Exception as error:  # each protocol's client raises what it likes
            raise StorageError(
                f"{where} cannot be reached ({type(error).__name__}: {_first_line(error)}): check the address and the "
                "network"
            ) from None


def _refused(where: str) -> UsageError:
    return UsageError(
        f"{where}: the server refuses who asks: check the key and its rights (AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or the profile in AWS_PROFILE)"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
