"""The documentation says what the code does."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generate_docs
import pytest
import typer
import yaml
from support.paths import DOCS, ROOT

from docs import links, old_index, real_vectors, scaling
from recsys import errors
from recsys.cli import app, exit_codes
from recsys.client import types as client_types
from recsys.errors import RecsysError
from recsys.recipes import RECIPES, RETRIEVAL_RECIPES
from recsys.training.settings import override, setting_paths

ELSEWHERE = ("requirements", "deploy", "deploy/monitoring", "benchmarks", "examples/typescript")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *(ROOT / name / "README.md" for name in ELSEWHERE)])
GENERATED = [DOCS / "reference" / name for name in generate_docs.REFERENCE]
HISTORY = ROOT / "CHANGELOG.md"
"""Names commands as they were."""
COMMANDS = typer.main.get_command(app)


def _code_shown(page: Path, begins: str) -> list[str]:
    """Commands of a page that begin with a word: on a line of their own, or in backticks."""
    pattern = rf"^(?: {{4}})?({begins} [\w-].*?)(?:\s+#.*)?$|`({begins} [\w-][^`]*)`"
    text = page.read_text().replace("\\\n", " ") if page not in (*GENERATED, HISTORY) else ""
    return [line or inline for line, inline in re.findall(pattern, text, re.MULTILINE)]


def _faults_of(command: str) -> list[str]:
    """Parts of a command of ``recsys`` that do not exist; a name in capitals or braces stands for one."""
    words = shlex.split(command)[1:]
    name, *arguments = words
    if name == "--help":
        return []
    known = COMMANDS.commands.get(name)  # type: ignore[attr-defined]
    if known is None:
        return [f"no command {name}"]
    if hasattr(known, "commands") and arguments and not arguments[0].startswith("-"):
        if (known := known.commands.get(arguments.pop(0))) is None:
            return [f"no command {' '.join(words[:2])}"]
    if known.context_settings.get("ignore_unknown_options"):  # of torchrun, up to the command that it starts
        return _faults_of(shlex.join(words[words.index("recsys.cli") :])) if arguments else []
    options = {option for parameter in known.params for option in (*parameter.opts, *parameter.secondary_opts)}
    faults = [f"no option {a}" for a in arguments if a.startswith("--") and a not in options]
    if name == "train" and arguments and re.fullmatch("[a-z][a-z0-9_]+", recipe := arguments[0]):
        overrides = [a for a in arguments[1:] if "=" in a and not re.search("=.*[A-Z{]", a)]
        if recipe in RETRIEVAL_RECIPES:
            override(RETRIEVAL_RECIPES[recipe](), overrides)
        elif recipe in RECIPES:
            paths = setting_paths(RECIPES[recipe]())
            faults += [f"no setting {a}" for a in overrides if a.partition("=")[0] not in paths]
        else:
            faults.append(f"no recipe {recipe}")
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    found = {command: _faults_of(command) for command in _code_shown(page, "recsys")}
    assert {command: faults for command, faults in found.items() if faults} == {}


def test_every_make_target_and_script_shown_exists_with_its_options() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for _, target, *words in map(str.split, _code_shown(page, "make")):
            assert target in targets or target.isupper(), f"{page.name}: make {target} {' '.join(words)}"
        for _, script, *words in map(str.split, _code_shown(page, "python")):
            if script.endswith(".py"):
                assert (ROOT / script).exists(), f"{page.name}: {script}"
                options = {word for word in words if word.startswith("--")}
                if unknown := options - set(re.findall(r'"(--[\w-]+)"', (ROOT / script).read_text())):
                    assert unknown <= _options_of(script), f"{page.name}: {script} {unknown}"


@functools.cache
def _options_of(script: str) -> set[str]:
    """Options that a script's own help has; of one that does not spell them out."""
    command = [sys.executable, ROOT / script, "--help"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True, timeout=60
    )
    return set(re.findall(r"--[\w-]+", told.stdout))


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in COMMANDS.commands:  # type: ignore[attr-defined]
        assert f"recsys {name}" in readme or f"make {name}" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        assert heading in headings_of(page.parent / target if target else page), f"{target}#{heading}"


def headings_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def pages_of(nav: Any) -> Iterator[str]:
    """Pages that an entry of the navigation leads to."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    decisions = {page for page in pages if re.match(r"adr/\d", page)}
    listed = list(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted({*links.PAGES, *pages} - decisions), "add the page to nav in mkdocs.yml"


@pytest.mark.parametrize("name", generate_docs.REFERENCE)
def test_a_generated_page_is_what_the_generator_writes(name: str) -> None:
    written = (DOCS / "reference" / name).read_text()
    assert written == generate_docs.REFERENCE[name](), "did the code change? python scripts/generate_docs.py"


def test_the_table_of_old_indices_is_what_the_recorded_lines_give() -> None:
    page = old_index.RESULTS.read_text()
    assert page.count(old_index.FROM) == page.count(old_index.UNTIL) == 1
    assert page == old_index.results_page(), "was a figure recorded anew? python scripts/generate_docs.py"


def test_the_tables_beside_other_indexes_are_what_the_recorded_lines_give() -> None:
    page = real_vectors.RETRIEVAL.read_text()
    assert page.count(real_vectors.FROM) == page.count(real_vectors.UNTIL) == 1
    assert page == real_vectors.retrieval_page(), "was a figure recorded anew? python scripts/generate_docs.py"


def test_the_tables_of_the_scaling_page_are_what_the_recorded_figures_give() -> None:
    page = scaling.SCALING.read_text()
    assert page.count(scaling.FROM) == page.count(scaling.UNTIL) == 1
    assert page == scaling.scaling_page(), "was a figure recorded anew? python scripts/generate_docs.py"


def test_every_client_error_but_a_defect_of_the_server_has_an_exit_code() -> None:
    kinds = [k for k in vars(client_types).values() if isinstance(k, type) and issubclass(k, client_types.RpcError)]
    assert len(kinds) > 5
    for kind in kinds:
        assert kind is client_types.RpcError or any(issubclass(kind, k) for k in exit_codes()), kind


def test_every_error_is_drawn_in_the_error_tree_and_has_an_exit_code() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, RecsysError):
            assert name in (errors.__doc__ or "")
            assert kind is RecsysError or any(issubclass(kind, k) for k in exit_codes())


def test_no_page_or_module_names_a_package_index() -> None:
    pattern = re.compile(r"index-url|https?://[^ )]*/simple", re.IGNORECASE)
    folders = ("recsys", "scripts", "benchmarks", "examples", "tests", "requirements", "protos", ".ci")
    kinds = {".py", ".txt", ".proto", ".json", ""}
    modules = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in kinds and p.is_file()]
    for file in (*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml", *modules):
        if file == Path(__file__).resolve() or "node_modules" in file.parts:
            continue
        assert not pattern.search(file.read_text()), file


def test_every_adr_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "adr"
    listed = set(re.findall(r"\]\((\d{4}[^)]+)\)", (folder / "README.md").read_text()))
    assert listed == {p.name for p in folder.glob("[0-9]*.md")}
