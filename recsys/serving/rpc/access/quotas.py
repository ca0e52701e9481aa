"""Quotas: how often an identity may call, in this worker, by token buckets."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_IDENTITIES = 10_000
"""Identities that are remembered, the last active ones. One that is forgotten begins with a full bucket."""


class Quotas:
    """Buckets, each of one identity and one kind. Safe to use from several threads; a call costs about a microsecond.

    A bucket holds what one second brings, at least one. What costs more than it holds is let through when it is full,
    and paid for afterwards.

    Args:
        most: buckets of each kind that are remembered.
        clock: seconds.
    """

    def __init__(self, *, most: int = MOST_IDENTITIES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = 2 * most
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        """(identity, kind) -> when it was looked at, what it held then."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, identity: str, kind: str, rate: float | None, amount: float = 1.0) -> float:
        """Take from a bucket.

        Args:
            identity: its name.
            kind: of what is counted.
            rate: that flows in per second; None: there is no bound.
            amount: to take.

        Returns:
            0 if it was there and is taken; otherwise nothing is, and it is so many seconds until it may be.
        """
        if rate is None or amount <= 0:
            return 0.0
        holds = max(1.0, rate)
        now_s, key = self._clock(), (identity, kind)
        with self._lock:
            at_s, level = self._buckets.get(key, (now_s, holds))
            level = min(holds, level + (now_s - at_s) * rate)
            wanted = min(amount, holds)
            # Less than a millionth is what sums of floats leave over.
            wait_s = 0.0 if level >= wanted - 1e-6 else (wanted - level) / rate
            self._buckets[key] = now_s, level if wait_s else level - amount
            self._buckets.move_to_end(key)
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        return wait_s
