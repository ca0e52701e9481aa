"""Admission: a request is served when there is room and time for it, and refused at once when there is not."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from recsys.errors import OverloadedError
from recsys.serving.current_call import note_refusal
from recsys.serving.inference.pace import UNKNOWN, Work

_USED = 0.7
"""Share of the time left that the expected wait and work may take: the rest is for what nobody expects."""

_SPREAD = 1.5
"""The longest hint when to retry over the shortest: those who were refused together are not to come back together."""

_MOST_TURNS = 1e6


class Admission:
    """Lets a request in if those before it leave it enough of its time, and at most ``limit`` at once, from any thread.

    Who is in may wait for a model or a store; who could not be answered in time is never in. So the queue is as long as
    the callers' deadlines allow, and what is answered is answered in time.

    Args:
        limit: places: a bound for memory and threads.
        what: begins the message of a refusal for want of a place, after their number.
    """

    def __init__(self, limit: int, *, what: str = "requests are being served") -> None:
        self._limit = limit
        self._what = what
        self._lock = threading.Lock()
        self._all_ns = self._pieces_ns = 0  # whole numbers: what is added and taken away again leaves nothing
        self.in_flight = 0
        self.asked = 0
        """Requests that have asked for a place; never falls."""

    @contextmanager
    def enter(self, work: Work = UNKNOWN, *, left_s: float = math.inf) -> Iterator[None]:
        """Hold a place for the duration of a ``with`` block.

        Args:
            work: of the request.
            left_s: seconds until its deadline.

        Raises:
            OverloadedError: all places are taken, or the deadline would pass before it is answered; says when to retry,
                as does one from within the block.
        """
        all_ns, piece_ns = round(1e9 * work.seconds), round(1e9 * work.longest_s)
        with self._lock:
            self.asked += 1
            if (refusal := self.refusal(work, left_s=left_s)) is not None:
                raise refusal
            self.in_flight += 1
            self._all_ns += all_ns
            self._pieces_ns += piece_ns
        try:
            yield
        except OverloadedError as error:
            if error.retry_after_s is None:
                error.retry_after_s = self._retry_after_s(self._pieces_ns / 1e9)
            raise
        finally:
            with self._lock:
                self.in_flight -= 1
                self._all_ns -= all_ns
                self._pieces_ns -= piece_ns

    def refusal(self, work: Work = UNKNOWN, *, left_s: float, more: int = 0) -> OverloadedError | None:
        """Make the error that :meth:`enter` would raise now; None: none. Unknown work is taken to be like the others'.

        Args:
            work: of the request.
            left_s: seconds until its deadline.
            more: requests like the others that are on their way in.
        """
        seconds, wait_s = work.seconds, self._pieces_ns / 1e9
        if work.longest_s:  # it waits for a piece of each of the others before each of its own, while they have any
            turns = max(1, math.ceil(min(work.seconds / work.longest_s, _MOST_TURNS)))
            wait_s = min(turns * wait_s, self._all_ns / 1e9)
        elif work is UNKNOWN and self.in_flight:
            seconds = wait_s / self.in_flight
            wait_s += more * seconds
        if self.in_flight >= self._limit:
            note_refusal("places")
            reason = f"{self.in_flight} {self._what}, the limit"
        # Alone it is always let in: were the expectation wrong, nothing else could mend it.
        elif self.in_flight and wait_s + seconds > _USED * left_s:
            note_refusal("time_left")
            reason = f"{self.in_flight} {self._what}, which takes {1e3 * wait_s:.0f} ms"
            reason += f" and this one {1e3 * seconds:.0f} ms" if seconds else ""
            reason += f"; {1e3 * left_s:.0f} ms are left of its deadline, {_USED:.0%} of which may be planned"
        else:
            return None
        retry_after_s = self._retry_after_s(wait_s)
        when = "with backoff" if retry_after_s is None else f"after {math.ceil(1e3 * retry_after_s)} ms"
        return OverloadedError(f"{reason}; retry {when}", retry_after_s=retry_after_s)

    def _retry_after_s(self, wait_s: float) -> float | None:
        """Seconds until those who are in now are gone; None: nobody knows."""
        return wait_s * random.uniform(1.0, _SPREAD) if wait_s else None
