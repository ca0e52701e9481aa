"""A clustering with as many clusters as a table has rows.

Legend: ``E`` edges.
"""

from __future__ import annotations

import numpy as np
import pytest
from embeddings.row_maps.clusters.two_sided import COMMUNITIES, LEFT, RIGHT, SIZES, planted, power_law

from recsys.embeddings.row_maps.clusters import (
    MAX_TRIES,
    NO_CLUSTER,
    TOLERANCE,
    Clusters,
    Try,
    cluster_to_rows,
)
from recsys.errors import InvalidInputError


def clusters_of(found: Clusters, side: str) -> int:
    return {"left": found.num_left, "right": found.num_right, "both": found.num_left + found.num_right}[side]


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95])
def test_a_number_of_rows_is_hit_within_the_tolerance(side: str, share: float) -> None:
    left_E, right_E = power_law()
    most = {"left": len(np.unique(left_E)), "right": len(np.unique(right_E))}
    rows = int(share * (most[side] if side != "both" else sum(most.values())))
    found = cluster_to_rows(left_E, right_E, num_left=3_000, num_right=1_000, rows=rows, side=side)  # type: ignore[arg-type]
    assert abs(clusters_of(found, side) - rows) <= TOLERANCE * rows


@pytest.mark.parametrize("rows", range(2, 14))
def test_where_no_resolution_gives_the_rows_a_clustering_is_split_to_give_them(rows: int) -> None:
    """A complete graph has one cluster a side below resolution 1, and one an id above."""
    left_E, right_E = np.divmod(np.arange(42), 7)
    tries: list[Try] = []
    found = cluster_to_rows(left_E, right_E, num_left=6, num_right=7, rows=rows, report=tries.append)
    assert found.num_left + found.num_right == rows
    assert all(abs(t.rows - rows) > TOLERANCE * rows for t in tries[:-1])
    assert [t.number for t in tries] == list(range(1, len(tries) + 1)) and len(tries) <= MAX_TRIES


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", range(1, 7))
def test_a_clustering_is_split_for_one_side(side: str, rows: int) -> None:
    left_E, right_E = np.divmod(np.arange(36), 6)
    found = cluster_to_rows(left_E, right_E, num_left=6, num_right=6, rows=rows, side=side)  # type: ignore[arg-type]
    assert clusters_of(found, side) == rows


@pytest.mark.parametrize("rows", [2, 3])
def test_fewest_rows_are_hit_where_no_resolution_tried_joins_a_component(rows: int) -> None:
    """A long path: Louvain stops before all of it is one community."""
    step = np.arange(3_999)
    tries: list[Try] = []
    found = cluster_to_rows((step + 1) // 2, step // 2, num_left=2_000, num_right=2_000, rows=rows, report=tries.append)
    assert found.num_left + found.num_right == rows
    assert len(tries) == MAX_TRIES and min(t.rows for t in tries) > rows


def test_a_split_takes_the_largest_community_and_leaves_the_others_whole() -> None:
    """Complete blocks of 8 x 8 and 5 x 5 ids come apart at once, so no resolution gives 12 rows for four of them."""
    left_E, right_E = np.nonzero(np.kron(np.eye(4), np.ones((8, 8))))
    small = (left_E < 8) | ((left_E % 8 < 5) & (right_E % 8 < 5))
    found = cluster_to_rows(left_E[small], right_E[small], num_left=32, num_right=32, rows=12)
    for block, rows in enumerate((6, 2, 2, 2)):
        ids = slice(8 * block, 8 * block + 8)
        clusters = [set(labels[ids]) - {NO_CLUSTER} for labels in (found.left_labels, found.right_labels)]
        assert sum(map(len, clusters)) == rows
    assert found.num_left + found.num_right == 12


@pytest.mark.parametrize(("rows", "near"), [(2 * COMMUNITIES - 1, 2 * COMMUNITIES), (LEFT + RIGHT + 1, LEFT + RIGHT)])
def test_rows_out_of_reach_are_refused_with_the_nearest_number(rows: int, near: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"rows is {rows}; allowed: 24 .* to 360 .* the nearest is {near}$"):
        cluster_to_rows(*planted(outside=0.0), **SIZES, rows=rows)
    found = cluster_to_rows(*planted(outside=0.0), **SIZES, rows=near)
    assert abs(found.num_left + found.num_right - near) <= TOLERANCE * near
