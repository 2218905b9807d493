"""The progress display: plain lines off a terminal, a bar on one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import time

import pytest

from alexnet_fast.system import NoProgress, progress_bar


def test_plain_lines_end_with_what_was_done() -> None:
    out = io.StringIO()
    with progress_bar("packing", file=out) as progress:
        progress.start(5)
        progress.note("shard 0")
        for _ in range(5):
            progress.advance()
    (line,) = out.getvalue().splitlines()
    assert line.startswith("packing: 5 of 5 images, ")
    assert line.endswith(", shard 0")


def test_what_was_done_before_counts_in_no_rate() -> None:
    out = io.StringIO()
    with progress_bar("epoch 3/5", file=out) as progress:
        progress.start(1000, done=990)
        time.sleep(0.1)
        progress.advance(10)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("epoch 3/5: 1,000 of 1,000 images, ")
    assert 1 <= int(line.split(", ")[1].removesuffix("/s").replace(",", "")) <= 100  # 10 images in a tenth of a second


def test_what_is_got_ready_before_the_work_is_told() -> None:
    out = io.StringIO()
    with progress_bar("packing", file=out) as progress:
        progress.note("unpacking a.tar.gz")
        progress.note("fetching b")  # one of thousands, perhaps: told only when some seconds have passed
        progress.start(1)
        progress.advance()
    first, last = out.getvalue().splitlines()
    assert first == "packing: unpacking a.tar.gz ..."
    assert last.startswith("packing: 1 of 1 images") and last.endswith(" s")


def test_an_error_passes_through_and_says_nothing_more() -> None:
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), progress_bar("packing", file=out) as progress:
        progress.start(5)
        raise ZeroDivisionError
    assert out.getvalue() == ""


def test_work_that_never_started_is_silent() -> None:
    out = io.StringIO()
    with progress_bar("packing", file=out) as progress:
        progress.advance(3)
    assert out.getvalue() == ""


def test_no_progress_takes_everything() -> None:
    nobody = NoProgress()
    nobody.start(1)
    nobody.advance(2)
    nobody.note("x")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    import pty

    script = """
        from alexnet_fast.system import progress_bar
        import time
        with progress_bar("packing") as p:
            p.note("unpacking"); time.sleep(0.2)
            p.start(20)
            for i in range(20):
                p.advance(); time.sleep(0.02)
    """
    master, slave = pty.openpty()
    environment = dict(os.environ, TERM="xterm", COLUMNS="160")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=slave, stderr=slave, env=environment
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 4096):
                shown += chunk
        except OSError:  # Linux reports the far end's closing so
            pass
    os.close(master)
    assert process.returncode == 0
    text = shown.decode()
    assert "packing" in text
    assert "unpacking" in text
    assert "images/s" in text
    assert "left" in text
    assert "20/20" in text
