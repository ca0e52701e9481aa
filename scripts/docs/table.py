"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, and an empty one."""
    lines = [row_of(head), row_of(["---"] * len(head)), *(row_of(row) for row in rows)]
    return [*lines, ""]


def row_of(cells: Sequence[str]) -> str:
    """One row; a cell's line ends become spaces."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def linked(text: str) -> str:
    """Text of a page in ``docs/reference/`` whose names of pages, as ``docs/operate/redis.md``, are links.

    >>> linked("see docs/operate/redis.md")
    'see [docs/operate/redis.md](../operate/redis.md)'
    """
    return re.sub(r"\bdocs/([\w/]+\.md)\b", r"[docs/\1](../\1)", text)


def generated(title: str, *text: str) -> list[str]:
    """First lines of a page that is generated."""
    return [f"# {title}", "", *text, "(This page is generated: `scripts/generate_docs.py`.)", ""]
