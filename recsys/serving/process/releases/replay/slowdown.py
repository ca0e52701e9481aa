"""Slowdown: the ratio of two releases' times, from pairs of runs on a machine that does other things, too."""

from __future__ import annotations

import math
from collections.abc import Sequence

_DEVIATIONS = 3.3
"""Of the number of pairs on one side of the median: one-sided 0.05 %, as it is looked at after every pair."""


def median_ratio(ratios: Sequence[float]) -> float:
    """The median, of at least one."""
    ordered = sorted(ratios)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def side_of_bound(ratios: Sequence[float], bound: float) -> int:
    """Decide from pairs of times if the median of their ratio is below a bound (-1), above (1), or not clear yet (0).

    By order statistics: nothing is assumed of how times scatter, and single pairs that were disturbed do not count for
    more than one.

    >>> side_of_bound([1.0] * 20, 1.5), side_of_bound([2.0] * 20, 1.5), side_of_bound([1.0, 2.0] * 10, 1.5)
    (-1, 1, 0)
    >>> side_of_bound([1.0] * 11, 1.5)
    0
    """
    count = len(ratios)
    outside = math.floor((count - _DEVIATIONS * math.sqrt(count)) / 2)
    if outside < 1:
        return 0
    ordered = sorted(ratios)
    if ordered[-1 - outside] <= bound:
        return -1
    return 1 if ordered[outside] > bound else 0
