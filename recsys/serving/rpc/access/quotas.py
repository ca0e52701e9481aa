"""Quotas: how often an identity may call, by token buckets that a server's workers share."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from recsys.serving.rpc.access.usage import Taken, Usage, quota_hash

MOST_IDENTITIES = 10_000
"""Identities that are remembered, the last active ones. One that is forgotten begins with a full bucket."""


class _Bucket(NamedTuple):
    """A bucket as it was looked at last.

    Attributes:
        at_s: when.
        level: what it held.
        quota: its name in ``usage``.
        by_others: what other workers had taken, each.
    """

    at_s: float
    level: float
    quota: int
    by_others: list[int]


class Quotas:
    """Buckets, each of one identity and one kind. Safe to use from several threads; a call costs a few microseconds,
    and one more for each other worker.

    A bucket holds what one second brings, at least one. What costs more than it holds is let through when it is full,
    and paid for afterwards. Workers see what the others took, and need no lock for it: of two that take in the same few
    microseconds both may take the last of a bucket, which is then paid for.

    Args:
        most: buckets of each kind that are remembered.
        clock: seconds.
        usage: of all workers; None: there is one.
    """

    def __init__(
        self,
        *,
        most: int = MOST_IDENTITIES,
        clock: Callable[[], float] = time.monotonic,
        usage: Usage | None = None,
    ) -> None:
        self._most = 2 * most
        self._clock = clock
        self._usage = usage
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        """By identity and kind."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, identity: str, kind: str, rate: float | None, amount: int = 1) -> float:
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
        key = identity, kind
        with self._lock:
            now_s, bucket = self._clock(), self._buckets.get(key)
            quota = quota_hash(identity, kind) if bucket is None else bucket.quota
            others = [] if self._usage is None else self._usage.by_others(quota)
            level = holds
            if bucket is not None:
                level = bucket.level + (now_s - bucket.at_s) * rate - _more(bucket.by_others, others)
            # Nobody has left more than that: it may know of what was taken while this worker did not look.
            level = min(holds, level, *(other.level + (now_s - other.at_s) * rate for other in others))
            wanted = min(amount, holds)
            # Less than a millionth is what sums of floats leave over.
            wait_s = 0.0 if level >= wanted - 1e-6 else (wanted - level) / rate
            if not wait_s:
                level -= amount
                if self._usage is not None:
                    self._usage.add(quota, amount, now_s=now_s, level=level)
            self._buckets[key] = _Bucket(now_s, level, quota, [other.amount for other in others])
            self._buckets.move_to_end(key)
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        return wait_s


def _more(before: list[int], others: list[Taken]) -> int:
    """Sum of what others have taken since; an amount that is smaller than before began anew."""
    now = [other.amount for other in others]
    return sum(new - old if new >= old else new for old, new in zip(before, now, strict=True))
