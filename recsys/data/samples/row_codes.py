"""Ids as codes: every id is looked up in its row map once, before training.

A row map may answer several rows for an id. So a column of ids becomes a column of codes: the number of
the id's rows among the distinct ones, which one array per table lists. Code 0 has row 0 in every lookup: a missing id,
or one that the map does not know.

Legend: ``V`` distinct ids, ``K`` lookups, ``T`` codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.hashing import MISSING

RowsOfKeys = Callable[[Int64Array], Int64Array]
"""Keys, shape [V], int64 and none of them MISSING, to their rows, int64 [V, K]."""


def encode_ids(table: str, columns: Mapping[str, Column], lookup: RowsOfKeys) -> tuple[dict[str, Column], Int64Array]:
    """Columns of keys of one table as columns of codes.

    Args:
        table: named in errors.
        columns: name -> keys, any shape, -1 for missing.
        lookup: of the table's row map.

    Returns:
        The columns as int32 codes, still -1 where missing, and the rows of each code, [T, K], int64.

    Raises:
        InvalidInputError: the lookup returns another shape, or a negative row.

    >>> codes, rows = encode_ids("t", {"a": np.array([7, -1, 9, 7])}, lambda keys: np.stack([keys % 2, keys], axis=1))
    >>> codes["a"].tolist(), rows.tolist()
    ([1, -1, 2, 1], [[0, 0], [1, 7], [1, 9]])
    """
    flat = [np.asarray(column).reshape(-1) for column in columns.values()]
    keys_V = np.unique(np.concatenate([np.unique(each) for each in flat])) if flat else np.zeros(0, dtype=np.int64)
    keys_V = keys_V[keys_V != MISSING].astype(np.int64, copy=False)
    rows_VK = lookup(keys_V)
    if rows_VK.ndim != 2 or len(rows_VK) != len(keys_V) or rows_VK.dtype.kind not in "iu":
        raise InvalidInputError(
            f"lookup of table {table!r}: expected integers of shape [{len(keys_V)}, lookups], "
            f"got shape {list(rows_VK.shape)} of {rows_VK.dtype}"
        )
    if rows_VK.size and int(rows_VK.min()) < 0:
        raise InvalidInputError(f"lookup of table {table!r}: row {rows_VK.min()}; allowed: 0 or more")
    # The missing id comes first, and sorts first: no row is below 0.
    everything = np.concatenate([np.zeros((1, rows_VK.shape[1]), dtype=np.int64), rows_VK])
    rows_TK, code_V = np.unique(everything, axis=0, return_inverse=True)
    code_of_key = np.append(code_V.reshape(-1)[1:], MISSING).astype(np.int32)
    encoded = {}
    for name, column in columns.items():
        position = np.searchsorted(keys_V, column)
        position[column == MISSING] = len(keys_V)
        encoded[name] = code_of_key[position]
    return encoded, rows_TK
