"""Tables that grow: rows for ids that came after training, and rows taken back from ids that went.

A growth makes a new row map of a row map, and says which rows of the tables get other values. Tables keep their shapes,
id tables theirs and their hash functions: a model's graphs stay as they are, and only files of tables change.

Where an id has a row of its own (``vocabulary``, ``frequency``, ``double_frequency``) an id seen often enough takes a
spare row, which begins with the vector that the id had until then, so that no answer changes by it. Where ids share
rows by clusters (``graph``, ``double_graph``) it joins the cluster of those it met, in the room that ``spare_ids``
left. The other maps have a row for every id there will ever be: nothing to grow.

numpy in, numpy out. Legend: ``V`` ids, ``A`` ids to admit, ``W`` ids of a later clustering, ``R`` rows that change,
``S`` rows that each is made of, ``K`` lookups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.clusters import NO_CLUSTER, match_labels
from recsys.embeddings.row_maps.id_table import IdTable, build_id_table
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap
from recsys.errors import InvalidInputError
from recsys.features.hashing import MISSING

OWN_ROWS = ("vocabulary", "frequency", "double_frequency")
"""Kinds of maps that give ids rows of their own."""

CLUSTER_ROWS = ("graph", "double_graph")
"""Kinds of maps that give clusters of ids a row."""

Evict = Literal["none", "unseen", "rarest", "oldest"]
EVICT: tuple[Evict, ...] = ("none", "unseen", "rarest", "oldest")


@dataclass(frozen=True, kw_only=True)
class SeenIds:
    """Ids of a table in a log.

    Attributes:
        ids_V: distinct keys in ascending order, int64.
        counts_V: how often each was looked up, int64.
        last_ms_V: when each was last seen, milliseconds since 1970, int64.
    """

    ids_V: Int64Array
    counts_V: Int64Array
    last_ms_V: Int64Array


@dataclass(frozen=True, kw_only=True)
class RowChange:
    """Rows of a physical table that get other values, and an optimiser state of zero.

    Attributes:
        table: the physical table.
        rows_R: distinct rows, int64.
        sources_RS: each becomes the mean of these rows as they were before the growth, int64.
    """

    table: str
    rows_R: Int64Array
    sources_RS: Int64Array


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A grown row map.

    Attributes:
        row_map: of the shapes of the old one.
        admitted: keys that the map now knows, by falling count.
        evicted: keys that it no longer knows, ascending; they answer as any unknown id does.
        no_room: how many more ids were to be admitted, and found no room.
        no_cluster: how many more met nobody in a cluster.
        changes: what to do to the tables.
    """

    row_map: RowMap
    admitted: Int64Array
    evicted: Int64Array
    no_room: int = 0
    no_cluster: int = 0
    changes: tuple[RowChange, ...] = ()


