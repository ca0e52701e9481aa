"""The benchmarks' layout: every file of the folder runs by itself, and no module imports itself round a circle."""

from __future__ import annotations

import ast
import importlib
from graphlib import TopologicalSorter

import pytest
from support.paths import ROOT

FOLDER = ROOT / "benchmarks"
MODULES = {".".join(p.relative_to(FOLDER).with_suffix("").parts): p for p in FOLDER.rglob("*.py")}


def imports_of(module: str) -> set[str]:
    """The benchmarks' modules that one imports anywhere: at the top, inside functions, for types alone."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(MODULES)


def test_no_module_imports_itself_round_a_circle() -> None:
    graph = {module: imports_of(module) for module in MODULES}
    assert {"harness.common", "ranking.size"} <= graph["rank"]
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("module", [name for name in MODULES if "." not in name])
def test_every_file_of_the_folder_is_a_benchmark(module: str) -> None:
    assert '__name__ == "__main__"' in MODULES[module].read_text()


def test_shared_parts_import_no_benchmark() -> None:
    runnable = {name for name in MODULES if "." not in name}
    shared = [name for name in MODULES if name.startswith(("harness.", "ranking.", "releasing.", "sizing."))]
    assert {name: imports_of(name) & runnable for name in shared} == {name: set() for name in shared}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("peers.")])
def test_everything_a_benchmark_imports_is_there(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside functions too: most of them import late, so that ``--help`` is quick."""
    monkeypatch.syspath_prepend(FOLDER)
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(found, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
