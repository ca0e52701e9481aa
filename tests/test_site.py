"""The site made of the pages, as far as it can be checked without MkDocs; `make docs` builds it and checks the rest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from docs.built import find_faults
from docs.links import for_site, link
from support.paths import DOCS, ROOT

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False and "repo_url" not in CONFIG
    assert "://" not in (DOCS / "assets" / "site.css").read_text()
    drawn_by_a_script = [page.name for page in DOCS.rglob("*.md") if "```mermaid" in page.read_text()]
    assert drawn_by_a_script == [], "Material loads mermaid from another host; draw an SVG in docs/images"


@pytest.mark.parametrize(
    ("target", "at", "expected"),
    [
        ("../specs/ids.md#a", "docs/guides/data.md", "[x](../specs/ids.md#a)"),
        ("#a", "docs/guides/data.md", "[x](#a)"),
        ("https://example.org/a.md", "docs/guides/data.md", "[x](https://example.org/a.md)"),
        ("../../CONTRIBUTING.md", "docs/guides/data.md", "[x](../CONTRIBUTING.md)"),
        ("docs/guides/data.md", "CONTRIBUTING.md", "[x](guides/data.md)"),
        ("../../docs/operate/runbook.md#alerts", "deploy/monitoring/README.md", "[x](../../operate/runbook.md#alerts)"),
        ("../README.md", "docs/results.md", "[x](index.md)"),
        ("../specs/", "docs/guides/data.md", "[x](../specs/README.md)"),
        ("../../protos/recsys/v1/", "docs/guides/data.md", "[x](../reference/grpc.md)"),
        ("../../recsys/errors.py", "docs/guides/data.md", '<span class="source" title="recsys/errors.py">x</span>'),
        ("results/", "docs/results.md", '<span class="source" title="docs/results">x</span>'),
    ],
)
def test_a_link_leads_to_the_same_page_on_the_site(target: str, at: str, expected: str) -> None:
    assert link("x", target, at) == expected


def test_a_link_may_have_code_as_its_text() -> None:
    shown = for_site("See [`setup.py`](../../setup.py) and [`ids`](../specs/ids.md).", "docs/guides/data.md")
    assert shown == 'See <span class="source" title="setup.py">`setup.py`</span> and [`ids`](../specs/ids.md).'


def test_a_page_that_is_called_by_its_file_is_called_by_its_title_on_the_site() -> None:
    assert link("ids.md", "../specs/ids.md", "docs/guides/data.md") == "[Ids, keys and rows](../specs/ids.md)"


def test_commands_become_a_block_of_the_shell_and_code_keeps_its_links() -> None:
    page = (
        "Do:\n\n    recsys serve b  # [x](../../setup.py)\n    recsys top\n\n"
        "See `[x](../../setup.py)`.\n\n    [x](../../setup.py)\n"
    )
    shown = for_site(page, "docs/guides/data.md")
    assert "```sh\nrecsys serve b  # [x](../../setup.py)\nrecsys top\n```\n\nSee `[x](../../setup.py)`." in shown
    assert shown.endswith("\n    [x](../../setup.py)\n")
    fenced = "It prints:\n\n```text\nThen:\n\n    recsys top\n```\n"
    assert for_site(fenced, "docs/guides/data.md") == fenced, "what a command prints stays as it is"


def test_a_dead_link_a_dead_anchor_and_another_host_are_found_in_the_built_site(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h2 id="there">x</h2><img src="https://example.org/x.png">')
    good = '<a href="b/#there">x</a><a href="#top">x</a><p id="top"></p><a href="https://example.org">x</a>'
    (tmp_path / "a.html").write_text(good + '<a href="b/index.html#gone">x</a><a href="c.html">x</a>')
    assert find_faults(tmp_path) == [
        "a.html: b/index.html#gone has no such heading",
        "a.html: c.html is not there",
        "b/index.html: loads https://example.org/x.png",
    ]


@pytest.mark.prove
def test_the_site_builds_without_a_warning_and_has_no_dead_link() -> None:
    built = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, built.stderr
    assert "pages, no dead link, nothing from another host" in built.stdout and "WARNING  -" not in built.stderr
    client = (ROOT / "site" / "reference" / "client.html").read_text()
    assert all(f'id="recsys.client.Client.{call}"' in client for call in ("rank", "append_events", "get_history"))