def grow(
    row_map: RowMap,
    seen: SeenIds,
    *,
    admit_count: int = 5,
    evict: Evict = "none",
    evict_count: int | None = None,
    cluster_of: Callable[[Int64Array], Int64Array] | None = None,
    seed: int = 0,
) -> Growth:
    """Evict, then admit the unknown ids that a log holds ``admit_count`` times, frequent ones first.

    ``unseen`` evicts the ids that the log does not hold. ``rarest`` and ``oldest`` evict the ids it holds least often,
    or saw last the longest ago (not at all comes first): ``evict_count`` of them, or else as many as newcomers lack
    room; ``rarest`` then stops where an id is as frequent as the newcomer it would make room for. Among equals the
    higher row goes first: rows are in order of falling count in training.

    Args:
        row_map: of a kind in ``OWN_ROWS`` or ``CLUSTER_ROWS``.
        seen: the new log's ids of this table.
        admit_count: 1 or more.
        evict: which ids lose what they have.
        evict_count: how many at most; None: see above.
        cluster_of: for clusters: keys, [A], to labels, [A], ``NO_CLUSTER`` for an id that met nobody in one.
        seed: that the map was made with.

    Raises:
        InvalidInputError: the map is of another kind or was made with another seed, or a number is out of range.

    >>> from recsys.embeddings.row_maps.vocabulary import vocabulary
    >>> old = vocabulary("item", np.array([3, 7]), np.array([9, 8]), spare_rows=1)
    >>> seen = SeenIds(ids_V=np.array([3, 5, 6]), counts_V=np.array([4, 5, 8]), last_ms_V=np.array([2, 3, 1]))
    >>> grown = grow(old, seen)
    >>> grown.row_map.lookup(np.array([3, 7, 6, 5]))[:, 0].tolist(), grown.no_room
    ([1, 2, 3, 0], 1)
    >>> grow(old, seen, evict="unseen").row_map.lookup(np.array([3, 7, 6, 5]))[:, 0].tolist()
    [1, 0, 2, 3]
    """
    if row_map.ids is None or row_map.kind not in (*OWN_ROWS, *CLUSTER_ROWS):
        raise InvalidInputError(
            f"a map of kind {row_map.kind!r} does not grow; allowed: {', '.join((*OWN_ROWS, *CLUSTER_ROWS))}"
        )
    if admit_count < 1:
        raise InvalidInputError(f"admit_count is {admit_count}; allowed: 1 or more")
    if evict not in EVICT:
        raise InvalidInputError(f"evict is {evict!r}; allowed: {', '.join(EVICT)}")
    if evict_count is not None and evict_count < 0:
        raise InvalidInputError(f"evict_count is {evict_count}; allowed: 0 or more")
    known_V, numbers_V = row_map.ids.entries()
    new = (seen.counts_V >= admit_count) & (seen.ids_V != MISSING) & ~np.isin(seen.ids_V, known_V)
    new_A, counts_A = seen.ids_V[new], seen.counts_V[new]
    order_A = np.lexsort((new_A, -counts_A))
    new_A, counts_A = new_A[order_A], counts_A[order_A]
    labels_A: Int64Array | None = None
    no_cluster = 0
    if row_map.kind in CLUSTER_ROWS:
        labels_A = np.full(len(new_A), NO_CLUSTER, dtype=np.int64) if cluster_of is None else cluster_of(new_A)
        found_A = labels_A != NO_CLUSTER
        no_cluster = int((~found_A).sum())
        new_A, counts_A, labels_A = new_A[found_A], counts_A[found_A], labels_A[found_A]
    room = row_map.ids.capacity - len(known_V) if labels_A is not None else len(row_map.spare_rows)
    gone_V = _to_evict(known_V, numbers_V, seen, evict=evict, count=evict_count, lacking=counts_A[room:])
    kept_V = ~np.isin(np.arange(len(known_V)), gone_V)
    changes: tuple[RowChange, ...] = ()
    taken = min(room + len(gone_V), len(new_A))
    admitted, evicted = new_A[:taken], known_V[~kept_V]
    if labels_A is not None:
        given_A, spare = labels_A[:taken] + 1, row_map.spare_rows
    else:
        free = np.sort(np.concatenate([row_map.spare_rows, numbers_V[~kept_V]]))
        given_A, spare = free[:taken], free[taken:]
        # A row that goes back unused is as good as unknown; one that was spare already stays as it is.
        emptied = np.intersect1d(spare, numbers_V[~kept_V])
        unknown = np.full((len(emptied), len(row_map.lookups)), UNKNOWN_ROW, dtype=np.int64)
        change = RowChange(
            table=row_map.lookups[0].table,
            rows_R=np.concatenate([given_A, emptied]),
            sources_RS=np.concatenate([row_map.lookup(admitted), unknown]),
        )
        changes = (change,) if len(change.rows_R) else ()
    ids = row_map.ids
    if taken or len(evicted):  # otherwise its file stays the same to the last byte
        keys = np.concatenate([known_V[kept_V], admitted])
        ids = _with_entries(ids, keys, np.concatenate([numbers_V[kept_V], given_A]), seed=seed)
    return Growth(
        row_map=replace(row_map, ids=ids, spare_rows=spare),
        admitted=admitted,
        evicted=evicted,
        no_room=len(new_A) - taken,
        no_cluster=no_cluster,
        changes=changes,
    )


