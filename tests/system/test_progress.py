"""The progress display: plain lines off a terminal, a bar on one."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
import time

import pytest

from alexnet_fast.system import NoProgress, can_redraw, progress_bar


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "live"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, False),
        # What a command that a notebook runs finds.
        ({"TERM": "xterm-color", "GIT_PAGER": "cat", "CLICOLOR": "1"}, False),
        ({"TERM": "xterm-color", "JPY_PARENT_PID": "17"}, False),
        ({"TERM": "xterm-color"}, True),
    ],
)
def test_only_a_terminal_whose_cursor_moves_is_drawn_on(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], live: bool
) -> None:
    for name in ("TERM", "GIT_PAGER", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = Terminal()
    assert can_redraw(out) == live
    with progress_bar("packing", file=out) as progress:
        progress.start(2)
        progress.advance(2)
    assert ("\x1b[" in out.getvalue()) == live
    assert not can_redraw(None) and not can_redraw(io.StringIO())


def test_a_bar_of_80_columns_holds_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("GIT_PAGER", raising=False)
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    out = Terminal()
    note = "loss 5.319, top-1 0.0%, waiting for data 0%"
    with progress_bar("epoch 3/30", file=out) as progress:
        progress.start(100_000)
        time.sleep(0.2)
        progress.advance(2000)
        progress.note(note)
        time.sleep(0.2)
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in out.getvalue().splitlines()]
    line = next(line for line in reversed(lines) if "loss" in line)
    assert len(line) <= 80
    assert "2000/100000" in line and "images/s left" in line and "…" not in line
    shown = line[line.index("loss") :].removesuffix(" ...")
    assert note.startswith(shown) and note[len(shown) : len(shown) + 1] in ("", " ")
