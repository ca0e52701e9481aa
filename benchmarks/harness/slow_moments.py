"""Slow moments of the machine: a plain loop that does nothing else, timed on its own CPU clock all the time.

Virtual machines slow down by themselves, tenfold for a tenth of a second and more. Time that other threads have the
core does not count here, so a loop that took long says that the machine was slow, not that it was busy.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import Float64Array

_LOOPS = 5_000
"""A fifth of a millisecond: together 1 % of a core."""

_EVERY_S = 0.02
_SLOW = 3.0
"""Times the median."""

_BEFORE_S, _AFTER_S = 0.1, 0.5
"""Around a slow moment: what calls waited for, and until their queue is gone."""


@dataclass(kw_only=True)
class SlowMoments:
    """Times of the loop.

    Attributes:
        at_s: ``time.perf_counter`` seconds at the end of each loop, ascending.
        took_s: its CPU time.
    """

    at_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def slow_share(self, spans: Sequence[tuple[float, float]]) -> float:
        """Share of the loops in these spans of time that were slow."""
        at, slow = np.array(self.at_s), self._slow()
        inside = np.zeros(len(at), dtype=np.bool_)
        for begin_s, end_s in spans:
            inside |= (at >= begin_s) & (at < end_s)
        return float(slow[inside].mean()) if inside.any() else 0.0

    def quiet(self, times_s: Float64Array) -> NDArray[np.bool_]:
        """Test which of these moments (``time.perf_counter``) lie in no slow one, nor shortly before or after it."""
        slow_s = np.array(self.at_s)[self._slow()]
        first = np.searchsorted(slow_s, times_s - _AFTER_S)
        last = np.searchsorted(slow_s, times_s + _BEFORE_S)
        return np.asarray(first == last)

    def _slow(self) -> NDArray[np.bool_]:
        took = np.array(self.took_s)
        return np.asarray(took > _SLOW * np.median(took)) if len(took) else np.zeros(0, dtype=np.bool_)


@contextmanager
def slow_moments(*, core: int | None = None) -> Iterator[SlowMoments]:
    """Watch for slow moments for the duration of a ``with`` block.

    Args:
        core: on which; None: any that this process may use.
    """
    found, stop = SlowMoments(), threading.Event()

    def watch() -> None:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})  # of this thread alone
        while not stop.wait(_EVERY_S):
            began_s = time.thread_time()
            for _ in range(_LOOPS):
                pass
            found.took_s.append(time.thread_time() - began_s)
            found.at_s.append(time.perf_counter())

    thread = threading.Thread(target=watch, name="slow moments", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
