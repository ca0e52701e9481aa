"""Pace: a model's time for a unit of work, as measured lately. Work: what a request is expected to take."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

_SHARE = 0.1
"""Weight of each new measurement in the mean."""

_LARGEST_STEP = 3.0
"""A measurement counts as at most so many times the mean: one slow moment moves it by a fifth."""


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
    """Exponentially weighted mean of seconds for a unit of work. Safe to use from several threads.

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
        self._lock = threading.Lock()

    def seconds(self, units: float) -> float:
        """Seconds that so many units are expected to take."""
        return self._unit_s * units

    def measured(self, units: float, *, took_s: float) -> None:
        """Learn that so many units took so long."""
        with self._lock:
            unit_s = min(took_s / units, _LARGEST_STEP * self._unit_s)
            self._unit_s += _SHARE * (unit_s - self._unit_s)
