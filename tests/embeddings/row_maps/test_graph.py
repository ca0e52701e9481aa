"""Rows from a graph: clusters' rows as labels say, and ids with like neighbours on one side of each hyperplane."""

from collections.abc import Callable

import numpy as np
import pytest

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.graph import graph_rows
from recsys.embeddings.row_maps.lsh import lsh_rows
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, MISSING

IDS = np.array([5, 90, 0, KEY_LIMIT - 1, 7, 1 << 40])
LABELS = np.array([2, 0, 0, 1, -1, 2])
OTHERS = np.arange(100, 3000)


def rows_of(row_map: RowMap, keys: Int64Array) -> list[int]:
    """Of the first lookup."""
    return row_map.lookup(keys)[:, 0].tolist()


def test_ids_of_a_cluster_share_its_row() -> None:
    row_map = graph_rows("t", IDS, LABELS)
    assert rows_of(row_map, IDS[LABELS >= 0]) == (LABELS[LABELS >= 0] + 1).tolist()
    assert row_map.table_rows() == {"t": 1 + 3}
    assert (row_map.kind, len(row_map.lookups)) == ("graph", 1)


def test_without_rows_of_their_own_ids_in_no_cluster_hash_to_all_clusters() -> None:
    assert set(rows_of(graph_rows("t", IDS, LABELS), np.append(OTHERS, 7))) == {1, 2, 3}


def test_with_rows_of_their_own_ids_in_no_cluster_hash_to_these_alone() -> None:
    row_map = graph_rows("t", IDS, LABELS, unseen_rows=5)
    assert row_map.table_rows() == {"t": 1 + 3 + 5}
    assert set(rows_of(row_map, OTHERS)) == {4, 5, 6, 7, 8}
    assert rows_of(row_map, np.array([7]))[0] >= 4
    assert rows_of(row_map, IDS[LABELS >= 0]) == (LABELS[LABELS >= 0] + 1).tolist()


def test_double_graph_adds_a_row_that_the_id_hashes_to_in_the_same_table() -> None:
    single, double = (graph_rows("t", IDS, LABELS, unseen_rows=20, double=d) for d in (False, True))
    assert (double.kind, double.combine) == ("double_graph", "sum")
    assert double.table_rows() == single.table_rows() == {"t": 24}
    keys = np.append(IDS, OTHERS)
    assert rows_of(double, keys) == rows_of(single, keys)
    assert set(double.lookup(OTHERS)[:, 1].tolist()) == set(range(1, 24))
    same = np.mean(double.lookup(OTHERS)[:, 0] == double.lookup(OTHERS)[:, 1])
    assert same < 0.1, "two functions: 1 in 23 by chance"
    assert double.lookup(np.array([MISSING])).tolist() == [[0, 0]]


def test_there_is_room_for_spare_ids() -> None:
    row_map = graph_rows("t", IDS, LABELS, spare_ids=500)
    assert row_map.ids is not None and row_map.ids.capacity >= 505
    assert row_map.ids.entries()[0].tolist() == sorted(IDS[LABELS >= 0].tolist())


def test_lsh_gives_ids_with_equal_neighbours_one_row() -> None:
    # Ids 0, 10, 20, ... have the same neighbours; likewise 1, 11, 21, ...
    ids = np.arange(200)
    own = np.repeat(ids, 5)
    other = (own % 10) * 5 + np.tile(np.arange(5), 200)
    row_map = lsh_rows("t", ids, (own, other), rows=4001)
    rows = row_map.lookup(ids)[:, 0]
    for group in range(10):
        assert len(set(rows[group::10].tolist())) == 1
    assert len(set(rows.tolist())) > 5, "other neighbours, mostly other rows"


def test_lsh_knows_the_side_of_each_hyperplane_by_the_sign_of_the_neighbours_sum() -> None:
    # One hyperplane suffices for two rows: the sign of the sum of the neighbours' normals.
    own, other = np.array([0, 0, 1, 2, 2, 3]), np.array([0, 1, 1, 2, 0, 2])
    normal = np.random.Generator(np.random.PCG64(9)).standard_normal(3)
    row_map = lsh_rows("t", np.arange(4), (own, other), rows=3, seed=9)
    sums = [normal[0] + normal[1], normal[1], normal[2] + normal[0], normal[2]]
    assert row_map.lookup(np.arange(4))[:, 0].tolist() == [2 if total > 0 else 1 for total in sums]


def test_lsh_hashes_ids_without_neighbours_and_keeps_to_its_rows() -> None:
    ids = np.arange(3000)
    random = np.random.Generator(np.random.PCG64(0))
    own, other = random.integers(0, 2000, size=9000), random.integers(0, 300, size=9000)
    row_map = lsh_rows("t", ids, (own, other), rows=6)
    assert row_map.table_rows() == {"t": 6}
    assert row_map.ids is not None
    assert row_map.ids.entries()[0].tolist() == np.unique(own).tolist()
    assert set(row_map.lookup(np.unique(own))[:, 0].tolist()) == {1, 2, 3, 4, 5}
    assert set(row_map.lookup(ids[2000:])[:, 0].tolist()) == {1, 2, 3, 4, 5}


EDGES = (np.array([0, 1]), np.array([0, 0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: graph_rows("t", IDS, LABELS, unseen_rows=-1), "table 't': -1 unseen rows, 0 spare ids; allowed: 0 or"),
        (lambda: graph_rows("t", IDS, LABELS, spare_ids=-2), "table 't': 0 unseen rows, -2 spare ids; allowed: 0 or"),
        (lambda: graph_rows("t", IDS, LABELS * 0 - 1), "table 't': none of its 6 ids is in a cluster; allowed: 1 or"),
        (lambda: graph_rows("t", IDS[:0], LABELS[:0]), "table 't': none of its 0 ids is in a cluster"),
        (lambda: graph_rows("t", np.array([5, 5]), np.array([0, 1])), "id table: 1 keys are given more than once"),
        (lambda: lsh_rows("t", IDS, EDGES, rows=1), "table 't': 1 rows; allowed: 2 or more, of which one is for miss"),
        (lambda: lsh_rows("t", IDS, (IDS[:0], IDS[:0]), rows=9), "table 't': the graph has no edges"),
        (lambda: lsh_rows("t", np.array([5, 5]), EDGES, rows=9), "id table: 1 keys are given more than once"),
    ],
)
def test_what_makes_no_map_is_refused(build: Callable[[], RowMap], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build()
