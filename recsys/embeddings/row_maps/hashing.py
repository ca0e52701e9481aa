"""``hash`` and ``double_hash``: one hashed row, or the sum of two."""

from __future__ import annotations

from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import InvalidInputError
from recsys.features.hashing import PRIME


def hash_rows(table: str, *, rows: int, functions: int = 1, seed: int = 0) -> RowMap:
    """Ids hashed to ``rows`` rows, one of them for missing ids; with two functions the sum of two rows.

    Raises:
        InvalidInputError: fewer than 2 rows, or no function.

    >>> import numpy as np
    >>> hash_rows("movie_id", rows=100).lookup(np.array([-1]))
    array([[0]])
    """
    check_rows(table, rows, functions)
    lookups = tuple(
        Lookup(table=table, num_rows=rows, hashed=hashed_rows((seed, table, k), first=1, count=rows - 1))
        for k in range(functions)
    )
    return RowMap(kind="hash" if functions == 1 else "double_hash", lookups=lookups)


def hash_map(table: str, training: TrainingIds, *, functions: int) -> RowMap:
    """Build a recipe's ``hash`` or ``double_hash``."""
    return hash_rows(table, rows=training.budgeted_rows(table), functions=functions, seed=training.settings.seed)


def check_rows(table: str, rows: int, functions: int = 1) -> None:
    """Refuse numbers that no hash function maps to.

    Raises:
        InvalidInputError: fewer than 2 rows, too many, or no function.
    """
    if not 2 <= rows <= PRIME:
        raise InvalidInputError(
            f"table {table!r}: {rows} rows; allowed: 2 to {PRIME:,}, of which one is for missing ids"
        )
    if functions < 1:
        raise InvalidInputError(f"table {table!r}: {functions} hash functions; allowed: 1 or more")
