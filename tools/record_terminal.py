"""Run commands and draw what a terminal shows of them as an SVG, for README.

python tools/record_terminal.py docs/images/predict.svg 'alexnet-fast predict runs/tiny cat.jpg --top 3'

Each command is run once by the shell and shown after a `$`, with all that it wrote to stdout. Progress goes to stderr
and is left out, as a terminal's bars are gone once the work is done. `--folder` says where to run; `--from` and `--to`
keep a part of the lines.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

# The text is ours, the frame too: rich's own form would have the reader's browser fetch a font from elsewhere.
FORM = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g>
</svg>
"""
THEME = TerminalTheme(
    (17, 24, 39), (229, 231, 235),
    [(17, 24, 39), (248, 113, 113), (74, 222, 128), (250, 204, 21), (96, 165, 250), (192, 132, 252), (45, 212, 191),
     (229, 231, 235)],
)  # fmt: skip


def run(command: str, folder: Path) -> list[str]:
    """The lines that a command writes to stdout; its failure ends the recording."""
    done = subprocess.run(command, shell=True, cwd=folder, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}")
    return done.stdout.rstrip("\n").split("\n")


def main() -> None:
    """Parse, run, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("svg", type=Path)
    parser.add_argument("commands", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--text", type=Path, help="show this file's lines instead of running anything")
    parser.add_argument("--from", dest="first", type=int, default=1, help="first line to keep")
    parser.add_argument("--to", dest="last", type=int, help="last line to keep")
    parser.add_argument("--title", default="")
    parser.add_argument("--width", type=int, default=100, help="columns")
    options = parser.parse_args()
    lines = options.text.read_text(encoding="utf-8").splitlines() if options.text else []
    for command in options.commands:
        lines += [f"$ {command}", *run(command, options.folder), ""]
    console = Console(record=True, width=options.width, file=io.StringIO(), force_terminal=True)
    for line in lines[options.first - 1 : options.last]:
        console.print(Text(line, style="bold green" if line.lstrip().startswith("$ ") else ""), soft_wrap=False)
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(options.svg), title=options.title, theme=THEME, code_format=FORM, unique_id="t")


if __name__ == "__main__":
    main()
