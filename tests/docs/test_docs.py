"""The documents are true: their commands exist, their code runs, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

import alexnet_fast as af
from alexnet_fast import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = typer.main.get_command(cli.app).commands


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def shown_commands(page):
    """Each `alexnet-fast ...` of a page's code, as words; continued lines are joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    code = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL) + re.findall(r"`(alexnet-fast [^`\n]+)`", text)
    code += ["\n".join(re.findall(r"^ {4}(.*)$", text, re.MULTILINE))]
    for block in code:
        for line in block.splitlines():
            match = re.match(r"\s*(?:\$ |Example: )?(?:python -m alexnet_fast|alexnet-fast)\s+(.*)", line)
            if match:
                yield shlex.split(match[1].split("  ")[0], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_command_and_option_shown_exists(page):
    for words in shown_commands(page):
        if not words or words[0].startswith("-"):
            assert not words or words[0] in ("--help", "--version", "--install-completion"), words
            continue
        assert words[0] in COMMANDS, f"{page.name} shows {words}"
        known = {
            option for parameter in COMMANDS[words[0]].params for option in parameter.opts + parameter.secondary_opts
        }
        for word in words[1:]:
            if word.startswith("--"):
                assert word.split("=")[0].rstrip("]") in known | {"--help"}, f"{page.name} shows {words}"


TYPER = tuple(map(int, version("typer").split(".")[:2]))


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ does not come with this copy")
@pytest.mark.skipif(TYPER < (0, 29), reason="typer before 0.29 lays help out otherwise")
def test_the_page_of_the_command_line_shows_what_help_shows():
    made = runpy.run_path(str(ROOT / "tools" / "make_cli_page.py"))["page"]()
    shown = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", shown, re.MULTILINE)) == set(COMMANDS)
    # The very lines, so that a difference is shown as one; typer of another version may lay them out otherwise.
    assert shown.splitlines() == made.splitlines(), "run tools/make_cli_page.py"


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ does not come with this copy")
def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, f"docs/README.md does not list {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_between_the_documents_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        drawn = page.name == "benchmarks.md" and target.endswith(".png")  # comes with the results it is drawn from
        if not re.match(r"[a-z]+:", target) and not drawn:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_reader_of_the_format_page_reads_what_pack_writes(packed):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "format.md").read_text(encoding="utf-8"), re.DOTALL)
    scope: dict = {}
    exec(code, scope)
    for split in ("train", "val", "test"):
        reader = af.ShardReader(packed, split)
        expected = [(reader.read(i), int(reader.labels[i])) for i in range(len(reader))]
        reader.close()
        assert list(scope["read_split"](packed, split)) == expected


def test_both_readmes_show_the_same_runs_and_images():
    shown = []
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        runs = re.findall(r"^    \$ alexnet-fast .*\n(?:^    .*\n|^\n(?=    ))*", text, re.MULTILINE)
        shown.append([*runs, *re.findall(r"!\[[^\]]+\]\((docs/[^)]+)\)", text)])
    assert len(shown[0]) > 5
    assert shown[0] == shown[1]


CHINESE = [*ROOT.glob("README.zh-CN.md"), *(ROOT / "docs").glob("*.zh-CN.md"), *ROOT.glob("examples/*.zh-CN.ipynb")]


@pytest.mark.parametrize("page", CHINESE, ids=ids(CHINESE))
def test_chinese_takes_full_width_punctuation(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    prose = [line for line in text.splitlines() if not line.startswith("    ")]  # else it is code, or what a run says
    bare = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "X", "\n".join(prose)))
    wrong = re.findall(r"[\u4e00-\u9fff][,;:?!()]+.{0,9}|.{0,9}[,;:?!()]+[\u4e00-\u9fff]", bare)
    assert not wrong


def test_the_changelog_has_the_version():
    assert f"## {af.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_loop_in_the_readmes_trains_anyones_network(packed):
    blocks = []
    for page in ROOT.glob("README*.md"):
        text = page.read_text(encoding="utf-8")
        blocks += re.findall(
            r"((?:^(?: {4}.*|)\n)*^ {4}.*af\.open_loader\(.*\n(?:^(?: {4}.*|)\n)*)", text, re.MULTILINE
        )
    assert blocks
    for block in blocks:
        code = "\n".join(line[4:] for line in block.splitlines())
        small = code.replace('"data/tiny"', repr(str(packed))).replace("batch_size=128", "batch_size=8")
        small = small.replace("range(5)", "range(1)").replace("image_size=64", 'image_size=32, device="cpu"')
        assert small != code
        scope: dict = {}
        exec(small, scope)
        assert scope["loss"].isfinite()
        scope["loader"].close()


@pytest.mark.skipif(not (ROOT / "tools").is_dir(), reason="tools/ is not part of this copy")
def test_the_page_on_reliability_lists_the_tests_there_are_and_the_committed_results():
    spec = importlib.util.spec_from_file_location("make_reliability", ROOT / "tools" / "make_reliability.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run `python tools/make_reliability.py`"
