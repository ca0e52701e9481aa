"""Reliability: what callers get while the server has too much to do, is attacked, loses a part, or is secured.

``overload``: answers per second, p99 and refusals at five times the load, and the time until all is as before.
``flood``: health and other callers beside thousands of calls and streams that never send anything.
``faults``: calls that fail while Redis and workers are killed, servers restarted in turn, certificates changed.
``security``: what TLS, tokens and traces add to the processor time of a call.
``explain``: p99 of Rank calls beside a caller of Explain who never pauses.
``soak``: half an hour with everything on that a server can have on: its memory, and p99.9.

The parts are measured one after another; each has a Redis, a bundle and servers of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.common import Line, main, parser, say

MEASURES = (
    ("overload", "overload", "overload"),
    ("flood", "flood", "flood"),
    ("faults", "faults", "faults"),
    ("faults", "certificates", "failed_calls"),
    ("security", "security", "mtls_share"),
    ("security", "tokens", "token_share"),
    ("security", "tracing", "tracing_share"),
    ("explain", "explaining", "explain"),
    ("soak", "soak", "soak"),
)
"""Part, module of ``reliable/`` and its function, which takes a folder of its own and one of the module's ``SIZES``."""

PARTS = tuple(dict.fromkeys(part for part, _, _ in MEASURES))


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines; what breaks down is reported at the end, after the others."""
    broken = []
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        for number, (part, module, function) in enumerate(MEASURES):
            if part not in (options.only or PARTS):
                continue
            started_s = time.monotonic()
            say(f"part {part}: {module}.{function}")
            folder = root / str(number)
            folder.mkdir()
            try:
                yield from _lines(module, function, folder, options.size)
            except Exception:  # what the others measured is not to be lost
                traceback.print_exc()
                broken.append(f"{module}.{function}")
            say(f"{module}.{function} took {time.monotonic() - started_s:.0f} s")
    if broken:
        raise RuntimeError(f"no figures of {', '.join(broken)}: the errors are above")


def _lines(module: str, function: str, folder: Path, size: str) -> Iterator[Line]:
    # Imported only then: what breaks one of them leaves the others.
    loaded = importlib.import_module(f"reliable.{module}")
    measure = getattr(loaded, function)
    more: dict[str, Any] = {}
    if "bundles" in inspect.signature(measure).parameters:
        more["bundles"] = folder / "bundles"
        more["bundles"].mkdir()
    yield from measure(folder, loaded.SIZES[size], **more)


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}")
    main("reliability", run, options)
