"""Breaker: a circuit breaker with exponential back-off."""

from __future__ import annotations

import time
from collections.abc import Callable

from recsys.backoff import backoff_s
from recsys.errors import StoreUnavailableError


class NotTriedError(StoreUnavailableError):
    """Redis was not asked: others failed a moment ago."""


class Breaker:
    """Refuses calls for a while after failures, so that a dead Redis costs a request nothing.

    The wait starts at 50 ms, doubles with every failed probe up to 2 s, and is shortened by up to
    half at random, lest many processes probe together. A time-out opens it only when it is the third in
    a row: one may be the fault of a caller with little time left.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._timeouts = 0
        self._failures = 0
        self._retry_at_s = 0.0
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """True while :meth:`check` would raise."""
        return self._failures > 0 and self._clock() < self._retry_at_s

    def check(self) -> None:
        """Raise NotTriedError while open; let one caller through as a probe when the wait is over."""
        if self.is_open:
            raise NotTriedError(f"{self._reason} (not tried again yet)")
        if self._failures:
            self._retry_at_s = self._clock() + self._wait_s()

    def succeeded(self) -> None:
        """Close."""
        self._failures = self._timeouts = 0

    def failed(self, reason: str, *, timed_out: bool = False) -> None:
        """Note a failure, and open if that was enough."""
        self._timeouts = self._timeouts + 1 if timed_out else 0
        if timed_out and self._timeouts < 3 and not self._failures:
            return
        self._failures += 1
        self._reason = reason
        self._retry_at_s = self._clock() + self._wait_s()

    def _wait_s(self) -> float:
        return backoff_s(self._failures, first_s=0.05, longest_s=2.0, jitter=0.5)
