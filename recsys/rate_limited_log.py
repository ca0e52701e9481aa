"""RateLimitedLog: warnings that a busy server may have thousands of a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable


class RateLimitedLog:
    """A log that shows each kind of message at most once in ``every_s`` seconds, and counts those in between.

    Safe to use from several threads. The kinds are kept for good, so they must be few.

    Args:
        log: where the messages go.
        every_s: the least time between two of one kind.
        clock: seconds.
    """

    def __init__(
        self, log: logging.Logger, *, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: dict[Hashable, tuple[float, int]] = {}
        """When each kind was last shown, and how many were suppressed since."""

    def warning(self, kind: Hashable, message: str, *args: object) -> None:
        """Log a warning, ended by the count of those suppressed before it; or hide and count it."""
        suppressed = self.due(kind)
        if suppressed is not None:
            self._log.warning(message + " (%d more not logged)", *args, suppressed)

    def due(self, kind: Hashable) -> int | None:
        """The number of messages of this kind suppressed since the last one shown, if one is due now; None hides it."""
        now_s = self._clock()
        with self._lock:
            last_s, suppressed = self._shown.get(kind, (None, 0))
            if last_s is not None and now_s - last_s < self._every_s:
                self._shown[kind] = (last_s, suppressed + 1)
                return None
            self._shown[kind] = (now_s, 0)
            return suppressed
