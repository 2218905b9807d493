"""Sources by URL: what is wrong with one is said as its own, and a bad download is fetched anew."""

import contextlib
import http.server
import socket
import ssl
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
from source_files import records, tree_files, write_zip

from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.packing import pack

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with (status, body, length that it claims) of the address asked for."""

    pages: ClassVar[dict[str, tuple[int, bytes, int | None]]] = {}

    def log_message(self, *_):
        pass

    def answer(self, body):
        status, page, length = self.pages.get(self.path, (404, b"", None))
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if body:
            self.wfile.write(page)

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)


@contextlib.contextmanager
def serving(pages, context=None):
    Server.pages = pages
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def good(tmp_path):
    return write_zip(tmp_path / "good.zip", tree_files()).read_bytes()


@pytest.mark.parametrize(
    ("page", "error", "text"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", UsageError, "gave what is a web page"),
        (b"", UsageError, r"gave what is empty|cannot be fetched"),
        (b"half", DamagedDataError, "is cut short.*it came from http://127.0.0.1:.*to fetch it anew"),
    ],
    ids=["login page", "nothing", "half a zip"],
)
def test_a_bad_download_is_fetched_anew(tmp_path, good, page, error, text):
    page = good[: len(good) // 2] if page == b"half" else page
    with serving({"/tiny.zip": (200, page, len(page))}) as url:
        for _ in range(2):
            with pytest.raises(error, match=text) as caught:
                pack(f"{url}/tiny.zip", tmp_path / "out", workers=0)
            assert url in str(caught.value)
        assert not (tmp_path / "out").exists()
        Server.pages = {"/tiny.zip": (200, good, len(good))}
        pack(f"{url}/tiny.zip", tmp_path / "out", workers=0)
    assert len(records(tmp_path / "out", "train")) == 4


def test_what_the_server_says(tmp_path):
    pages = {f"/{status}.zip": (status, b"no", 2) for status in (401, 403, 404, 410, 429, 500)}
    with serving(pages) as url:
        for status, text in ((401, "asks for a login"), (403, "is refused by the server"),
                             (404, "there is nothing at that address"),
                             (410, "no longer there"), (429, "too often"),
                             (500, "the server answers 500")):  # fmt: skip
            with pytest.raises(UsageError, match=text) as caught:
                pack(f"{url}/{status}.zip", tmp_path / "out")
            assert f"{url}/{status}.zip" in str(caught.value)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_host_that_refuses_or_is_unknown(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UsageError, match="the host refuses the connection"):
        pack(f"http://127.0.0.1:{port}/tiny.zip", tmp_path / "out")
    with pytest.raises(UsageError, match="its host is not known"):
        pack("http://no-such-host.invalid/tiny.zip", tmp_path / "out")


def test_a_certificate_that_is_not_accepted(tmp_path, good):
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key.pem", "-out",
         tmp_path / "cert.pem",
         "-days", "2", "-subj", "/CN=127.0.0.1"], capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with (
        serving({"/tiny.zip": (200, good, len(good))}, context) as url,
        pytest.raises(UsageError, match="TLS certificate is not accepted"),
    ):
        pack(f"{url}/tiny.zip", tmp_path / "out")


def test_the_command_line_ends_with_2_and_one_line(tmp_path):
    with serving({"/tiny.zip": (403, b"", 0)}) as url:
        command = [sys.executable, "-m", "alexnet_fast", "pack", f"{url}/tiny.zip", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "is refused by the server (403)" in done.stderr
