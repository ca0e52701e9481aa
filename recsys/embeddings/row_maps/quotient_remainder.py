"""``quotient_remainder``: the product of two rows, of an id number's quotient and remainder (Shi et al., KDD 2020).

Legend: ``V`` ids.
"""

from __future__ import annotations

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.id_table import most_frequent, number_ids
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Exact, Lookup, RowMap
from recsys.errors import InvalidInputError


def quotient_remainder(table: str, ids_V: Int64Array, counts_V: Int64Array, *, rows: int, seed: int = 0) -> RowMap:
    """The product of a quotient's and a remainder's row, so that no two known ids have the same pair.

    The id with the n-th highest count has quotient n // R and remainder n % R, n from 0; R is as large as ``rows`` in
    total allow. An unknown id hashes to a row of each table (Shi et al., KDD 2020, section 3).

    Raises:
        InvalidInputError: ``rows`` do not suffice for distinct pairs, or an id is given twice.
    """
    number = max(1, len(ids_V))
    usable = rows - 2  # both tables have a row 0
    # R + ceil(V / R) is smallest near the square root, and grows with R from there on.
    remainders = next((r for r in range(usable - 1, 0, -1) if r + -(-number // r) <= usable), 0)
    if remainders == 0:
        least = 2 + min(r + -(-number // r) for r in range(1, int(number**0.5) + 2))
        raise InvalidInputError(
            f"table {table!r}: {rows} rows for quotients and remainders of {number:,} ids; allowed: {least} or more"
        )
    quotients = -(-number // remainders)
    parts: tuple[tuple[str, Exact, int], ...] = (
        (f"{table}__quotient", "quotient", quotients),
        (f"{table}__remainder", "remainder", remainders),
    )
    lookups = tuple(
        Lookup(
            table=name,
            num_rows=count + 1,
            exact=part,
            divisor=remainders,
            hashed=hashed_rows((seed, name), first=1, count=count),
        )
        for name, part, count in parts
    )
    ids = number_ids(most_frequent(ids_V, counts_V), seed=seed)
    return RowMap(kind="quotient_remainder", lookups=lookups, combine="product", ids=ids)


def quotient_remainder_map(table: str, training: TrainingIds) -> RowMap:
    """Build a recipe's ``quotient_remainder``."""
    rows = training.budgeted_rows(table)
    return quotient_remainder(table, *training.counts[table], rows=rows, seed=training.settings.seed)
