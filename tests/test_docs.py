"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import typer
from support.paths import ROOT

from recsys import errors
from recsys.cli import app, exit_codes
from recsys.client import types as client_types
from recsys.errors import RecsysError
from recsys.recipes import RECIPES, RETRIEVAL_RECIPES
from recsys.training.settings import override, setting_paths

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("requirements/*.md")])
COMMANDS = typer.main.get_command(app)


def _commands_shown() -> list[tuple[str, str]]:
    shown = []
    for page in PAGES:
        for line in page.read_text().splitlines():
            if match := re.match(r"    (recsys [a-z].*?)(?:\s+#.*)?$", line):
                shown.append((page.name, match[1]))
    return shown


@pytest.mark.parametrize(("page", "command"), _commands_shown())
def test_every_command_shown_exists_with_its_options(page: str, command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    known = COMMANDS.commands[name]  # type: ignore[attr-defined]
    if hasattr(known, "commands") and arguments and arguments[0] in known.commands:
        known = known.commands[arguments.pop(0)]
    options = {option for parameter in known.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {a for a in arguments if a.startswith("--")} <= options
    if name == "train":
        assert arguments[0] in {**RECIPES, **RETRIEVAL_RECIPES}
        overrides = {a.partition("=")[0] for a in arguments[1:] if "=" in a}
        if arguments[0] in RETRIEVAL_RECIPES:
            override(RETRIEVAL_RECIPES[arguments[0]](), [a for a in arguments[1:] if "=" in a])
        else:
            assert overrides <= set(setting_paths(RECIPES["din"]()))


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


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """``scripts/generate_docs.py``."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_is_what_the_generator_writes(generator: ModuleType) -> None:
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == generator.settings_page()


def test_the_tables_of_the_scaling_page_are_what_the_recorded_figures_give(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "operate" / "scaling.md").read_text()
    assert page.count(generator.FROM) == page.count(generator.UNTIL) == 1
    assert page == generator.scaling_page(), "was a figure recorded anew? python scripts/generate_docs.py"


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
    modules = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".txt", ".proto", ""}]
    for file in (*PAGES, ROOT / "Makefile", ROOT / "pyproject.toml", *(p for p in modules if p.is_file())):
        if file == Path(__file__).resolve():
            continue
        assert not pattern.search(file.read_text()), file


def test_every_adr_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "adr"
    listed = set(re.findall(r"\]\((\d{4}[^)]+)\)", (folder / "README.md").read_text()))
    assert listed == {p.name for p in folder.glob("[0-9]*.md")}
