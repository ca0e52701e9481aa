"""Console: lines on standard error, for the person or program that started the server."""

from __future__ import annotations

import sys

from recsys.serving.logs import say_line


def say(text: str) -> None:
    """Print a line; a JSON object where the server's logs are JSON."""
    print(say_line(text), file=sys.stderr, flush=True)
