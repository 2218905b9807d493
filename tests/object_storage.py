"""Real S3 and HTTP servers on the loopback for tests, and a proxy before them that misbehaves as told."""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KEY, SECRET, BUCKET = "KEY", "SECRET", "bucket"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def rclone(store: Path, kind: str = "s3", *options: str) -> Iterator[str]:
    """`rclone serve`: a bucket is a folder of `store`. Yields the server's address."""
    port = free_port()
    command = [_program("rclone"), "serve", kind, str(store), "--addr", f"127.0.0.1:{port}", *options]
    if kind == "s3":
        command += ["--auth-key", f"{KEY},{SECRET}"]
    with _serving(command, port) as address:
        yield address


@contextmanager
def moto() -> Iterator[str]:
    """moto's S3 server, empty. Yields its address."""
    port = free_port()
    with _serving([_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port) as address:
        yield address


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, command
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def as_aws(address: str, secret: str = SECRET) -> Iterator[None]:
    """The environment in which AWS's own tools would find that server."""
    names = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Proxy:
    """Passes requests on to a server, but for those that `fault` says something of.

    `fault(path, count)` is asked for each request, `count` being how often that path came before. It returns None, a
    status to answer with, or 'cut': half of the reply, then the connection is closed.
    """

    def __init__(self, address: str, fault) -> None:
        self.fault, self.counts, self.lock = fault, {}, threading.Lock()
        host = address.removeprefix("http://")
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                with proxy.lock:
                    count = proxy.counts[path] = proxy.counts.get(path, -1) + 1
                what = proxy.fault(path, count)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if isinstance(what, int):
                    self.send_response(what)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                upstream = http.client.HTTPConnection(host)
                upstream.request(self.command, self.path, body or None, headers=dict(self.headers))
                reply = upstream.getresponse()
                content = reply.read()
                upstream.close()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if what == "cut":
                    self.wfile.write(content[: len(content) // 2])
                    return
                self.wfile.write(content)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # closing waits for what is being answered
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
