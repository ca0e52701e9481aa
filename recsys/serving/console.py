"""Lines for whoever started the server, on standard error."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line."""
    print(f"recsys: {text}", file=sys.stderr, flush=True)
