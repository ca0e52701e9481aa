"""Turns: who may run the model next. First come, first served, so that nobody waits longer than those before take."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from recsys.serving.deadline import Deadline


class Turns:
    """At most ``limit`` holders at a time. ``threading.Lock`` is not fair: under load it kept some callers for long.

    >>> turns = Turns(1)
    >>> with turns.taken(Deadline.after(1.0)):
    ...     turns.waiting
    0
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._mutex = threading.Lock()
        self._queue: deque[threading.Lock] = deque()
        self.given = 0
        """How often somebody got a place; never falls."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @contextmanager
    def taken(self, deadline: Deadline) -> Iterator[None]:
        """Hold a place for the duration of a ``with`` block, after all who came before.

        Raises:
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        """
        self._take(deadline)
        try:
            yield
        finally:
            self._give()

    def _take(self, deadline: Deadline) -> None:
        with self._mutex:
            if self._free:
                self._free -= 1
                self.given += 1
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        try:
            if mine.acquire(timeout=deadline.remaining_s()):
                return
            deadline.remaining_s()
            raise TimeoutError("the request's deadline has passed")
        except BaseException:
            with self._mutex:
                if mine in self._queue:
                    self._queue.remove(mine)
                    raise
            self._give()  # it came in the last moment: hand it on
            raise

    def _give(self) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
                self.given += 1
            else:
                self._free += 1
