"""Room and time: a request is served when there is both, and refused at once when there is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from recsys.errors import OverloadedError

Result = TypeVar("Result")

_PASSED = "the request's deadline has passed"


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment (``time.monotonic`` seconds) after which nobody waits for the answer any more."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """The deadline ``timeout_s`` from now."""
        return cls(time.monotonic() + timeout_s)

    def remaining_s(self) -> float:
        """Seconds left.

        Raises:
            TimeoutError: none are.
        """
        remaining_s = self.at_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError(_PASSED)
        return remaining_s

    async def wait(self, work: Awaitable[Result]) -> Result:
        """The result of ``work``, which is cancelled when the deadline passes.

        Raises:
            TimeoutError: it has passed.
        """
        try:
            async with asyncio.timeout(self.at_s - time.monotonic()):
                return await work
        except TimeoutError:
            raise TimeoutError(_PASSED) from None


class Admission:
    """Lets at most ``limit`` requests in. There is no queue: under overload a queue only adds waiting."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_flight = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold one place for the duration of a ``with`` block.

        Raises:
            OverloadedError: all places are taken.
        """
        if self.in_flight >= self._limit:
            raise OverloadedError(f"{self.in_flight} requests are being served, the limit; retry with backoff")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
