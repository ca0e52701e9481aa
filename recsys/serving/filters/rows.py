"""RowMap: places of items in item columns to rows of an index, and back into what a search takes.

``C`` items of the columns, ``M`` items of the index, ``A`` added ones, ``P`` places.
"""

from __future__ import annotations

import threading

import numpy as np

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.serving.filters.planner import Passing
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.item_columns.generation import Generation


class RowMap:
    """Rows of an index by places in columns, made once and continued as items come. Safe to use from several threads.

    It takes 4 bytes an item in each process.

    Args:
        keys_M: keys of the index's items, ascending: item m has row m + 1.
    """

    def __init__(self, keys_M: Int64Array) -> None:
        self.keys_M = keys_M
        self._lock = threading.Lock()
        self._generation: Generation | None = None
        self._rows_C: Int32Array = np.empty(0, dtype=np.int32)

    def rows(self, generation: Generation) -> Int32Array:
        """Row of each item of the columns, 0 for those that the index has not; int32, [C]."""
        count = len(generation.items)
        with self._lock:
            keys, known = generation.items.keys_C, len(self._rows_C)
            if self._generation is not generation:
                before = self._generation
                if before is None or known > count or not np.array_equal(before.items.keys_C[:known], keys[:known]):
                    known = 0
                self._generation = generation
            if known < count:
                new = self._rows_of(keys[known:count])
                self._rows_C = np.concatenate([self._rows_C[:known], new])
            return self._rows_C[:count]

    def _rows_of(self, keys: Int64Array) -> Int32Array:
        if not len(self.keys_M):
            return np.zeros(len(keys), dtype=np.int32)
        place = np.minimum(np.searchsorted(self.keys_M, keys), len(self.keys_M) - 1)
        return np.where(self.keys_M[place] == keys, place + 1, 0).astype(np.int32)


def allowed_of(passing: Passing, generation: Generation, rows: RowMap, added: AddedItems | None) -> tuple[Allowed, int]:
    """Rows of an index that a search may find, and how many.

    Args:
        passing: items of the columns that pass.
        generation: the columns.
        rows: of the index.
        added: items that take part beside those of the index.
    """
    row_of = rows.rows(generation)
    items = len(rows.keys_M)
    added_A = _added_pass(passing, generation, added)
    if passing.places is not None and not passing.missing:
        found = row_of[passing.places]
        found = found[found > 0]
        if (found[1:] < found[:-1]).any():
            found.sort()
        of_added = items + 1 + np.flatnonzero(added_A)
        rows_L = np.concatenate([found.astype(np.int64), of_added])
        return Allowed(rows_L=rows_L), len(rows_L)
    mask = passing.mask
    if mask is None:
        mask = np.zeros(len(row_of), dtype=np.bool_)
        mask[passing.places] = True
    bits = np.full(items + 1 + len(added_A), passing.missing)
    if len(row_of) == items and items and row_of[0] == 1 and (np.diff(row_of) == 1).all():
        bits[1 : items + 1] = mask
    else:
        bits[row_of] = mask
    bits[0] = False
    bits[items + 1 :] = added_A
    return Allowed(mask=np.packbits(bits, bitorder="little")), int(np.count_nonzero(bits))


def _added_pass(passing: Passing, generation: Generation, added: AddedItems | None) -> BoolArray:
    """True for the added items that pass; bool, [A]."""
    if added is None or not len(added):
        return np.zeros(0, dtype=np.bool_)
    places = generation.items.find(added.keys)
    if passing.mask is not None:
        found = passing.mask[np.minimum(places, len(passing.mask) - 1)] if len(passing.mask) else places < 0
    else:
        assert passing.places is not None
        found = np.isin(places, passing.places)
    return np.where(places < 0, passing.missing, found)
