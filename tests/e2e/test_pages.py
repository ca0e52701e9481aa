"""The pages that a newcomer reads first: their commands run as they stand there, and print what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.page_commands import Block, Ran, blocks, missing_output, run_pages
from support.paths import DOCS
from support.redis_servers import free_port

START, GUIDES = DOCS / "start", DOCS / "guides"
COMING_FROM = ("coming_from/feast_triton.md", "coming_from/torcheasyrec.md")
PAGES = [*sorted(START.glob("*.md")), *(GUIDES / name for name in COMING_FROM)]


def run(pages: list[Path], folder: Path) -> None:
    """Run pages one after another in one folder; what they show is what is printed."""
    for ran in run_pages(pages, folder, ports=(free_port(), free_port())):
        where = f"{ran.block.page.name}:{ran.block.line}"
        assert not missing_output(ran), f"{where}: not printed: {missing_output(ran)}\nbut:\n{ran.printed}"


@pytest.mark.timeout(900)
def test_the_quickstart_and_the_page_for_backends_run_as_they_stand_and_print_what_they_show(tmp_path: Path) -> None:
    run([START / "quickstart.md", START / "backend.md"], tmp_path)


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_the_pages_of_all_roles_run_one_after_another_and_print_what_they_show(tmp_path: Path) -> None:
    run([START / name for name in ("quickstart.md", "ml.md", "oncall.md", "platform.md")], tmp_path)


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMING_FROM)
def test_a_page_on_coming_from_elsewhere_runs_as_it_stands_and_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    run([GUIDES / name], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        assert not block.mark.startswith("not run") or len(block.mark) > len("not run: ") + 20, block


def ran(shown: str, printed: str) -> Ran:
    return Ran(Block(Path("page.md"), 1, "sh", "", "", shown), printed, 0.0)


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("AUC 0.7735, 2,000 samples", "AUC  0.512, 1 samples\n", ""),
        ("model shop, version 1016bf35fb0a343d", "model shop, version aaaabbbb11112222", ""),
        ("a ... c", "a b c", ""),
        ("a ... c", "c b a", "c"),
        ("better than chance", "no better than popularity", "better than chance"),
    ],
)
def test_what_is_shown_is_compared_in_order_and_without_numbers(shown: str, printed: str, missing: str) -> None:
    assert missing_output(ran(shown, printed)) == missing


def test_a_page_with_a_command_that_fails_or_prints_something_else_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```sh\nexit 3\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:3\nexit 3\nended with 3"):
        run([page], tmp_path)
    page.write_text("# A\n\n<!-- exit 3 -->\n```sh\necho one; exit 3\n```\nThen:\n```text\ntwo\n```\n")
    with pytest.raises(AssertionError, match="not printed: two"):
        run([page], tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A\n\n```sh\nls\n", "page.md:3: the fence has no end"),
        ("# A\n\n```sh\nls\n```\n\n# B\n\n```text\nls\n```\n", "page.md:9: output without a command before it"),
        ("# A\n\n<!-- skip -->\n```sh\nls\n```\n", "page.md:4: .*expected server, exit N, or not run: REASON"),
    ],
)
def test_a_page_that_cannot_be_run_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        blocks(tmp_path / "page.md")
