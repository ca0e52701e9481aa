"""Restarts of a private Redis that ended while it is in use: at once, then ever later, as long as it is in use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from recsys.backoff import backoff_s
from recsys.errors import RecsysError

_log = logging.getLogger("recsys.feature_store")

_POLL_S = 0.2
_STABLE_S = 10.0
"""A Redis that ran for so long is started again without a wait."""

_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 30.0


def restart_when_gone(
    *,
    gone: Callable[[], bool],
    start: Callable[[], None],
    stopping: threading.Event,
    name: str,
    poll_s: float = _POLL_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Start what is gone again, until told to stop. Whatever keeps it from starting is logged, and tried again.

    Args:
        gone: tells if it has ended.
        start: starts it, and returns when it answers.
        stopping: set to end this.
        name: of its data, for the log.
        poll_s: time between two looks.
        clock: seconds.
    """
    tries, started_s = 0, clock()
    while not stopping.wait(poll_s):
        if not gone():
            continue
        if clock() - started_s >= _STABLE_S:
            tries = 0
        wait_s = backoff_s(tries, first_s=_BACKOFF_S, longest_s=_MAX_BACKOFF_S)
        when = f"in {wait_s:g} s" if wait_s else "now"
        _log.warning("the private Redis in %s has ended; it is started again %s, with its data", name, when)
        if stopping.wait(wait_s):
            return
        tries += 1
        try:
            start()
        except (RecsysError, OSError) as error:
            if not stopping.is_set():
                _log.error("the private Redis in %s could not be started again (try %d): %s", name, tries, error)
        else:
            _log.warning("the private Redis in %s answers again", name)
        started_s = clock()
