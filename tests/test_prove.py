"""``make prove``: its page names what it runs."""

import re

from support.paths import DOCS, ROOT, TESTS

MARK = "mark." + "prove"


def test_the_page_names_every_file_with_a_marked_test_and_no_other() -> None:
    named = set(re.findall(r"\| `(tests/\S+\.py)` \|", (DOCS / "contribute" / "prove.md").read_text()))
    marked = {str(file.relative_to(ROOT)) for file in TESTS.rglob("test_*.py") if MARK in file.read_text()}
    assert named == marked


def test_what_takes_longer_has_a_small_form_in_the_same_file() -> None:
    for file in TESTS.rglob("test_*.py"):
        tests = re.findall(r"((?:^@.*\n)*)^(?:async )?def test_", file.read_text(), flags=re.MULTILINE)
        assert not tests or any(f"@pytest.{MARK}" not in decorators for decorators in tests), file


def test_the_marker_is_left_out_of_make_test_and_alone_in_make_prove() -> None:
    assert "-m 'not prove'" in (ROOT / "pyproject.toml").read_text()
    assert '"-m", "prove"' in (ROOT / "scripts" / "prove.py").read_text()
    assert "scripts/prove.py" in (ROOT / "Makefile").read_text()
