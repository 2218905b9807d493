#!/usr/bin/env python3
"""Fetch tiny-imagenet-200.zip (about 237 MB) with progress, going on where an earlier try ended, and check it.

    python tools/download_tiny_imagenet.py [FILE] [--url URL] [--sha256 HEX]

Needs nothing but Python. What is there of a file stands as FILE.part until it is whole and has been checked: every
member of the zip against its CRC-32, and the whole against --sha256 where one is given.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_CHUNK = 1 << 20
_TRIES = 5


class DownloadError(Exception):
    """One sentence on what went wrong and what to do."""


def download(url: str, target: Path, *, sha256: str | None = None, tries: int = _TRIES, pause: float = 2.0) -> None:
    """Fetch `url` to `target`; a broken connection is taken up again, `tries` times in a row without progress."""
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _fetch(url, part):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise DownloadError(
                    f"the server answers {error.code} {error.reason} for {url}: check the address"
                ) from None
            reason = f"the server answers {error.code}"
        except OSError as error:
            reason = str(error)
        grown = (part.stat().st_size if part.exists() else 0) > before
        failures = 1 if grown else failures + 1
        if failures >= tries:
            raise DownloadError(f"{url} could not be fetched ({reason}): run this again to go on from {part}")
        time.sleep(pause)
    _check(part, sha256)
    os.replace(part, target)


def _fetch(url: str, part: Path) -> bool:
    """Append to `part` what is missing; whether it is whole now."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond what is there
            return True
        raise
    with answer:
        if have and answer.status != 206:  # the server cannot begin in the middle
            have = 0
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left else None
        bar = _Bar(have, total)
        with open(part, "ab" if have else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                bar.show(have)
        bar.end(have)
    return total is None or have >= total


class _Bar:
    """Bytes, rate and time left: one line that is rewritten on a terminal, a line every 5 s elsewhere."""

    def __init__(self, have: int, total: int | None) -> None:
        self.first, self.total, self.begin, self.shown = have, total, time.monotonic(), 0.0
        self.live = sys.stderr.isatty()

    def show(self, have: int) -> None:
        now = time.monotonic()
        if now - self.shown >= (0.1 if self.live else 5.0):
            self.shown = now
            self._print(have, now)

    def end(self, have: int) -> None:
        self._print(have, time.monotonic())
        if self.live:
            print(file=sys.stderr)

    def _print(self, have: int, now: float) -> None:
        rate = (have - self.first) / max(1e-6, now - self.begin)
        words = f"{have / 1e6:,.1f} MB, {rate / 1e6:,.1f} MB/s"
        if self.total:
            words = f"{have / self.total:4.0%} of {self.total / 1e6:,.1f} MB, {rate / 1e6:,.1f} MB/s"
            if rate > 0:
                words += f", {(self.total - have) / rate:,.0f} s left"
        print(f"\r{words}    " if self.live else words, end="" if self.live else "\n", file=sys.stderr, flush=True)


def _check(part: Path, sha256: str | None) -> None:
    if sha256 is not None:
        digest = hashlib.sha256()
        with open(part, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != sha256.lower():
            part.unlink()
            raise DownloadError(
                f"what was fetched has SHA-256 {digest.hexdigest()}, not {sha256}: it was removed; try again"
            )
    try:
        with zipfile.ZipFile(part) as archive:
            bad = archive.testzip()
    except zipfile.BadZipFile:
        bad = "its directory"
    if bad is not None:
        part.unlink()
        raise DownloadError(f"what was fetched is damaged ({bad}): it was removed; try again")


def main(arguments: list[str] | None = None) -> int:
    """Run as a program; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path("tiny-imagenet-200.zip"))
    parser.add_argument("--url", default=URL)
    parser.add_argument("--sha256", help="of the whole file")
    options = parser.parse_args(arguments)
    if options.file.exists():
        print(f"{options.file} is there already")
        return 0
    options.file.parent.mkdir(parents=True, exist_ok=True)
    try:
        download(options.url, options.file, sha256=options.sha256)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped; run this again to go on", file=sys.stderr)
        return 130
    print(f"{options.file}: whole and checked\nnext: alexnet-fast pack {options.file} data/tiny")
    return 0


if __name__ == "__main__":
    sys.exit(main())
