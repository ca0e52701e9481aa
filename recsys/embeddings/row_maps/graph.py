"""Row maps made from a graph of ids: clusters (GraphHash; Wu et al., WWW 2025) and locality-sensitive hashing.

The graph says which ids of one table met which ids of another (users and the items they clicked).
``graph_clusters.py`` finds the clusters; here they become rows. An id that was not in the graph gets a hashed row,
or, once it has met others, their cluster's (``graph_clusters.assign_unseen`` and ``growth.py``).

Legend: ``V`` ids of the table, ``E`` edges.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.embeddings.row_maps.row_map import Lookup, RowMap, hashed_rows
from recsys.errors import InvalidInputError


def graph_rows(
    table: str,
    ids_V: Int64Array,
    labels_V: Int64Array,
    *,
    unseen_rows: int = 0,
    spare_ids: int = 0,
    double: bool = False,
    seed: int = 0,
) -> RowMap:
    """One row per cluster; other ids hash to ``unseen_rows`` rows of their own, or without any to the clusters' rows.

    Args:
        table: the table whose ids these are.
        ids_V: distinct keys, int64.
        labels_V: cluster of each, counted from 0; -1 for an id in no cluster; int64.
        unseen_rows: rows for ids in no cluster.
        spare_ids: ids that may be given a cluster later.
        double: DoubleGraphHash: the sum of the cluster's row and a row that the id hashes to, of the same table.
        seed: of the hash functions.

    Raises:
        InvalidInputError: no id is in a cluster, an id is given twice, or a number is out of range.

    >>> rows = graph_rows("user_id", np.array([5, 6, 7]), np.array([0, 0, 1]))
    >>> rows.lookup(np.array([5, 6, 7, -1]))[:, 0].tolist()
    [1, 1, 2, 0]
    """
    if unseen_rows < 0 or spare_ids < 0:
        raise InvalidInputError(
            f"table {table!r}: {unseen_rows} unseen rows, {spare_ids} spare ids; allowed: 0 or more"
        )
    clustered = labels_V >= 0
    if not clustered.any():
        raise InvalidInputError(f"table {table!r}: none of its {len(ids_V):,} ids is in a cluster; allowed: 1 or more")
    clusters = int(labels_V.max()) + 1
    num_rows = 1 + clusters + unseen_rows
    first, count = (1 + clusters, unseen_rows) if unseen_rows else (1, clusters)
    lookups = [
        Lookup(
            table=table,
            num_rows=num_rows,
            exact="row",
            hashed=hashed_rows((seed, table, 0), first=first, count=count),
        )
    ]
    if double:
        anywhere = hashed_rows((seed, table, 1), first=1, count=num_rows - 1)
        lookups.append(Lookup(table=table, num_rows=num_rows, hashed=anywhere))
    known = ids_V[clustered]
    return RowMap(
        kind="double_graph" if double else "graph",
        lookups=tuple(lookups),
        ids=build_id_table(known, labels_V[clustered] + 1, capacity=len(known) + spare_ids, seed=seed),
    )


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
