"""The page of the server's settings."""

from __future__ import annotations

from docs.table import generated, linked
from recsys.serving.settings import settings_table


def settings_page() -> str:
    """The text of ``docs/reference/settings.md``."""
    rows = [
        f"| `{row.variable}` | {row.default} | {row.allowed} | {linked(row.meaning)} |".replace("||", "| |")
        for row in settings_table()
    ]
    head = generated(
        "Server settings",
        "Environment variables; `recsys serve` has options for the usual ones, and options win. A wrong value",
        "stops the start and says what is allowed; an unknown `RECSYS_*` variable is named in a warning.",
        "`recsys serve BUNDLE --settings` prints what is in force.",
        "ONNX Runtime's telemetry is off; no setting turns it on ([more](../operate/runbook.md#tasks)).",
    )
    return "\n".join([*head, "| variable | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"
