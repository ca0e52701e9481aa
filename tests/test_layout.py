"""The layout is what docs/adr/0022-rooms.md decides."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

MOST_FILES = 15
"""In one folder, beside ``__init__.py``."""

PACKAGE = [path for path in sorted((ROOT / "recsys").rglob("*.py")) if "_pb2" not in path.name]
CODE = [
    *PACKAGE,
    *(path for name in ("benchmarks", "scripts", "examples", "deploy") for path in (ROOT / name).rglob("*.py")),
]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"])
HISTORY = {ROOT / "CHANGELOG.md"}
"""Pages that name files as they were."""


def test_no_folder_has_too_many_files() -> None:
    files = Counter(path.parent for path in PACKAGE if path.name != "__init__.py")
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


def test_no_folder_of_pages_has_too_many_entries() -> None:
    folders = [ROOT / "docs", *(path for path in (ROOT / "docs").iterdir() if path.is_dir())]
    entries = {path.name: len(list(path.iterdir())) for path in folders if path.name not in ("adr", "results")}
    assert {name: count for name, count in entries.items() if count > MOST_FILES} == {}


def test_a_second_file_with_the_same_prefix_makes_a_folder() -> None:
    prefixes = Counter((path.parent, path.stem.split("_")[0]) for path in PACKAGE if "_" in path.stem.strip("_"))
    assert {
        f"{folder.relative_to(ROOT)}/{prefix}_*" for (folder, prefix), count in prefixes.items() if count > 1
    } == set()


def test_every_folder_of_the_package_says_what_its_files_are() -> None:
    for folder in sorted({path.parent for path in PACKAGE}):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        names = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
        names = {name for name in names if not name.endswith(("_pb2", "_pb2_grpc"))}
        lacking = {name for name in names if not re.search(rf"\b{name}\b", text)}
        assert text and (not lacking or folder == ROOT / "recsys"), f"{folder.relative_to(ROOT)}: {sorted(lacking)}"


def test_tests_mirror_the_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")} - {Path()}
    across = {Path("e2e"), Path("benchmarks"), Path("fuzz"), Path("deploy")}
    assert {str(folder) for folder in folders - across if not (ROOT / "recsys" / folder).is_dir()} == set()


def docstrings() -> Iterator[tuple[Path, int, str]]:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if text := ast.get_docstring(node):
                    yield path, node.body[0].lineno, text


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    questions = {"What", "Whether", "How", "Where", "Who", "Whose", "Which", "Why"}
    found = [f"{path.relative_to(ROOT)}:{line}" for path, line, text in docstrings() if text.split()[0] in questions]
    assert found == []


def named_files(text: str) -> set[str]:
    """Python files that a text names in backticks; ``mine.py`` stands for one that a reader writes."""
    return set(re.findall(r"`([\w/]+\.py)\b", text)) - {"__init__.py", "__main__.py", "mine.py"}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    return set(listed.stdout.split()) or {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize("page", [p for p in PAGES if p not in HISTORY], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path, tracked: set[str]) -> None:
    ends = {path[i:] for path in tracked for i in [0, *(m.end() for m in re.finditer("/", path))]}
    assert named_files(page.read_text()) - ends == set()


def test_every_file_that_a_docstring_names_exists(tracked: set[str]) -> None:
    ends = {path[i:] for path in tracked for i in [0, *(m.end() for m in re.finditer("/", path))]}
    found = {f"{path.relative_to(ROOT)}: {name}" for path in CODE for name in named_files(path.read_text()) - ends}
    assert found == set()
