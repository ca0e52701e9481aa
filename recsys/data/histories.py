"""Which events each sample's history holds, as positions in the event table; no loop over samples.

``B`` samples of a batch, ``E`` events of their histories, ``N`` events of the table, ``U`` users.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.features.hashing import Int64Array


def first_with_same_time(timestamp_ms: Int64Array, offsets: Int64Array) -> Int64Array:
    """For every event, the position of the first event of its user with its timestamp; [N], int64.

    Args:
        timestamp_ms: sorted within each user; [N].
        offsets: user u's events are offsets[u]:offsets[u + 1]; [U + 1].

    >>> first_with_same_time(np.array([5, 5, 7, 7]), np.array([0, 3, 4])).tolist()
    [0, 0, 2, 3]
    """
    starts = np.ones(len(timestamp_ms), dtype=bool)
    starts[1:] = timestamp_ms[1:] != timestamp_ms[:-1]
    starts[offsets[:-1][offsets[:-1] < len(timestamp_ms)]] = True
    first: Int64Array = np.maximum.accumulate(np.where(starts, np.arange(len(timestamp_ms)), 0))
    return first


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
    positions: Int64Array, offsets: Int64Array, *, wanted: npt.NDArray[np.bool_], limit: int
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
