"""``vocabulary``: a row of its own for every id seen often enough.

Legend: ``V`` ids.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.id_table import most_frequent, number_ids
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import InvalidInputError


def vocabulary(
    table: str,
    ids_V: Int64Array,
    counts_V: Int64Array,
    *,
    min_count: int = 1,
    unknown_rows: int = 0,
    spare_rows: int = 0,
    seed: int = 0,
) -> RowMap:
    """A row for each id seen ``min_count`` times; the others share row 0, or hash to ``unknown_rows`` rows.

    Rows are in order of falling count, so that the rows of frequent ids share memory pages.

    Args:
        table: the table whose ids these are.
        ids_V: distinct keys in training data, int64.
        counts_V: how often each occurs, int64. Rarer ids train the unknown rows, which so learn what a rare id is like.
        min_count: 1 or more.
        unknown_rows: rows for ids without one of their own.
        spare_rows: rows kept for ids that are admitted after training.
        seed: of the hash functions.

    Raises:
        InvalidInputError: a number is out of range, or an id is given twice.

    >>> rows = vocabulary("movie_id", np.array([3, 7, 9]), np.array([2, 3, 1]), min_count=2)
    >>> rows.lookup(np.array([7, 3, 9, 8, -1]))[:, 0].tolist()
    [1, 2, 0, 0, 0]
    """
    if min_count < 1:
        raise InvalidInputError(f"min_count is {min_count}; allowed: 1 or more")
    for name, value in (("unknown_rows", unknown_rows), ("spare_rows", spare_rows)):
        if value < 0:
            raise InvalidInputError(f"table {table!r}: {name} is {value}; allowed: 0 or more")
    kept = most_frequent(ids_V[counts_V >= min_count], counts_V[counts_V >= min_count])
    first_unknown = 1 + len(kept) + spare_rows
    lookup = Lookup(
        table=table,
        num_rows=first_unknown + unknown_rows,
        exact="row",
        hashed=hashed_rows((seed, table), first=first_unknown, count=unknown_rows) if unknown_rows else None,
    )
    return RowMap(
        kind="vocabulary",
        lookups=(lookup,),
        ids=number_ids(kept, capacity=len(kept) + spare_rows, seed=seed),
        spare_rows=np.arange(1 + len(kept), first_unknown, dtype=np.int64),
    )


def vocabulary_map(table: str, training: TrainingIds) -> RowMap:
    """Build a recipe's ``vocabulary``: ``min_count``, ``unknown_rows``, and ``spare_rows`` as a share of the ids."""
    rows, (ids_V, counts_V) = training.settings, training.counts[table]
    return vocabulary(
        table,
        ids_V,
        counts_V,
        min_count=rows.min_count,
        unknown_rows=rows.unknown_rows,
        spare_rows=int(np.ceil(rows.spare_rows * len(ids_V))),
        seed=rows.seed,
    )
