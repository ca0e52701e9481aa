"""Drift: how far the scores of a release lately are from those before, as a population stability index (PSI).

The scores before are those of the release that it took over from, all that this server counted of it; a release that
came first has its own first :data:`FIRST` scores. Lately is the last ten minutes, as far as the page was asked for.

With the shares p of the scores lately and q of those before in each of ``families.SCORE_BUCKETS``:
PSI = sum of (p - q) ln(p / q), each count raised by half, so that no share is 0. It is 0 for equal distributions;
below 0.1 nothing has moved, above 0.25 much has (the usual reading; Siddiqi, Credit Risk Scorecards, 2006).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

FEW = 1_000
"""Scores on either side below which nothing is said."""

FIRST = 20_000
"""Scores of a release without a predecessor that later ones are compared with."""

LATELY_S = 600.0
_STEP_S = 60.0

Scores = tuple[int, ...]
"""Scores in each bucket."""


def stability_index(before: Sequence[int], lately: Sequence[int]) -> float | None:
    """The PSI of two histograms of the same buckets; None if either has fewer than :data:`FEW` scores.

    >>> stability_index([500, 500], [5_000, 5_000])
    0.0
    >>> round(stability_index([5_000, 5_000], [9_000, 1_000]), 2)
    0.88
    >>> stability_index([1, 2], [500, 500]) is None
    True
    """
    if sum(before) < FEW or sum(lately) < FEW:
        return None
    q_all, p_all = (sum(counts) + len(counts) / 2 for counts in (before, lately))
    total = 0.0
    for q_count, p_count in zip(before, lately, strict=True):
        q, p = (q_count + 0.5) / q_all, (p_count + 0.5) / p_all
        total += (p - q) * math.log(p / q)
    return max(0.0, round(total, 6))


@dataclass
class _Release:
    """Readings of a release's scores.

    Attributes:
        before: scores to compare with; None: its own first ones, which are not all there yet.
        readings: (``clock`` seconds, scores since it came), a minute apart, the oldest first.
    """

    before: Scores | None
    readings: deque[tuple[float, Scores]] = field(default_factory=deque)


class Drift:
    """The drift of each release in service, from readings of its scores. Used under its owner's lock.

    Args:
        clock: seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._releases: dict[str, _Release] = {}

    def came(self, release: str, predecessor: Scores | None) -> None:
        """Begin with a release; ``predecessor``: scores of the one before it, if there was one with enough of them."""
        known = predecessor if predecessor is not None and sum(predecessor) >= FEW else None
        self._releases[release] = _Release(known)

    def went(self, release: str) -> None:
        """Forget a release."""
        self._releases.pop(release, None)

    def read(self, release: str, scores: Scores) -> float | None:
        """Take a reading of a release's scores since it came; its drift, or None if too few are known."""
        found = self._releases.get(release)
        if found is None:
            return None
        now_s, nothing = self._clock(), (0,) * len(scores)
        if found.before is None and sum(scores) >= FIRST:
            found.before = scores
            found.readings.clear()
            found.readings.append((now_s, scores))
        readings = found.readings
        if not readings:
            readings.append((now_s, nothing if found.before is not None else scores))
        elif now_s - readings[-1][0] >= _STEP_S:
            readings.append((now_s, scores))
        while len(readings) > 1 and now_s - readings[1][0] >= LATELY_S:
            readings.popleft()
        if found.before is None:
            return None
        lately = tuple(now - then for now, then in zip(scores, readings[0][1], strict=True))
        return stability_index(found.before, lately)
