"""FairLock: a lock of the model, acquired first come, first served: nobody waits longer than those before take."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from recsys.errors import OverloadedError
from recsys.serving.current_call import note_refusal
from recsys.serving.deadline import Deadline
from recsys.serving.inference.pace import Pace


class ModelLock(Protocol):
    """Something to be held while a model runs."""

    def acquire(
        self, deadline: Deadline, *, pace: Pace | None = None, units: float = 0.0, more: float = 0.0
    ) -> AbstractContextManager[None]:
        """Hold a place for the duration of a ``with`` block; raises TimeoutError if none comes in time.

        Args:
            deadline: of the work.
            pace: of the model; learns how long the block took, if it ends well.
            units: of the block's work.
            more: units that the same request needs after it.
        """
        ...


class _Waiter:
    """A thread in the queue.

    Attributes:
        called: locked until its turn has come, or its caller has left.
        granted_s: when its turn came; None: not yet.
    """

    __slots__ = ("called", "granted_s")

    def __init__(self) -> None:
        self.called = threading.Lock()
        self.called.acquire()
        self.granted_s: float | None = None


class FairLock:
    """At most ``limit`` holders at a time. ``threading.Lock`` is not fair: under load it kept some callers for long.

    Args:
        limit: places.
        clock: seconds.

    >>> model_lock = FairLock(1)
    >>> with model_lock.acquire(Deadline.after(1.0)):
    ...     model_lock.waiting
    0
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = limit
        self._clock = clock
        self._mutex = threading.Lock()
        self._queue: deque[_Waiter] = deque()
        self.acquired = 0
        """Number of times that a place was acquired; never falls."""

    @property
    def waiting(self) -> int:
        """Number of threads that wait."""
        return len(self._queue)

    @contextmanager
    def acquire(
        self, deadline: Deadline, *, pace: Pace | None = None, units: float = 0.0, more: float = 0.0
    ) -> Iterator[None]:
        """Hold a place for the duration of a ``with`` block, after all who came before.

        Who has to wait leaves the queue at once when its caller does, and as soon as too little time is left for its
        work: then the model does not run in vain, and those behind have their turn sooner.

        Args:
            deadline: of the work.
            pace: of the model: says how long the work takes, and learns how long the block took, from the moment in
                which the place was free. Under load that is what a call costs, with all that surrounds the model.
            units: of the block's work.
            more: units that the same request needs after it.

        Raises:
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
            OverloadedError: the deadline has not passed, but it would before the work is done.
        """
        granted_s = self._acquire(deadline, 0.0 if pace is None else pace.seconds(units + more))
        done = False
        try:
            yield
            done = True
        finally:
            if done and pace is not None:
                pace.measured(units, took_s=self._clock() - granted_s)
            self._release()

    def _acquire(self, deadline: Deadline, needs_s: float) -> float:
        """Wait for a place; returns since when it was free."""
        with self._mutex:
            if self._free:
                self._free -= 1
                self.acquired += 1
                return self._clock()
            mine = _Waiter()
            self._queue.append(mine)
        try:
            if deadline.when_left is not None and not deadline.when_left(lambda: self._leave(mine)):
                self._leave(mine)
            called = mine.called.acquire(timeout=max(0.0, deadline.remaining_s() - needs_s))
            self._withdraw(mine)
            if mine.granted_s is not None:
                return mine.granted_s
            left_s = deadline.remaining_s()
            if called:
                raise deadline.caller_left()
            if not needs_s:
                raise TimeoutError("the request's deadline has passed")
            note_refusal("time_left")
            raise OverloadedError(
                f"{1e3 * left_s:.0f} ms are left of the deadline, the model needs {1e3 * needs_s:.0f} ms, and others "
                "are before it"
            )
        except BaseException:
            self._withdraw(mine)
            if mine.granted_s is not None:
                self._release()  # it came in the last moment: hand it on
            raise

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Take it out of the queue; False if it is not there any more."""
        with self._mutex:
            if waiter not in self._queue:
                return False
            self._queue.remove(waiter)
            return True

    def _leave(self, waiter: _Waiter) -> None:
        if self._withdraw(waiter):
            waiter.called.release()

    def _release(self) -> None:
        """Give a place to who waits longest."""
        with self._mutex:
            if self._queue:
                following = self._queue.popleft()
                following.granted_s = self._clock()
                following.called.release()
                self.acquired += 1
            else:
                self._free += 1
