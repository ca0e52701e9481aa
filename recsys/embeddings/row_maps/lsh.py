"""``lsh``: ids with similar neighbours in a graph of ids share rows (locality-sensitive hashing).

Legend: ``V`` ids of the table, ``E`` edges.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.clusters import index_keys
from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import InvalidInputError


def lsh_rows(
    table: str, ids_V: Int64Array, neighbours: tuple[Int64Array, Int64Array], *, rows: int, seed: int = 0
) -> RowMap:
    """Ids whose neighbours in the graph are alike share rows: on which side of random hyperplanes their neighbours sum.

    As many hyperplanes as distinguish ``rows`` rows; codes beyond them wrap round. An id without neighbours hashes.

    Args:
        table: the table whose ids these are.
        ids_V: distinct keys, int64.
        neighbours: the edges: position in ``ids_V``, and number of the neighbour, both [E], int64.
        rows: of the table, row 0 included.
        seed: of the hyperplanes.

    Raises:
        InvalidInputError: fewer than 2 rows, no edges, or an id given twice.
    """
    if rows < 2:
        raise InvalidInputError(f"table {table!r}: {rows} rows; allowed: 2 or more, of which one is for missing ids")
    own_E, other_E = neighbours
    if not len(own_E):
        raise InvalidInputError(f"table {table!r}: the graph has no edges")
    random = np.random.Generator(np.random.PCG64(seed))
    code_V = np.zeros(len(ids_V), dtype=np.int64)
    for bit in range(max(1, (rows - 2).bit_length())):
        hyperplane = random.standard_normal(int(other_E.max()) + 1)
        side_V = np.bincount(own_E, weights=hyperplane[other_E], minlength=len(ids_V)) > 0
        code_V |= side_V.astype(np.int64) << bit
    met = np.bincount(own_E, minlength=len(ids_V)) > 0
    hashed = hashed_rows((seed, table), first=1, count=rows - 1)
    return RowMap(
        kind="lsh",
        lookups=(Lookup(table=table, num_rows=rows, exact="row", hashed=hashed),),
        ids=build_id_table(ids_V[met], 1 + code_V[met] % (rows - 1), seed=seed),
    )


def lsh_map(table: str, training: TrainingIds) -> RowMap:
    """Build a recipe's ``lsh``."""
    (own_E, own_V), (other_E, _) = map(index_keys, training.pairs(table))
    rows = training.budgeted_rows(table)
    return lsh_rows(table, own_V, (own_E, other_E), rows=rows, seed=training.settings.seed)
