"""Exponential back-off: ever longer waits between tries."""

from __future__ import annotations

import random


def backoff_s(failures: int, *, first_s: float, longest_s: float, jitter: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row: ``first_s``, then twice as long each time up to ``longest_s``.

    Args:
        failures: in a row; after none there is no wait.
        first_s: the wait after the first failure.
        longest_s: no wait is longer.
        jitter: in [0, 1]: the wait is shortened by up to this share at random, lest many try together.

    >>> [backoff_s(failures, first_s=0.25, longest_s=10.0) for failures in (0, 1, 2, 3, 100)]
    [0.0, 0.25, 0.5, 1.0, 10.0]
    """
    if failures < 1:
        return 0.0
    wait_s = min(longest_s, first_s * 2.0 ** min(failures - 1, 60))
    return wait_s * random.uniform(1.0 - jitter, 1.0)
