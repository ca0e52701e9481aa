"""Console: lines on standard error, for the person or program that started the server."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line."""
    print(f"recsys: {text}", file=sys.stderr, flush=True)
