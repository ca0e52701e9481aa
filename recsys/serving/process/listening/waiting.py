"""WaitingCalls: calls whose message is not here yet, or whose answer nobody takes. Each waits for a limited time, and
only so many wait.

A call that is opened and sends nothing costs its caller a hundred bytes. Here it costs some memory, and no thread.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

EarlyEnd = Literal["late", "crowded_out", "draining"]
"""Reasons to end a call that waits."""

_POLL_S = 0.25
_TIDY_S = 3.0
_CROWD = 0.25
"""Share of the places that is a crowd."""


@dataclass(frozen=True, slots=True, eq=False)
class WaitingCall:
    """A call that waits for its message.

    Attributes:
        since_s: ``time.monotonic`` seconds.
        limit_s: how long it may wait.
        end: ends it, for that reason, after so many seconds.
        size_bytes: kept for it.
    """

    since_s: float
    limit_s: float
    end: Callable[[EarlyEnd, float], None]
    size_bytes: int = 0


class WaitingCalls:
    """The calls that wait for their callers. Safe to use from several threads.

    Args:
        most: so many may wait; the oldest is ended for one more.
        most_bytes: so much may be kept for them all; the oldest are ended for more.
        after_crowd: called every few seconds while many wait or leave early, and once after: they leave holes in the
            memory.
    """

    def __init__(
        self, most: int, *, most_bytes: float = math.inf, after_crowd: Callable[[], None] = lambda: None
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._after_crowd = after_crowd
        self._crowded = False
        self._left = 0
        self._lock = threading.Lock()
        self._by_limit: dict[float, dict[WaitingCall, None]] = {}
        """By the time they may wait: in each the oldest, which is also the next to be late, comes first."""
        self._end_all_at_s = math.inf
        self._longest_s = math.inf

    def __len__(self) -> int:
        return sum(map(len, self._by_limit.values()))

    def add(self, limit_s: float, end: Callable[[EarlyEnd, float], None], *, size_bytes: int = 0) -> WaitingCall:
        """Let a call wait, for which so much is kept; ends the oldest if too many do, or too much is."""
        call, ended = WaitingCall(time.monotonic(), limit_s, end, size_bytes), []
        with self._lock:
            while len(self) >= self._most or (self._bytes and self._bytes + size_bytes > self._most_bytes):
                oldest = self._pop_oldest()
                assert oldest is not None
                ended.append(oldest)
            self._by_limit.setdefault(limit_s, {})[call] = None
            self._bytes += size_bytes
            self._crowded |= len(self) > _CROWD * self._most
        for oldest in ended:
            oldest.end("crowded_out", call.since_s - oldest.since_s)
        return call

    def remove(self, call: WaitingCall) -> bool:
        """Let a call wait no longer; False: it was ended before."""
        with self._lock:
            return self._pop(call)

    def note_left(self) -> None:
        """Note that a caller has left while its call waited: they may be many, though few wait at a time."""
        with self._lock:
            self._left += 1
            if self._left > _CROWD * self._most:
                self._left, self._crowded = 0, True

    def end_all_in(self, seconds: float) -> None:
        """End in so many seconds whatever waits then, and comes later: the server drains."""
        self._end_all_at_s = time.monotonic() + seconds

    def shorten(self, limit_s: float) -> None:
        """Let none wait for longer than that, from now on."""
        self._longest_s = limit_s

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """End calls that are late, in a thread, for the duration of a ``with`` block."""
        stop = threading.Event()

        def work() -> None:
            tidied_s = 0.0
            while not stop.wait(_POLL_S):
                self.end_late()
                if self._crowded and time.monotonic() - tidied_s > _TIDY_S:
                    self._crowded = False
                    self._after_crowd()
                    tidied_s = time.monotonic()

        thread = threading.Thread(target=work, name="late calls", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def end_late(self) -> None:
        """End all calls that have waited for too long."""
        now_s = time.monotonic()
        draining = now_s >= self._end_all_at_s
        while True:
            with self._lock:
                late = self._pop_oldest() if draining else self._pop_late(now_s)
            if late is None:
                return
            late.end("draining" if draining else "late", now_s - late.since_s)

    def _pop_late(self, now_s: float) -> WaitingCall | None:
        for calls in self._by_limit.values():
            first = next(iter(calls), None)
            if first is not None and now_s - first.since_s >= min(first.limit_s, self._longest_s):
                self._pop(first)
                return first
        return None

    def _pop_oldest(self) -> WaitingCall | None:
        firsts = [first for calls in self._by_limit.values() if (first := next(iter(calls), None)) is not None]
        if not firsts:
            return None
        oldest = min(firsts, key=lambda call: call.since_s)
        self._pop(oldest)
        return oldest

    def _pop(self, call: WaitingCall) -> bool:
        if self._by_limit[call.limit_s].pop(call, call) is call:
            return False
        self._bytes -= call.size_bytes
        return True
