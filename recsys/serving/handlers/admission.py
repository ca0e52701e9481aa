"""Admission: a request is served when there is room, and refused at once when there is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from recsys.errors import OverloadedError
from recsys.serving.current_call import note_refusal


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
                note_refusal("places")
                raise OverloadedError(f"{self.in_flight} {self._what}, the limit; retry with backoff")
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
