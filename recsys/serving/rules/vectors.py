"""Vectors of items for diversity: those by which a retrieval model finds them. ``C`` items, ``D`` columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys.arrays import Float32Array, Int64Array

VectorSource = Callable[[Int64Array], Float32Array]
"""Gives the vectors of items by their keys, zeros for an item that has none; float32, [C, D]."""


def unit_rows(rows_CD: Float32Array) -> Float32Array:
    """Rows of length 1, by whose products cosines are; a row of zeros stays one: it is like no other.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    largest_C1 = np.abs(rows_CD).max(axis=1, keepdims=True, initial=0.0)
    scaled_CD = rows_CD / np.where(largest_C1 > 0, largest_C1, 1.0)  # the square of a large number is none
    lengths_C1 = np.sqrt(np.einsum("cd,cd->c", scaled_CD, scaled_CD))[:, None]
    return np.asarray(scaled_CD / np.where(lengths_C1 > 0, lengths_C1, 1.0), dtype=np.float32)
