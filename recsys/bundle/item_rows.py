"""ItemRows: rows that a bundle's graph ``item`` makes of items that the bundle has not, and which of them count.

``A`` items, ``P`` rows, ``R`` columns of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.bundle.manifest import TensorInfo
from recsys.features.columns import Column
from recsys.features.hashing import MISSING

ITEM_OUTPUTS = ("rows", "known")
"""Outputs of a graph ``item``: of each item its row, float32 [A, R], and how many of its attributes the model knows,
int64 [A]."""

LARGEST = 1e9
"""Largest size of a number in a row: the product of two such rows, summed, is a number still."""


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Rows of items, made of what the items are.

    Attributes:
        rows: float32, [A, R].
        known: how many of each item's attributes the model knows; of 0 the row says nothing; int64, [A].
    """

    rows: Float32Array
    known: Int64Array

    @property
    def bounded(self) -> BoolArray:
        """True for rows of numbers that are no larger than ``LARGEST``; bool, [A]."""
        return np.asarray((np.abs(self.rows) <= LARGEST).all(axis=1))

    @property
    def usable(self) -> BoolArray:
        """True for items with something known of them, and bounded rows: they can be found; bool, [A]."""
        return np.asarray((self.known > 0) & self.bounded)


def added_inputs(width: int) -> dict[str, TensorInfo]:
    """Inputs of ``retrieve`` in a bundle with a graph ``item``: keys of items that are not in the bundle, which of the
    rows is each one's, and the rows."""
    return {
        "added.items": TensorInfo(dtype="int64", shape=("A",)),
        "added.places": TensorInfo(dtype="int64", shape=("A",)),
        "added.rows": TensorInfo(dtype="float32", shape=("P", width)),
    }


def no_added_items(width: int) -> dict[str, Column]:
    """Those inputs where there is no such item, for rows of R columns."""
    return {
        "added.items": np.full(1, MISSING),
        "added.places": np.zeros(1, dtype=np.int64),
        "added.rows": np.zeros((1, width), dtype=np.float32),
    }
