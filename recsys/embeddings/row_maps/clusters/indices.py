"""Indices of ids: from keys, checked, the first of each kind.

Legend: ``E`` edges, ``V`` ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT


def index_keys(keys_E: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Keys to the indices that :func:`cluster` takes: index of each key, [E], and the distinct keys in order, [V].

    Raises:
        InvalidInputError: a key is out of range; ``MISSING`` is no key, drop such edges first.

    >>> indices_E, keys_V = index_keys(np.array([2**62 - 1, 7, 7]))
    >>> indices_E.tolist(), keys_V.tolist()
    ([1, 0, 0], [7, 4611686018427387903])
    """
    if len(keys_E) and (keys_E.min() < 0 or keys_E.max() >= KEY_LIMIT):
        bad = keys_E[(keys_E < 0) | (keys_E >= KEY_LIMIT)][0]
        raise InvalidInputError(
            f"clustering: key {bad} is out of range; allowed: 0 to 2^62 - 1, drop edges without an id"
        )
    keys_V, indices_E = np.unique(keys_E, return_inverse=True)
    return indices_E.astype(np.int64, copy=False), keys_V.astype(np.int64, copy=False)


def check_ends(one_E: npt.NDArray[np.integer], other_E: npt.NDArray[np.integer], *named: tuple[str, int]) -> None:
    """Refuse edges whose ends are not indices; ``named``: of each side its name in errors and its number of ids."""
    if one_E.ndim != 1 or one_E.shape != other_E.shape:
        raise InvalidInputError(
            f"edges are {one_E.shape} and {other_E.shape}; allowed: two equally long lists of indices"
        )
    for ends, (name, count) in zip((one_E, other_E), named, strict=True):
        if not np.issubdtype(ends.dtype, np.integer):
            raise InvalidInputError(f"{name} ends of edges are {ends.dtype}; allowed: integers")
        if len(ends) and (ends.min() < 0 or ends.max() >= count):
            bad = ends[(ends < 0) | (ends >= count)][0]
            raise InvalidInputError(f"{name} end {bad} of an edge is out of range; allowed: 0 to {count - 1}")


def is_first(values: npt.NDArray[np.integer]) -> BoolArray:
    """True for each value that is the first of its kind."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
