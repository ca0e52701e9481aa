"""KeyTable: places of 62-bit keys, in the order in which they came, in arrays that processes may share.

An index of open addressing (linear probing, at most half full) leads from a key to its place. All is numpy: a thousand
keys are looked up in some 50 us. ``N`` keys asked for, ``C`` places, ``H`` slots of the index, a power of two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int32Array, Int64Array

_MIX = np.uint64(0x9E3779B97F4A7C15)
_MOST_STEPS = 4_096
"""Of a probe: no run of full slots is as long; a reader beside a writer might see one without end."""


def index_size(capacity: int) -> int:
    """H of a table of C = ``capacity`` places.

    >>> index_size(1000)
    2048
    """
    return 1 << (2 * max(capacity, 8) - 1).bit_length()


class KeyTable:
    """Finds and adds keys. One thread of one process adds at a time.

    Args:
        keys_C: int64, [C].
        index_H: place + 1 of a key, 0 where there is none; int32, [H].
        count_1: number of keys; uint64, [1].
    """

    def __init__(self, keys_C: Int64Array, index_H: Int32Array, count_1: npt.NDArray[np.uint64]) -> None:
        self.keys_C, self._index_H, self._count_1 = keys_C, index_H, count_1
        self._mask = len(index_H) - 1
        self._shift = np.uint64(64 - (len(index_H) - 1).bit_length())

    def __len__(self) -> int:
        return int(self._count_1[0])

    @property
    def capacity(self) -> int:
        """C."""
        return len(self.keys_C)

    def find(self, keys: Int64Array) -> Int64Array:
        """Place of each key, -1 for others; int64, [N]."""
        places = np.full(len(keys), -1, dtype=np.int64)
        left, at = np.arange(len(keys)), self._first(keys)
        for _ in range(_MOST_STEPS):
            found = self._index_H[at].astype(np.int64) - 1
            full = found >= 0
            same = full & (self.keys_C[found] == keys[left])
            places[left[same]] = found[same]
            on = full & ~same
            if not on.any():
                break
            left, at = left[on], (at[on] + 1) & self._mask
        return places

    def add(self, keys: Int64Array) -> Int64Array:
        """Place of each key, which those that were not there get behind the others, in ascending order; int64, [N].

        As many as there is room for: of those that found none it is -1.
        """
        places = self.find(keys)
        new = np.unique(keys[places < 0])
        count = len(self)
        new = new[: max(self.capacity - count, 0)]
        if not len(new):
            return places
        self._put(new, count)
        return self.find(keys)

    def load(self, keys: Int64Array) -> None:
        """Have an empty table hold these distinct keys, in this order."""
        self._put(keys, 0)

    def _put(self, new: Int64Array, count: int) -> None:
        self.keys_C[count : count + len(new)] = new
        left, at = np.arange(count, count + len(new)), self._first(new)
        while len(left):
            free = self._index_H[at] == 0
            self._index_H[at[free]] = left[free] + 1  # of several the last one has it
            lost = self._index_H[at] != left + 1
            left, at = left[lost], (at[lost] + 1) & self._mask
        self._count_1[0] = count + len(new)

    def _first(self, keys: Int64Array) -> Int64Array:
        return ((keys.view(np.uint64) * _MIX) >> self._shift).view(np.int64)
