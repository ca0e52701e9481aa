"""``frequency`` and ``double_frequency``: rows of their own for the most frequent ids, hashed ones for all others.

The latter is double hashing of the rest (Zhang et al., RecSys 2020). Legend: ``V`` ids.
"""

from __future__ import annotations

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.hashing import check_rows
from recsys.embeddings.row_maps.id_table import most_frequent, number_ids
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import InvalidInputError


def frequency_hash(
    table: str,
    ids_V: Int64Array,
    counts_V: Int64Array,
    *,
    rows: int,
    frequent: float = 0.5,
    functions: int = 1,
    seed: int = 0,
) -> RowMap:
    """Rows of their own for the most frequent ids, hashed ones for all others, of ``rows`` in total.

    With two functions an infrequent id is the sum of two hashed rows. A frequent one is then twice its own row: a
    map has one number of lookups.

    Args:
        table: the table whose ids these are.
        ids_V, counts_V: distinct keys in training data and how often each occurs, int64.
        rows: of the table, row 0 included.
        frequent: share of the rows that belong to frequent ids.
        functions: hash functions for the others.
        seed: of the hash functions.

    Raises:
        InvalidInputError: too few rows, no function, a share out of range, or an id given twice.
    """
    check_rows(table, rows, functions)
    if not 0 <= frequent < 1:
        raise InvalidInputError(f"table {table!r}: the share of rows for frequent ids is {frequent}; allowed: 0 to < 1")
    kept = most_frequent(ids_V, counts_V)[: int((rows - 1) * frequent)]
    first = 1 + len(kept)
    lookups = tuple(
        Lookup(
            table=table,
            num_rows=rows,
            exact="row",
            hashed=hashed_rows((seed, table, k), first=first, count=rows - first),
        )
        for k in range(functions)
    )
    kind = "frequency" if functions == 1 else "double_frequency"
    return RowMap(kind=kind, lookups=lookups, ids=number_ids(kept, seed=seed))


def frequency_map(table: str, training: TrainingIds, *, functions: int) -> RowMap:
    """Build a recipe's ``frequency`` or ``double_frequency``: ``frequent`` of the rows belong to ids."""
    rows = training.settings
    return frequency_hash(
        table,
        *training.counts[table],
        rows=training.budgeted_rows(table),
        frequent=rows.frequent,
        functions=functions,
        seed=rows.seed,
    )
