"""tools/download_tiny_imagenet.py against a server of our own that breaks off, forgets and lies."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "download_tiny_imagenet.py"
if not TOOL.exists():
    pytest.skip("tools/ does not come with this copy", allow_module_level=True)
spec = importlib.util.spec_from_file_location("download_tiny_imagenet", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def make_zip():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("tiny/words.txt", "n01443537\tgoldfish\n")
        archive.writestr("tiny/noise.bin", np.random.default_rng(0).bytes(3_000_000))
    return held.getvalue()


@pytest.fixture
def server():
    """(address, state): state says what is sent, where it breaks off, and records the ranges asked for."""
    state = {"body": make_zip(), "break_at": [], "ranges": [], "resume": True, "status": None}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body, asked = state["body"], self.headers.get("Range")
            state["ranges"].append(asked)
            start = int(asked.split("=")[1].rstrip("-")) if asked and state["resume"] else 0
            if state["status"]:
                self.send_error(state["status"])
                return
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = state["break_at"].pop(0) if state["break_at"] else len(body)
            self.wfile.write(body[start:end])
            self.close_connection = True

        def log_message(self, *words):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/tiny-imagenet-200.zip", state
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_download_that_breaks_off_twice_goes_on_where_it_was(server, tmp_path):
    url, state = server
    state["break_at"] = [1_000_000, 2_500_000]
    tool.download(url, tmp_path / "t.zip", sha256=hashlib.sha256(state["body"]).hexdigest(), pause=0)
    assert (tmp_path / "t.zip").read_bytes() == state["body"]
    assert state["ranges"] == [None, "bytes=1000000-", "bytes=2500000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.zip"]


def test_a_later_run_goes_on_from_the_part_that_is_there(server, tmp_path, capsys):
    url, state = server
    (tmp_path / "t.zip.part").write_bytes(state["body"][:2_000_000])
    assert tool.main([str(tmp_path / "t.zip"), "--url", url]) == 0
    assert state["ranges"] == ["bytes=2000000-"]
    assert (tmp_path / "t.zip").read_bytes() == state["body"]
    assert "whole and checked" in capsys.readouterr().out
    assert tool.main([str(tmp_path / "t.zip"), "--url", url]) == 0
    assert len(state["ranges"]) == 1


def test_a_part_that_is_whole_already_is_only_checked(server, tmp_path):
    url, state = server
    (tmp_path / "t.zip.part").write_bytes(state["body"])
    tool.download(url, tmp_path / "t.zip", pause=0)
    assert (tmp_path / "t.zip").read_bytes() == state["body"]


def test_a_server_that_cannot_resume_is_read_from_the_start(server, tmp_path):
    url, state = server
    state["resume"] = False
    (tmp_path / "t.zip.part").write_bytes(b"x" * 1000)
    tool.download(url, tmp_path / "t.zip", pause=0)
    assert (tmp_path / "t.zip").read_bytes() == state["body"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "sum"])
def test_what_is_damaged_is_not_kept(server, tmp_path, capsys, damage):
    url, state = server
    body = bytearray(state["body"])
    if damage == "flipped":
        body[1_500_000] ^= 1
    state["body"] = bytes(body[: 2_000_000 if damage == "cut" else len(body)])
    more = ["--sha256", "0" * 64] if damage == "sum" else []
    assert tool.main([str(tmp_path / "t.zip"), "--url", url, *more]) == 1
    assert "it was removed; try again" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_address_and_a_dead_server_are_one_sentence(server, tmp_path, capsys):
    url, state = server
    state["status"] = 404
    assert tool.main([str(tmp_path / "t.zip"), "--url", url]) == 1
    assert "404" in capsys.readouterr().err
    state["status"] = 503
    with pytest.raises(tool.DownloadError, match="503"):
        tool.download(url, tmp_path / "t.zip", tries=2, pause=0)
    assert len(state["ranges"]) == 3
