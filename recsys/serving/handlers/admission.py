"""Room and time: a request is served when there is both, and refused at once when there is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from recsys.errors import OverloadedError


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment (``time.monotonic`` seconds) after which nobody waits for the answer any more.

    Attributes:
        at_s: that moment.
        abandoned: whether the caller has left before it; asked as often as :meth:`remaining_s`.
    """

    at_s: float
    abandoned: Callable[[], bool] | None = None

    @classmethod
    def after(cls, timeout_s: float, *, abandoned: Callable[[], bool] | None = None) -> Deadline:
        """The deadline ``timeout_s`` from now."""
        return cls(time.monotonic() + timeout_s, abandoned)

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


class Admission:
    """Lets at most ``limit`` in, from any thread. There is no queue: under overload a queue only adds waiting.

    Args:
        limit: places.
        what: begins the message of a refusal, after their number.
    """

    def __init__(self, limit: int, *, what: str = "requests are being served") -> None:
        self._limit = limit
        self._what = what
        self._lock = threading.Lock()
        self.in_flight = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold one place for the duration of a ``with`` block.

        Raises:
            OverloadedError: all places are taken.
        """
        with self._lock:
            if self.in_flight >= self._limit:
                raise OverloadedError(f"{self.in_flight} {self._what}, the limit; retry with backoff")
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
