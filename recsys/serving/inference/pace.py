"""Pace: what work of a model takes, as measured lately. Work: what a request is expected to take."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

_SHARE = 0.1
"""Weight of each new measurement in the mean."""

_LARGEST_STEP = 3.0
"""A measurement counts as at most so many times what was expected: one slow moment moves the mean by a fifth."""

_ALIKE = 0.01
"""Variance over the mean's square below which all work is alike, and a line through the origin is taken."""


@dataclass(frozen=True, slots=True)
class Work:
    """Expected work of a request on what serves one at a time.

    Attributes:
        seconds: all of it.
        longest_s: its longest piece; between two pieces others have their turn.
    """

    seconds: float
    longest_s: float


UNKNOWN = Work(0.0, 0.0)


def together(works: Iterable[Work]) -> Work:
    """Add up the work of several requests that one call brings.

    >>> together([Work(3.0, 2.0), Work(1.0, 1.0)])
    Work(seconds=4.0, longest_s=2.0)
    """
    every = list(works)
    return Work(sum(work.seconds for work in every), max((work.longest_s for work in every), default=0.0))


class Pace:
    """Line through the times of late: seconds that do not depend on the work, and seconds for a unit of it.

    Both are of exponentially weighted means, variance and covariance. A mean of seconds for a unit alone would let a
    caller of many tiny requests make those of all others look dear, and one of large ones make them look cheap. While
    all work is alike, only what goes through the origin is known. Safe to use from several threads.

    One slow moment hardly moves it; a machine that stays ten times slower is known after some fifteen measurements.

    Args:
        guess_s: seconds for a unit, until it is measured.

    >>> pace = Pace(0.001)
    >>> pace.measured(100, took_s=0.1)
    >>> round(pace.seconds(200), 3)
    0.2
    """

    def __init__(self, guess_s: float) -> None:
        self._unit_s = guess_s
        self._fixed_s = 0.0
        self._units = self._took_s = self._variance = self._covariance = 0.0
        self._lock = threading.Lock()

    def seconds(self, units: float) -> float:
        """Seconds that so many units are expected to take."""
        return self._fixed_s + self._unit_s * units

    def measured(self, units: float, *, took_s: float) -> None:
        """Learn that so many units took so long."""
        with self._lock:
            if not self._units:
                self._units, self._took_s = units, self.seconds(units)
            by_units = units - self._units
            by_s = min(took_s, _LARGEST_STEP * self.seconds(units)) - self._took_s
            self._units += _SHARE * by_units
            self._took_s += _SHARE * by_s
            self._variance = (1 - _SHARE) * (self._variance + _SHARE * by_units * by_units)
            self._covariance = (1 - _SHARE) * (self._covariance + _SHARE * by_units * by_s)
            alike, through_origin_s = _ALIKE * self._units**2, self._took_s / self._units
            slope_s = (self._covariance + alike * through_origin_s) / (self._variance + alike)
            self._unit_s = min(max(slope_s, 0.0), through_origin_s)
            self._fixed_s = self._took_s - self._unit_s * self._units
