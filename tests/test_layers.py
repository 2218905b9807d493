"""The architecture as a test: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import alexnet_fast

PACKAGE = Path(alexnet_fast.__file__).parent
# From the bottom up. A folder or a module at the top imports from the layers below its own, never from its own layer or
# from above; within a folder, modules import each other without a circle.
LAYERS = [
    {"errors", "version", "words"},
    {"options"},
    {"config"},
    {"commands"},
    {"system", "plots"},
    {"images"},
    {"dataset", "sources"},
    {"packing", "loaders", "models"},
    {"training", "inspection"},
    {"evaluation", "bench"},
    {"doctor", "demo"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
HEAVY = {"torch", "torchvision", "nvidia", "lmdb", "matplotlib", "pyarrow", "ray", "PIL", "simplejpeg", "cv2", "onnx"}


def dotted(path: Path) -> tuple[str, ...]:
    """A file's name within the package; of a folder's ``__init__``, the folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> list[tuple[tuple[str, ...], str]]:
    """(module within the package, name taken from it), at the head, inside functions and for type checkers alike."""
    found = []
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) - node.level], *(node.module or "").split("."))
            base = tuple(part for part in base if part)
            for alias in node.names:
                if (*base, alias.name) in MODULES and not defines(base, alias.name):
                    found.append(((*base, alias.name), ""))
                else:
                    found.append((base, alias.name))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alexnet_fast":
            raise AssertionError(f"{path}: imports within the package are relative")
    return found


def defines(module: tuple[str, ...], name: str) -> bool:
    """Whether a folder's ``__init__`` lists a name, which then wins over the module of that name."""
    return len(module) == 1 and name in surface(module[0])


def surface(folder: str) -> list[str]:
    return list(import_module(f"alexnet_fast.{folder}").__all__)


GRAPH = {module: imports_of(path) for module, path in MODULES.items() if module}


def test_every_module_has_a_layer():
    assert sorted({module[0] for module in GRAPH} - set(RANK)) == [], "name the new module's layer in LAYERS"


def test_imports_go_down_only():
    up = [
        f"{'.'.join(module)} imports {'.'.join(other) or '__init__'}"
        for module, imports in GRAPH.items()
        for other, _ in imports
        if not other or (other[0] != module[0] and RANK[other[0]] >= RANK[module[0]])
    ]
    assert up == []


def test_folders_are_entered_through_their_surface():
    """Across folders, an import takes a name that the folder's ``__init__`` lists in ``__all__``, and nothing else."""
    past = [
        f"{'.'.join(module)} takes {name or 'the module'} from {'.'.join(other)}"
        for module, imports in GRAPH.items()
        for other, name in imports
        if other and other[0] in FOLDERS and other[0] != module[0] and (len(other) > 1 or name not in surface(other[0]))
    ]
    assert past == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {other for other, _ in imports if other != module} for module, imports in GRAPH.items()}
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
    assert "torch" not in modules_after("import alexnet_fast.packing, alexnet_fast.dataset")


def test_reading_shards_needs_no_lmdb():
    assert "lmdb" not in modules_after("import alexnet_fast.dataset")


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


@pytest.mark.parametrize("name", ["pack", "verify", "train", "evaluate", "predict", "export"])
def test_a_public_name_is_the_function_whatever_was_imported_before(name):
    home = alexnet_fast._HOME[name]
    code = f"import alexnet_fast.{home}, alexnet_fast\nassert callable(alexnet_fast.{name}), alexnet_fast.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
