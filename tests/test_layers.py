"""The architecture as a test: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import alexnet_fast

PACKAGE = Path(alexnet_fast.__file__).parent
# From the bottom up. A module imports from layers below its own and from its own, never from above. A package
# (sources, loaders ...) stands where its name stands.
LAYERS = [
    {"__init__", "errors"},
    {"config", "options"},
    {
        "sources", "shards", "files", "datum", "index", "lmdb_pages", "manifest", "shardfiles", "shardwriter", "order",
        "augment", "device", "progress", "jpeg", "native", "decode", "cut", "workers", "plots", "demo_pictures",
    },
    {
        "plan", "target", "shardwork", "ray_engine", "loaders", "response_norm", "models", "recipes", "checkpoint",
        "distributed", "precision",
    },
    {"optimization", "scoring", "run_folder", "training_plan", "training_log", "stopping", "training"},
    {
        "train", "bench", "pack", "verify", "inspection", "evaluate", "evaluation_report", "predict", "demo", "export",
        "doctor",
    },
    {"cli"},
    {"__main__"},
]  # fmt: skip
HEAVY = {"torch", "torchvision", "nvidia", "lmdb", "matplotlib", "pyarrow", "ray", "PIL", "simplejpeg", "cv2", "onnx"}


def unit(path: Path) -> str:
    """The top-level name within the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Top-level names within the package that a file imports, at its head or inside functions."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # what only a type checker imports costs nothing and cannot go round in circles
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            here = path.relative_to(PACKAGE).with_suffix("").parts
            if node.level:
                base = [*here[: len(here) - node.level], *(node.module or "").split(".")]
            elif (node.module or "").split(".")[0] == "alexnet_fast":
                base = (node.module or "").split(".")[1:]
            else:
                continue
            base = [part for part in base if part]
            found |= {base[0]} if base else {a.name if unit_exists(a.name) else "__init__" for a in node.names}
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            found |= {(parts[1:] or ["__init__"])[0] for parts in names if parts[0] == "alexnet_fast"}
    return found


def unit_exists(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()


GRAPH: dict[str, set[str]] = {}
for source in sorted(PACKAGE.rglob("*.py")):
    GRAPH.setdefault(unit(source), set()).update(imports_of(source) - {unit(source)})
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def test_every_module_has_a_layer():
    assert sorted(set(GRAPH) - set(RANK)) == [], "name the new module's layer in LAYERS"


def test_imports_go_down_only():
    # __init__ hands out names lazily, from any layer; that is its whole task.
    up = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if name != "__init__" and RANK[other] > RANK[name]
    ]
    assert up == []


def test_nothing_imports_the_command_line():
    assert [name for name, others in GRAPH.items() if "cli" in others and name != "__main__"] == []


def test_no_two_modules_import_each_other():
    graph = {name: others - {"__init__"} for name, others in GRAPH.items() if name != "__init__"}
    TopologicalSorter(graph).prepare()


def test_the_package_imports_neither_tests_nor_tools_nor_benchmarks():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {m.split(".")[0] for m in modules} & {"tests", "tools", "benchmarks", "pytest"}, path


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after `code`."""
    ending = "\nimport sys; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert modules_after("import alexnet_fast") & (HEAVY | {"numpy", "typer", "rich"}) == set()


@pytest.mark.parametrize("command", ["", "pack", "train", "bench-loader", "predict"])
def test_help_loads_nothing_heavy(command):
    arguments = [*command.split(), "--help"]
    code = (
        f"import sys; sys.argv = ['alexnet-fast', *{arguments!r}]\nfrom alexnet_fast import cli\nassert cli._run() == 0"
    )
    assert modules_after(code) & (HEAVY | {"numpy"}) == set()


def test_packing_and_reading_shards_need_no_torch():
    assert "torch" not in modules_after("import alexnet_fast.pack, alexnet_fast.shards, alexnet_fast.sources")


def test_a_network_without_storage_does_not_load_torchs_compiler():
    code = (
        "import sys, torch; from alexnet_fast import config, create_model\n"
        "with torch.device('meta'): [create_model(name) for name in config.MODELS]\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_is_what_the_package_offers():
    for name in alexnet_fast.__all__:
        assert getattr(alexnet_fast, name) is not None
    assert set(alexnet_fast._HOME) == set(alexnet_fast.__all__) - {"__version__"}
    assert set(dir(alexnet_fast)) == set(alexnet_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        alexnet_fast.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["pack", "verify", "train", "evaluate", "predict"])
def test_a_function_wins_over_the_module_of_its_name(name):
    code = f"import alexnet_fast, alexnet_fast.{name}\nassert callable(alexnet_fast.{name}), alexnet_fast.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
