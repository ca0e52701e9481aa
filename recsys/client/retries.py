"""Retries after a refusal for load: the server says when, the call's timeout says if."""

from __future__ import annotations

import time
from collections.abc import Callable

from recsys.client.types import Overloaded

MOST = 2
"""Times that a refused call is made again."""


class Retries:
    """The time of one call, in which it may be made again.

    Args:
        timeout_s: of the call with all repetitions.
        clock: seconds.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline_s = clock() + timeout_s
        self._left = MOST

    def left_s(self) -> float:
        """Seconds left of the timeout; 0 or less: none."""
        return self._deadline_s - self._clock()

    def wait_s(self, error: Overloaded) -> float:
        """Seconds to wait before the refused call is made again.

        Raises:
            Overloaded: the error itself: the server did not say when, or the timeout is over by then, or the call was
                made again often enough. A server that is full gains nothing by more calls.
        """
        if error.retry_after_s is None or not self._left or error.retry_after_s >= self.left_s():
            raise error
        self._left -= 1
        return error.retry_after_s
