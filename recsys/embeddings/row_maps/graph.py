"""``graph`` and ``double_graph``: ids of one cluster of a graph of ids share a row (GraphHash; Wu et al., WWW 2025).

The graph says which ids of one table met which ids of another (users and the items they clicked). ``clusters/`` finds
the clusters; here they become rows. An id that was not in the graph gets a hashed row, or, once it has met others,
their cluster's (``clusters.assign_unseen`` and ``growth.py``).

Legend: ``V`` ids of the table.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
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


def graph_map(table: str, training: TrainingIds, *, double: bool) -> RowMap:
    """Build a recipe's ``graph`` or ``double_graph``: ``unknown_rows``, and ``spare_rows`` as a share of the ids."""
    rows, (ids_V, labels_V) = training.settings, training.clusters(table)
    return graph_rows(
        table,
        ids_V,
        labels_V,
        unseen_rows=rows.unknown_rows,
        spare_ids=int(np.ceil(rows.spare_rows * len(ids_V))),
        double=double,
        seed=rows.seed,
    )
