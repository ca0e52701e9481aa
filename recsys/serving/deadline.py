"""Deadline: the moment after which nobody waits for an answer any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment (``time.monotonic`` seconds) after which nobody waits for the answer any more.

    Attributes:
        at_s: that moment.
        abandoned: whether the caller has left before it; asked as often as :meth:`remaining_s`.
        when_left: takes a function and calls it when the call has ended or its caller has left; False if that has been.
    """

    at_s: float
    abandoned: Callable[[], bool] | None = None
    when_left: Callable[[Callable[[], None]], bool] | None = None

    @classmethod
    def after(
        cls,
        timeout_s: float,
        *,
        abandoned: Callable[[], bool] | None = None,
        when_left: Callable[[Callable[[], None]], bool] | None = None,
    ) -> Deadline:
        """The deadline ``timeout_s`` from now."""
        return cls(time.monotonic() + timeout_s, abandoned, when_left)

    def remaining_s(self) -> float:
        """Seconds left. Cheap (2 us): ask before whatever takes long.

        Raises:
            TimeoutError: none are, or the caller has left.
        """
        remaining_s = self.at_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("the request's deadline has passed")
        if self.abandoned is not None and self.abandoned():
            raise TimeoutError("the caller has left")
        return remaining_s
