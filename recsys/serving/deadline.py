"""Deadline: the moment after which nobody waits for an answer any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_ROUNDED, _LATE_S = 0.02, 0.02
"""Share of a time-out, and seconds, by which a caller may be ahead of us: gRPC rounds up the time-out that it sends."""


class CallerLeftError(TimeoutError):
    """The caller has left before its deadline."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment (``time.monotonic`` seconds) after which nobody waits for the answer any more.

    Attributes:
        at_s: that moment.
        abandoned: whether the caller has left before it; asked as often as :meth:`remaining_s`.
        when_left: takes a function and calls it when the call has ended or its caller has left; False if that has been.
        timeout_s: seconds from the call's start to that moment.
    """

    at_s: float
    abandoned: Callable[[], bool] | None = None
    when_left: Callable[[Callable[[], None]], bool] | None = None
    timeout_s: float = 0.0

    @classmethod
    def after(
        cls,
        timeout_s: float,
        *,
        abandoned: Callable[[], bool] | None = None,
        when_left: Callable[[Callable[[], None]], bool] | None = None,
    ) -> Deadline:
        """The deadline ``timeout_s`` from now."""
        return cls(time.monotonic() + timeout_s, abandoned, when_left, timeout_s)

    def remaining_s(self) -> float:
        """Seconds left. Cheap (2 us): ask before whatever takes long.

        Raises:
            TimeoutError: none are.
            CallerLeftError: the caller has left.
        """
        remaining_s = self.at_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("the request's deadline has passed")
        self.check_caller()
        return remaining_s

    def check_caller(self) -> None:
        """Check that somebody waits for the answer: one that set no deadline does so for longer than we promise.

        Raises:
            TimeoutError: nobody does, as the deadline has passed.
            CallerLeftError: the caller has left before it.
        """
        if self.abandoned is not None and self.abandoned():
            raise self.caller_left()

    def caller_left(self) -> TimeoutError:
        """Make the error of a call whose caller is gone: because its deadline has passed, or before."""
        if self.at_s - time.monotonic() <= _ROUNDED * self.timeout_s + _LATE_S:
            return TimeoutError("the request's deadline has passed")
        return CallerLeftError("the caller has left")
