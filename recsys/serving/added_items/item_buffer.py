"""ItemBuffer: added items with their rows, and snapshots of them that never change.

A row is written once, behind all others, so that a snapshot, whose rows are the first of the buffer's, stays as it is
while searches read it. What a change costs is the new row, and keys and places of all items, which are sorted: rows are
copied only when there is no room behind them, or too many are no item's any more.

Legend: ``A`` items, ``P`` rows, some of them no item's, ``R`` columns of a row, ``N`` items looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.features.hashing import MISSING
from recsys.serving.inference.candidate_index import AddedItems

_SPARE = 64


def _room(items: int) -> int:
    """Rows for so many items: a quarter more, so that each that is written is copied four times at most, on average."""
    return items + items // 4 + _SPARE


class ItemBuffer:
    """Items with a key, a row, the time of their last write and perhaps a name. One thread changes it."""

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._used = 0
        """Rows that were written; what lies behind them is in no snapshot."""
        self._rows_PR: Float32Array = np.empty((0, 0), dtype=np.float32)
        self._keys_P: Int64Array = np.empty(0, dtype=np.int64)
        """Of each row the item, ``MISSING`` for none."""
        self._times_ms_P: Int64Array = np.empty(0, dtype=np.int64)
        self._names_P: list[str] = []

    def __len__(self) -> int:
        return len(self._place)

    @property
    def keys(self) -> Int64Array:
        """The items, [A], those whose rows were written last behind the others."""
        return self._keys_P[self._taken()]

    @property
    def times_ms(self) -> Int64Array:
        """Times of the last writes, as of :attr:`keys`; 0: not known."""
        return self._times_ms_P[self._taken()]

    def has(self, keys: Int64Array) -> BoolArray:
        """True for those of these items, [N], that are there."""
        place = self._place
        return np.fromiter((key in place for key in keys.tolist()), dtype=np.bool_, count=len(keys))

    def put(self, key: int, row: Float32Array, *, time_ms: int, name: str) -> str:
        """Have an item with this row, [R].

        Returns:
            ``added``, ``changed``: it had another row, or ``same``.
        """
        before = self._place.get(key)
        if before is not None and np.array_equal(self._rows_PR[before], row) and self._names_P[before] == name:
            self._times_ms_P[before] = time_ms
            return "same"
        if self._used == len(self._rows_PR):
            self._copy(columns=len(row))
        self.pop(key)
        place = self._place[key] = self._used
        self._rows_PR[place], self._keys_P[place], self._times_ms_P[place] = row, key, time_ms
        self._names_P.append(name)
        self._used += 1
        return "added" if before is None else "changed"

    def pop(self, key: int) -> bool:
        """Have an item no more; False if it was not there."""
        place = self._place.pop(key, None)
        if place is not None:
            self._keys_P[place] = MISSING
        return place is not None

    def goes_first(self) -> tuple[int, int] | None:
        """Time and key of the item that is the first to go where there is no room: of those that were written first
        that of the largest key; None: there is none."""
        if not self._place:
            return None
        times_ms_A = self.times_ms
        oldest_ms = times_ms_A.min()
        return int(oldest_ms), int(self.keys[times_ms_A == oldest_ms].max())

    def beyond(self, most: int) -> Int64Array:
        """Items that go where there is room for so many, [N], the last to go first."""
        if len(self) <= most:
            return np.empty(0, dtype=np.int64)
        keys_A, times_ms_A = self.keys, self.times_ms
        count = len(keys_A) - most
        oldest = np.flatnonzero(times_ms_A <= np.partition(times_ms_A, count - 1)[count - 1])
        order = np.lexsort((keys_A[oldest], -times_ms_A[oldest]))
        return keys_A[oldest[order[-count:]]]

    def snapshot(self, *, named: bool) -> AddedItems | None:
        """The items as they are now; None if there is none.

        Args:
            named: with their names.
        """
        if not self._place:
            return None
        if self._used > _room(len(self)):
            self._copy(columns=self._rows_PR.shape[1])
        places_A = self._taken()
        places_A = places_A[np.argsort(self._keys_P[places_A])]
        rows_PR = self._rows_PR[: self._used]
        rows_PR.flags.writeable = False
        names: Sequence[str] | None = self._names_P if named else None
        return AddedItems(self._keys_P[places_A], rows_PR, names, places_A)

    def _taken(self) -> Int64Array:
        return np.flatnonzero(self._keys_P[: self._used] != MISSING)

    def _copy(self, *, columns: int) -> None:
        """Go on with copies of the items' rows, and room for others behind them; those of snapshots stay."""
        taken, length = self._taken(), _room(len(self))
        rows_PR = np.empty((length, columns), dtype=np.float32)
        keys_P = np.full(length, MISSING)
        times_ms_P = np.zeros(length, dtype=np.int64)
        self._used = len(taken)
        if len(taken):
            np.take(self._rows_PR, taken, axis=0, out=rows_PR[: len(taken)], mode="clip")  # without a copy between
        keys_P[: len(taken)], times_ms_P[: len(taken)] = self._keys_P[taken], self._times_ms_P[taken]
        self._names_P = [self._names_P[place] for place in taken.tolist()]
        self._rows_PR, self._keys_P, self._times_ms_P = rows_PR, keys_P, times_ms_P
        self._place = {key: place for place, key in enumerate(keys_P[: len(taken)].tolist())}
