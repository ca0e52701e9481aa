"""Generate the pages of ``docs/reference/``, and tables of recorded figures: ``python scripts/generate_docs.py``.

``scripts/docs/`` has a module for each; ``tests/test_docs.py`` fails when a page no longer says what the code does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.calls import calls_page
from docs.commands import commands_page
from docs.errors import errors_page
from docs.metrics import metrics_page
from docs.old_index import RESULTS, results_page
from docs.real_vectors import RETRIEVAL, retrieval_page
from docs.scaling import SCALING, scaling_page
from docs.settings import settings_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
REFERENCE: dict[str, Callable[[], str]] = {
    "cli.md": commands_page,
    "errors.md": errors_page,
    "grpc.md": calls_page,
    "metrics.md": metrics_page,
    "settings.md": settings_page,
}
"""Pages of ``docs/reference/`` that are made of the code."""


def write() -> None:
    """Write every page, and the picture of the scaling page."""
    for name, page in REFERENCE.items():
        (DOCS / "reference" / name).write_text(page())
    RESULTS.write_text(results_page())
    RETRIEVAL.write_text(retrieval_page())
    SCALING.write_text(scaling_page("--png", str(DOCS / "images" / "scaling.png")))


if __name__ == "__main__":
    write()
