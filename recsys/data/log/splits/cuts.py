"""Times between the parts of a split: exact for any number of samples, in memory of one chunk.

They are found by counting, not by sorting, in at most eight readings of the samples' times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.log.splits.rule import SplitRule

NEVER = int(np.iinfo(np.int64).max)
NO_TIME = int(np.iinfo(np.int64).min)

_TENTHS = (8, 9)
"""Of the samples before validation and before test, by default."""

_BUCKETS = 1 << 16

Times = Callable[[slice], Int64Array]
"""Milliseconds of a slice of the samples."""


@dataclass(frozen=True)
class Cuts:
    """Times from which on samples validate and test; ``NEVER`` for a part that nothing is for."""

    validation: int
    test: int
    chosen: bool


@dataclass
class Moment:
    """A timestamp, and how many samples are before it and up to its end."""

    time_ms: int
    before: int
    through: int


def cuts_of(rule: SplitRule, count: int, chunks: Sequence[slice], times: Times) -> Cuts:
    validation, test = rule.validation_from_ms, rule.test_from_ms
    if validation is not None or test is not None:
        until = NEVER if test is None else test
        return Cuts(until if validation is None else validation, until, chosen=False)
    first, last = NEVER, NO_TIME
    for chunk in chunks:
        moments = times(chunk)
        first, last = min(first, int(moments.min())), max(last, int(moments.max()))
    if first == last:
        return Cuts(NEVER, NEVER, chosen=True)
    shares = [tenths * count // 10 for tenths in _TENTHS]
    found = moments_of_ranks(shares, first, last, chunks, times)
    wanted = [_nearest(moment, share) for moment, share in zip(found, shares, strict=True)]
    # No part is left empty where there are moments for all three.
    second, before_last = _later(first + 1, chunks, times), _earlier(last - 1, chunks, times)
    validation = _later(min(max(wanted[0], second), max(second, before_last)), chunks, times)
    test = _later(max(wanted[1], validation + 1), chunks, times) if validation < last else NEVER
    return Cuts(validation, last if validation < last and test == NEVER else test, chosen=True)


def _nearest(moment: Moment, share: int) -> int:
    """The time of the cut before or after a moment, whichever leaves nearer to ``share`` samples before it."""
    return moment.time_ms if share - moment.before <= moment.through - share else moment.time_ms + 1


def moments_of_ranks(
    ranks: Sequence[int], first: int, last: int, chunks: Sequence[slice], times: Times
) -> list[Moment]:
    """The moments of the samples that have these places in the order of time, counted from 0.

    Each reading counts the samples in 65,536 equal parts of a span of time, and keeps the part that has the place:
    three readings for all times up to the year 9999.
    """
    found = [Moment(first, 0, 0) for _ in ranks]
    widths = [last - first + 1 for _ in ranks]
    while max(widths) > 1:
        sizes = [-(-width // _BUCKETS) for width in widths]
        counts = np.zeros((len(ranks), _BUCKETS), dtype=np.int64)
        for chunk in chunks:
            moments = np.asarray(times(chunk))
            for n, (moment, width, size) in enumerate(zip(found, widths, sizes, strict=True)):
                since = moments - moment.time_ms
                inside = since[(since >= 0) & (since < width)]
                counts[n] += np.bincount(inside // size, minlength=_BUCKETS)
        for n, (moment, rank) in enumerate(zip(found, ranks, strict=True)):
            through = moment.before + np.cumsum(counts[n])
            bucket = int(np.searchsorted(through, rank, side="right"))
            moment.before, moment.through = int(through[bucket] - counts[n][bucket]), int(through[bucket])
            moment.time_ms += bucket * sizes[n]
            widths[n] = sizes[n]
    return found


def _later(time_ms: int, chunks: Sequence[slice], times: Times) -> int:
    """The first moment from a time on; ``NEVER`` if there is none."""
    found = NEVER
    for chunk in chunks:
        moments = np.asarray(times(chunk))
        found = min(found, int(moments[moments >= time_ms].min(initial=NEVER)))
    return found


def _earlier(time_ms: int, chunks: Sequence[slice], times: Times) -> int:
    """The last moment up to a time; ``NO_TIME`` if there is none."""
    found = NO_TIME
    for chunk in chunks:
        moments = np.asarray(times(chunk))
        found = max(found, int(moments[moments <= time_ms].max(initial=NO_TIME)))
    return found
