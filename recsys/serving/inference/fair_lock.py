"""FairLock: a lock of the model, acquired first come, first served: nobody waits longer than those before take."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from recsys.serving.deadline import Deadline


class ModelLock(Protocol):
    """Something to be held while a model runs."""

    def acquire(self, deadline: Deadline) -> AbstractContextManager[None]:
        """Hold a place for the duration of a ``with`` block; raises TimeoutError if none comes in time."""
        ...


class FairLock:
    """At most ``limit`` holders at a time. ``threading.Lock`` is not fair: under load it kept some callers for long.

    >>> model_lock = FairLock(1)
    >>> with model_lock.acquire(Deadline.after(1.0)):
    ...     model_lock.waiting
    0
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._mutex = threading.Lock()
        self._queue: deque[threading.Lock] = deque()
        self.acquired = 0
        """Number of times that a place was acquired; never falls."""

    @property
    def waiting(self) -> int:
        """Number of threads that wait."""
        return len(self._queue)

    @contextmanager
    def acquire(self, deadline: Deadline) -> Iterator[None]:
        """Hold a place for the duration of a ``with`` block, after all who came before.

        Raises:
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        """
        self._acquire(deadline)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, deadline: Deadline) -> None:
        with self._mutex:
            if self._free:
                self._free -= 1
                self.acquired += 1
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
            self._release()  # it came in the last moment: hand it on
            raise

    def _release(self) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
                self.acquired += 1
            else:
                self._free += 1
