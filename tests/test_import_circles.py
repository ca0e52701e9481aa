"""Imports run one way: no module of ours imports, by way of others, itself.

Late imports and those for types count, too: they hide a circle, they do not end it. A package's ``__init__.py`` counts
as a module of its own: ``from package import module`` is an import of the module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.paths import ROOT


def modules_of(root: Path, folder: str, *, package: bool) -> dict[str, Path]:
    """Files by module name; in a folder that is no package, by the name under which scripts there import each other."""
    found: dict[str, Path] = {}
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root if package else root / folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            base = node.module or ""
            candidates = [n if (n := f"{base}.{alias.name}") in modules else base for alias in node.names]
        else:
            continue
        yield from (candidate for candidate in candidates if candidate in modules and candidate != name)


def circles(modules: Mapping[str, Path]) -> list[list[str]]:
    """The groups of modules that reach each other by imports (Tarjan's strongly connected components)."""
    graph = {name: sorted(set(imports_of(name, path, modules))) for name, path in modules.items()}
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in graph[name]:
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in number:
            visit(name)
    return found


@pytest.mark.parametrize("folder", ["recsys", "benchmarks", "benchmarks/peers", "examples", "scripts", "tests"])
def test_no_module_imports_itself_by_way_of_others(folder: str) -> None:
    modules = modules_of(ROOT, folder, package=folder == "recsys")
    assert len(modules) > 1
    assert circles(modules) == []


@pytest.mark.parametrize(
    "back",
    [
        "from house import first",
        "from house.first import x",
        "import house.first",
        "def late():\n    import house.first",
    ],
)
def test_a_circle_is_found_wherever_its_import_stands(tmp_path: Path, back: str) -> None:
    house = tmp_path / "house"
    house.mkdir()
    (house / "__init__.py").write_text("")
    (house / "first.py").write_text("from house import second\nimport numpy\n")
    (house / "second.py").write_text("if TYPE_CHECKING:\n    from house.third import y\n")
    (house / "third.py").write_text(back)
    (house / "above.py").write_text("import house.first, house.second")
    assert circles(modules_of(tmp_path, "house", package=True)) == [["house.first", "house.second", "house.third"]]
