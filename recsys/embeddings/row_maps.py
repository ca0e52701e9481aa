"""Row maps: how a feature's ids become rows of its embedding table.

A row map is chosen per table in the recipe. It is applied once to the event log for training
(:meth:`RowMap.lookup`), and exported into the ONNX graph (:meth:`RowMap.module`) so that raw ids
go into a bundle. Row 0 of every map is the answer for a missing or unknown id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from recsys.embeddings.id_table import IdTable, IdTableModule, build_id_table
from recsys.errors import InvalidInputError
from recsys.features.hashing import Int64Array

UNKNOWN_ROW = 0


class RowMap(Protocol):
    """Ids to rows; the same bits in numpy, torch and ONNX."""

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table; :meth:`lookup` answers in [0, num_rows)."""
        ...

    def lookup(self, keys: Int64Array) -> Int64Array:
        """Row of each key, ``UNKNOWN_ROW`` for ``MISSING`` and unknown keys; same shape, int64."""
        ...

    def module(self) -> nn.Module:
        """:meth:`lookup` as a module of exportable tensor operations, int64 to int64."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything needed to rebuild the map, by name."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """One row per id seen often enough in training; row 0 for all others.

    Rows are in order of falling frequency, so the rows of frequent ids share memory pages.
    """

    table: IdTable
    num_rows: int

    def lookup(self, keys: Int64Array) -> Int64Array:
        """See :class:`RowMap`."""
        return self.table.lookup(keys)

    def module(self) -> nn.Module:
        """See :class:`RowMap`."""
        return IdTableModule(self.table)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """See :class:`RowMap`."""
        return {**self.table.arrays(), "num_rows": np.array(self.num_rows)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Vocabulary:
        """Inverse of :meth:`arrays`."""
        return cls(table=IdTable.from_arrays(arrays), num_rows=int(arrays["num_rows"]))


def build_vocabulary(ids: Int64Array, counts: Int64Array, *, min_count: int = 1, seed: int = 0) -> Vocabulary:
    """The vocabulary of the ids in training data.

    Args:
        ids: distinct keys, [V], int64.
        counts: how often each occurs, [V], int64.
        min_count: ids seen less often share row 0, which so learns what a rare id is like.
        seed: of the hash functions inside the map.

    >>> vocabulary = build_vocabulary(np.array([3, 7, 9]), np.array([2, 3, 1]), min_count=2)
    >>> vocabulary.lookup(np.array([7, 3, 9, 8, -1])).tolist()
    [1, 2, 0, 0, 0]
    """
    if min_count < 1:
        raise InvalidInputError(f"min_count is {min_count}; allowed: 1 or more")
    ids, counts = ids[counts >= min_count], counts[counts >= min_count]
    ids = ids[np.lexsort((ids, -counts))]
    rows = np.arange(1, len(ids) + 1, dtype=np.int64)
    return Vocabulary(table=build_id_table(ids, rows, seed=seed), num_rows=len(ids) + 1)