def recluster(row_map: RowMap, keys_W: Int64Array, labels_W: Int64Array, *, seed: int = 0) -> Growth:
    """Give ids the clusters of a new clustering; clusters that persist keep their rows.

    A cluster that came about since begins with the row that most of its ids had until now. Ids that the new clustering
    does not hold are evicted. Where clusters are more than the map has rows for, the last ones, which are the smallest,
    find no room; where ids are more than its capacity, new ones in the order given.

    Args:
        row_map: of a kind in ``CLUSTER_ROWS``.
        keys_W: distinct keys, int64.
        labels_W: their clusters from 0 by falling size, ``NO_CLUSTER`` for none (``clusters.cluster``).
        seed: that the map was made with.

    Raises:
        InvalidInputError: the map is of another kind or was made with another seed; keys are given more than once.
    """
    if row_map.ids is None or row_map.kind not in CLUSTER_ROWS:
        raise InvalidInputError(f"a map of kind {row_map.kind!r} has no clusters; allowed: {', '.join(CLUSTER_ROWS)}")
    old_V, rows_V = row_map.ids.entries()
    matched = match_labels(old_V, rows_V - 1, keys_W, labels_W)
    has_row_W = (matched.labels != NO_CLUSTER) & (matched.labels < cluster_count(row_map))
    known_W = np.isin(keys_W, old_V)
    order_W = np.argsort(~known_W, kind="stable")
    order_W = order_W[has_row_W[order_W]][: row_map.ids.capacity]
    keys, rows = keys_W[order_W], matched.labels[order_W] + 1
    until_now = row_map.lookup(keys)[:, 0]
    is_new_row = np.ones(row_map.lookups[0].num_rows, dtype=bool)
    # Matched: it shares ids with its old self. An id that hashed to a row by chance does not make it the old one.
    is_new_row[rows[row_map.ids.lookup(keys) == rows]] = False
    moved = is_new_row[rows]
    changed_R, sources_R = most_common(rows[moved], until_now[moved])
    change = RowChange(table=row_map.lookups[0].table, rows_R=changed_R, sources_RS=sources_R[:, None])
    return Growth(
        row_map=replace(row_map, ids=_with_entries(row_map.ids, keys, rows, seed=seed)),
        admitted=keys[~np.isin(keys, old_V)],
        evicted=np.setdiff1d(old_V, keys),
        no_room=int((matched.labels != NO_CLUSTER).sum()) - len(keys),
        no_cluster=int((matched.labels == NO_CLUSTER).sum()),
        changes=(change,) if len(changed_R) else (),
    )


def cluster_count(row_map: RowMap) -> int:
    """Clusters that a map of a kind in ``CLUSTER_ROWS`` has rows for; they are rows 1, 2, ..."""
    hashed = row_map.lookups[0].hashed
    assert hashed is not None, "graph_rows hashes ids in no cluster"
    return hashed.first - 1 if hashed.first > 1 else hashed.count


def room_for_ids(row_map: RowMap) -> int:
    """Ids that a map can still admit without evicting any; 0 for a map that does not grow."""
    if row_map.ids is None or row_map.kind not in CLUSTER_ROWS:
        return len(row_map.spare_rows)
    return row_map.ids.capacity - len(row_map.ids.entries()[0])


def most_common(groups: Int64Array, values: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The distinct groups, and the most common value in each; the smallest of equals.

    >>> [each.tolist() for each in most_common(np.array([4, 4, 4, 1]), np.array([6, 5, 6, 7]))]
    [[1, 4], [7, 6]]
    """
    pairs, counts = np.unique(np.stack([groups, values]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    distinct, first = np.unique(pairs[0][order], return_index=True)
    most: Int64Array = pairs[1][order][first]
    return distinct, most


def _to_evict(
    known_V: Int64Array,
    numbers_V: Int64Array,
    seen: SeenIds,
    *,
    evict: Evict,
    count: int | None,
    lacking: Int64Array,
) -> Int64Array:
    """Positions in ``known_V``; ``lacking``: counts of the newcomers without room, falling."""
    if evict == "none":
        return np.zeros(0, dtype=np.int64)
    counts_V = _of_known(known_V, seen.ids_V, seen.counts_V, absent=0)
    first_V = counts_V
    if evict == "oldest":
        first_V = _of_known(known_V, seen.ids_V, seen.last_ms_V, absent=np.iinfo(np.int64).min)
    order_V: Int64Array = np.lexsort((known_V, -numbers_V, first_V))
    if evict == "unseen":
        order_V = order_V[counts_V[order_V] == 0][:count]
    elif count is not None:
        order_V = order_V[:count]
    else:
        order_V = order_V[: len(lacking)]
        if evict == "rarest":  # the one's counts rise, the other's fall: once as frequent, always as frequent
            order_V = order_V[counts_V[order_V] < lacking[: len(order_V)]]
    return order_V


def _of_known(known_V: Int64Array, ids: Int64Array, values: Int64Array, *, absent: int) -> Int64Array:
    """The value of each known id, in ascending order both."""
    found_V = np.full(len(known_V), absent, dtype=np.int64)
    _, at_known, at_ids = np.intersect1d(known_V, ids, assume_unique=True, return_indices=True)
    found_V[at_known] = values[at_ids]
    return found_V


def _with_entries(table: IdTable, keys_V: Int64Array, numbers_V: Int64Array, *, seed: int) -> IdTable:
    """An id table that fits the graph of another: the shape and the hash functions of it."""
    made = build_id_table(keys_V, numbers_V, capacity=table.capacity, seed=seed)
    if made.keys_TW.shape != table.keys_TW.shape or not np.array_equal(made.coefficients, table.coefficients):
        raise InvalidInputError(
            f"seed is {seed}: its hash functions are not those of the map; allowed: the seed the map was made with "
            "(rows.seed)"
        )
    return made
