"""Histories of samples as positions in the event table, found without a loop over samples.

``B`` samples of a batch, ``E`` events of their histories, ``N`` events of the table, ``U`` users.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import BoolArray, Int64Array


def first_at_or_after(
    timestamp_ms: Int64Array, time_ms: Int64Array, *, begin: Int64Array, end: Int64Array
) -> Int64Array:
    """The first position in begin[m]:end[m] with a timestamp of at least time_ms[m], else end[m]; [M], int64.

    Args:
        timestamp_ms: sorted within each begin[m]:end[m]; [N].
        time_ms, begin, end: [M].

    >>> first_at_or_after(
    ...     np.array([5, 5, 7, 1]), np.array([6, 5, 9]), begin=np.array([0, 0, 3]), end=np.array([3, 3, 4])
    ... ).tolist()
    [2, 0, 4]
    """
    # A binary search in all ranges at once: as many rounds as the longest range has bits.
    low, high = begin.astype(np.int64), end.astype(np.int64)
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        open_ = low < high
        middle = (low + high) >> 1
        before = timestamp_ms[np.where(open_, middle, 0)] < time_ms
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def ranges(begin: Int64Array, lengths: Int64Array) -> tuple[Int64Array, Int64Array]:
    """begin[b] : begin[b] + lengths[b] for every b, one after another [E], and their offsets [B + 1].

    >>> positions, offsets = ranges(np.array([10, 0, 4]), np.array([2, 0, 3]))
    >>> positions.tolist(), offsets.tolist()
    ([10, 11, 4, 5, 6], [0, 2, 2, 5])
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths), offsets


def newest(
    positions: Int64Array, offsets: Int64Array, *, wanted: BoolArray, limit: int
) -> tuple[Int64Array, Int64Array]:
    """Of every range keep the wanted positions, and of these the last ``limit``; as from :func:`ranges`.

    >>> kept, offsets = newest(
    ...     np.array([10, 11, 12, 4]), np.array([0, 3, 4]), wanted=np.array([True, True, False, True]), limit=1
    ... )
    >>> kept.tolist(), offsets.tolist()
    ([11, 4], [0, 1, 2])
    """
    before = np.concatenate([[0], np.cumsum(wanted)])
    until_end = np.repeat(before[offsets[1:]], np.diff(offsets)) - before[:-1]
    kept_lengths = np.minimum(np.diff(before[offsets]), limit)
    return positions[wanted & (until_end <= limit)], np.concatenate([[0], np.cumsum(kept_lengths)])
