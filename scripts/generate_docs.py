"""Generate ``docs/settings.md`` from the server's settings: ``python scripts/generate_docs.py``.

``tests/test_docs.py`` fails when the page no longer says what the code does.
"""

from __future__ import annotations

from pathlib import Path

from recsys.serving.settings import settings_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


def settings_page() -> str:
    """The text of ``docs/settings.md``."""
    rows = [
        f"| `{row.variable}` | {row.default} | {row.allowed} | {row.meaning} |".replace("||", "| |")
        for row in settings_table()
    ]
    head = [
        "# Server settings",
        "",
        "Environment variables; `recsys serve` has options for the usual ones, and options win. A wrong value",
        "stops the start and says what is allowed; an unknown `RECSYS_*` variable is named in a warning.",
        "`recsys serve BUNDLE --settings` prints what is in force.",
        "ONNX Runtime's telemetry is off; no setting turns it on ([more](runbook.md#tasks)).",
        "(This page is generated: `scripts/generate_docs.py`.)",
        "",
        "| variable | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join(head + rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(settings_page())
