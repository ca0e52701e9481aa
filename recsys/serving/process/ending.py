"""Ending: a process that was told to end does, whatever hangs; then the stacks of all threads are in the log."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import threading
from collections.abc import Callable, Iterator

_log = logging.getLogger("recsys.serving")

END_MARGIN_S = 3.0
"""Time that a process may take to end, beyond the drain."""

_DUMP_S = 0.5


@contextlib.contextmanager
def bounded_end(limit_s: float) -> Iterator[Callable[[], None]]:
    """Bound the time in which a ``with`` block is left, from the call of the function that this gives.

    A process that takes longer than ``limit_s`` logs that and the stacks of all threads, and ends with exit code 1. A
    thread of the interpreter's own sees to it, which needs no lock of Python's.
    """
    log = threading.Timer(
        limit_s, _log.error, ["not ended within %g s: ending now; the stacks of all threads", limit_s]
    )
    log.daemon = True

    def begin() -> None:
        faulthandler.dump_traceback_later(limit_s + _DUMP_S, exit=True, file=2)
        log.start()

    try:
        yield begin
    finally:
        faulthandler.cancel_dump_traceback_later()
        log.cancel()
