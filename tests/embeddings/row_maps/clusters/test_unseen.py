"""Ids that came after the clustering get the cluster of those they meet.

Legend: ``E`` edges.
"""

from __future__ import annotations

import numpy as np
import pytest
from embeddings.row_maps.clusters.two_sided import COMMUNITIES, LEFT_COMMUNITY, RIGHT_COMMUNITY, SIZES, planted

from recsys.embeddings.row_maps.clusters import NO_CLUSTER, assign_unseen, cluster
from recsys.errors import InvalidInputError


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_unseen_id_lands_in_the_community_it_meets(side: str) -> None:
    left_E, right_E = planted()
    found = cluster(left_E, right_E, **SIZES, resolution=2.0)
    if side == "left":
        labels, own_community, other_community = found.left_labels, LEFT_COMMUNITY, RIGHT_COMMUNITY
    else:
        labels, own_community, other_community = found.right_labels, RIGHT_COMMUNITY, LEFT_COMMUNITY
    # New id n meets three of community n, and one of the next.
    met = [np.flatnonzero(other_community == n)[:3] for n in range(COMMUNITIES)]
    known_E = np.concatenate(
        [np.append(ids, np.flatnonzero(other_community == (n + 1) % 12)[0]) for n, ids in enumerate(met)]
    )
    given = assign_unseen(found, np.repeat(np.arange(12), 4), known_E, num_new=13, side=side)  # type: ignore[arg-type]
    expected = [labels[np.flatnonzero(own_community == n)[0]] for n in range(COMMUNITIES)]
    assert given.tolist() == [*expected, NO_CLUSTER]


def test_an_even_vote_goes_to_the_community_with_fewer_edges() -> None:
    """One large community (4 x 4) and a small one (2 x 2): an id that met one of each gains more in the small one."""
    large, small = np.divmod(np.arange(16), 4), np.divmod(np.arange(4), 2)
    left_E, right_E = np.append(large[0], small[0] + 4), np.append(large[1], small[1] + 4)
    found = cluster(left_E, right_E, num_left=6, num_right=6, resolution=1.0)
    given = assign_unseen(found, np.array([0, 0, 0]), np.array([0, 4, 4]), num_new=1, side="left")
    assert given.tolist() == [found.left_labels[4]]


def test_an_unseen_id_that_met_only_ids_without_a_cluster_has_none() -> None:
    found = cluster(np.array([0, 1]), np.array([0, 1]), num_left=2, num_right=3, resolution=0.5)
    assert assign_unseen(found, np.array([0]), np.array([2]), num_new=2, side="left").tolist() == [-1, -1]
    empty = np.array([], dtype=np.int64)
    assert assign_unseen(found, empty, empty, num_new=2, side="left").tolist() == [-1, -1]


def test_a_community_without_ids_of_that_side_has_no_row_to_give() -> None:
    """At a high resolution every id is alone: no right id's community has a left cluster."""
    found = cluster(*np.divmod(np.arange(4), 2), num_left=2, num_right=2, resolution=50.0)
    assert found.num_left == found.num_right == 2
    assert assign_unseen(found, np.array([0]), np.array([1]), num_new=1, side="left").tolist() == [NO_CLUSTER]


def test_interactions_of_unseen_ids_out_of_range_are_refused() -> None:
    found = cluster(np.array([0]), np.array([0]), num_left=1, num_right=1, resolution=0.5)
    with pytest.raises(InvalidInputError, match="known end 1 of an edge is out of range; allowed: 0 to 0"):
        assign_unseen(found, np.array([0]), np.array([1]), num_new=1, side="left")
    with pytest.raises(InvalidInputError, match="new end 1 of an edge is out of range; allowed: 0 to 0"):
        assign_unseen(found, np.array([1]), np.array([0]), num_new=1, side="left")
