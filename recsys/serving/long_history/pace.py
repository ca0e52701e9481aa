"""Pace: a bounded rate for work that others' requests must not feel."""

from __future__ import annotations

import time


class Pace:
    """Holds a loop back to so many units per second. Time that was not used is no credit for later.

    Args:
        per_s: 0: not held back.

    >>> pace = Pace(1_000.0)
    >>> begun_s = time.monotonic()
    >>> for _ in range(10):
    ...     pace.spend(5)
    >>> 0.05 <= time.monotonic() - begun_s < 5
    True
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._due_s = time.monotonic()

    def spend(self, units: float) -> None:
        """Sleep until so many units more, done since the last call, are within the rate."""
        if not self._per_s:
            return
        now_s = time.monotonic()
        self._due_s = max(self._due_s + units / self._per_s, now_s)
        if self._due_s > now_s:
            time.sleep(self._due_s - now_s)
