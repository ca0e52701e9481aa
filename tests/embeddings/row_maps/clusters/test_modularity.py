"""Clusters of ids that share neighbours.

Legend: ``E`` edges, ``V`` ids of a side.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from embeddings.row_maps.clusters.two_sided import (
    COMMUNITIES,
    LEFT,
    LEFT_COMMUNITY,
    RIGHT,
    RIGHT_COMMUNITY,
    SIZES,
    planted,
    power_law,
    same_partition,
)

from recsys.embeddings.row_maps.clusters import (
    NO_CLUSTER,
    Clusters,
    assign_unseen,
    cluster,
    cluster_again,
    cluster_to_rows,
    index_keys,
    match_labels,
)
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, MISSING


def modularity(found: Clusters, edges: set[tuple[int, int]]) -> float:
    """The objective, pair by pair."""
    left_degree, right_degree = np.zeros(len(found.left_labels)), np.zeros(len(found.right_labels))
    for left, right in edges:
        left_degree[left] += 1
        right_degree[right] += 1
    total, w = 0.0, len(edges)
    for left, right in product(range(len(left_degree)), range(len(right_degree))):
        of_left, of_right = found.left_labels[left], found.right_labels[right]
        if NO_CLUSTER in (of_left, of_right) or found.left_communities[of_left] != found.right_communities[of_right]:
            continue
        total += ((left, right) in edges) - found.resolution * left_degree[left] * right_degree[right] / w
    return total / w


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_planted_communities_are_found(seed: int | None) -> None:
    found = cluster(*planted(), **SIZES, resolution=2.0, seed=seed)
    assert same_partition(found.left_labels, LEFT_COMMUNITY)
    assert same_partition(found.right_labels, RIGHT_COMMUNITY)
    assert found.num_left == found.num_right == COMMUNITIES


def test_both_halves_of_a_community_name_the_same_one() -> None:
    found = cluster(*planted(), **SIZES, resolution=2.0)
    left = found.left_communities[found.left_labels]
    right = found.right_communities[found.right_labels]
    assert ((left[:, None] == right) == (LEFT_COMMUNITY[:, None] == RIGHT_COMMUNITY)).all()


@pytest.mark.parametrize("seed", [None, 7])
def test_the_same_seed_gives_the_same_labels(seed: int | None) -> None:
    first, second = (cluster(*power_law(), num_left=3_000, num_right=1_000, resolution=20, seed=seed) for _ in "ab")
    np.testing.assert_array_equal(first.left_labels, second.left_labels)
    np.testing.assert_array_equal(first.right_labels, second.right_labels)
    assert first.modularity == second.modularity


def test_labels_are_consecutive_by_falling_number_of_ids() -> None:
    found = cluster(*power_law(), num_left=3_000, num_right=1_000, resolution=20)
    for labels, count in ((found.left_labels, found.num_left), (found.right_labels, found.num_right)):
        sizes = np.bincount(labels[labels != NO_CLUSTER], minlength=count)
        assert len(sizes) == count and sizes.min() > 0
        assert (np.diff(sizes) <= 0).all()


def test_an_edge_given_twice_counts_once() -> None:
    left_E, right_E = planted()
    once = cluster(left_E, right_E, **SIZES, resolution=2.0)
    again = np.random.default_rng(0).permutation(np.concatenate([np.arange(len(left_E)), np.arange(500)]))
    twice = cluster(left_E[again], right_E[again], **SIZES, resolution=2.0)
    np.testing.assert_array_equal(once.left_labels, twice.left_labels)
    np.testing.assert_array_equal(once.right_labels, twice.right_labels)
    assert once.modularity == twice.modularity


@pytest.mark.parametrize("seed", [None, 0])
def test_ids_without_edges_are_in_no_cluster(seed: int | None) -> None:
    left_E, right_E = planted()
    found = cluster(left_E + 3, right_E + 1, num_left=LEFT + 5, num_right=RIGHT + 1, resolution=2.0, seed=seed)
    assert np.flatnonzero(found.left_labels == NO_CLUSTER).tolist() == [0, 1, 2, LEFT + 3, LEFT + 4]
    assert np.flatnonzero(found.right_labels == NO_CLUSTER).tolist() == [0]
    assert same_partition(found.left_labels[3:-2], LEFT_COMMUNITY)


@pytest.mark.parametrize("resolution", [0.5, 3.0, 30.0])
def test_modularity_is_the_sum_of_its_definition(resolution: float) -> None:
    random = np.random.default_rng(1)
    left_E, right_E = random.integers(0, 30, 150), random.integers(0, 20, 150)
    found = cluster(left_E, right_E, num_left=32, num_right=21, resolution=resolution)
    edges = set(zip(left_E.tolist(), right_E.tolist(), strict=True))
    assert found.modularity == pytest.approx(modularity(found, edges), abs=1e-12)


def test_degrees_of_communities_count_the_edges_of_their_ids() -> None:
    left_E, right_E = planted()
    found = cluster(left_E, right_E, **SIZES, resolution=2.0)
    of_edge = found.left_communities[found.left_labels[left_E]]
    assert found.left_degrees_C.tolist() == [int((of_edge == c).sum()) for c in range(COMMUNITIES)]
    of_edge = found.right_communities[found.right_labels[right_E]]
    assert found.right_degrees_C.tolist() == [int((of_edge == c).sum()) for c in range(COMMUNITIES)]


@pytest.mark.parametrize(("resolution", "modularity"), [(0.5, 0.5), (2.0, 0.0)])
def test_one_edge_is_a_graph(resolution: float, modularity: float) -> None:
    """Together the two ids have 1 - resolution, apart 0."""
    found = cluster(np.array([0]), np.array([0]), num_left=1, num_right=1, resolution=resolution)
    assert found.left_labels.tolist() == found.right_labels.tolist() == [0]
    assert (found.left_communities == found.right_communities).all() == (resolution < 1)
    assert found.modularity == modularity


def test_int32_edges_give_the_labels_of_int64_ones() -> None:
    left_E, right_E = planted()
    narrow = cluster(left_E.astype(np.int32), right_E.astype(np.int32), **SIZES, resolution=2.0)
    np.testing.assert_array_equal(narrow.left_labels, cluster(left_E, right_E, **SIZES, resolution=2.0).left_labels)


@pytest.mark.parametrize("name", ["cluster", "cluster_to_rows"])
def test_a_graph_without_edges_is_refused(name: str) -> None:
    empty = np.array([], dtype=np.int64)
    with pytest.raises(InvalidInputError, match="no edges; allowed: 1 or more"):
        if name == "cluster":
            cluster(empty, empty, **SIZES, resolution=1.0)
        else:
            cluster_to_rows(empty, empty, **SIZES, rows=4)


@pytest.mark.parametrize("resolution", [0.0, -1.0, float("nan"), float("inf")])
def test_a_resolution_not_above_zero_is_refused(resolution: float) -> None:
    with pytest.raises(InvalidInputError, match=f"resolution is {resolution}; allowed: above 0"):
        cluster(*planted(), **SIZES, resolution=resolution)


def test_ends_of_edges_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="left end 4 of an edge is out of range; allowed: 0 to 3"):
        cluster(np.array([0, 4]), np.array([0, 0]), num_left=4, num_right=1, resolution=1.0)
    with pytest.raises(InvalidInputError, match="right end -1 of an edge is out of range; allowed: 0 to 0"):
        cluster(np.array([0, 3]), np.array([0, -1]), num_left=4, num_right=1, resolution=1.0)
    with pytest.raises(InvalidInputError, match=r"edges are \(2,\) and \(1,\); allowed: two equally long"):
        cluster(np.array([0, 3]), np.array([0]), num_left=4, num_right=1, resolution=1.0)
    with pytest.raises(InvalidInputError, match="left ends of edges are float64; allowed: integers"):
        cluster(np.array([0.0]), np.array([0]), num_left=4, num_right=1, resolution=1.0)  # type: ignore[arg-type]


def test_a_side_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="side is 'top'; allowed: 'left', 'right', 'both'"):
        cluster_to_rows(*planted(), **SIZES, rows=30, side="top")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="side is 'both'; allowed: 'left', 'right'"):
        found = cluster(*planted(), **SIZES, resolution=2.0)
        assign_unseen(found, np.array([0]), np.array([0]), num_new=1, side="both")  # type: ignore[arg-type]


def test_a_clustering_begun_at_an_earlier_one_keeps_its_ids_together() -> None:
    left_E, right_E = power_law()
    kept = np.random.default_rng(1).random(len(left_E)) > 0.05
    sizes = {"num_left": 3_000, "num_right": 1_000}
    old = cluster(left_E, right_E, **sizes, resolution=20.0)
    again = cluster_again(
        left_E[kept],
        right_E[kept],
        left_start_V=old.left_labels,
        right_start_V=old.right_labels,
        resolution=20.0,
    )
    anew = cluster(left_E[kept], right_E[kept], **sizes, resolution=20.0)
    ids = np.arange(3_000)
    shares = [match_labels(ids, old.left_labels, ids, f.left_labels).kept_ids / len(ids) for f in (again, anew)]
    assert shares[0] > 0.9 > 1.5 * shares[1]
    for cluster_number in range(old.num_left):  # earlier clusters stay whole
        members = np.flatnonzero((old.left_labels == cluster_number) & (again.left_labels != NO_CLUSTER))
        assert len(np.unique(again.left_labels[members])) <= 1


def test_ids_without_an_earlier_cluster_join_the_one_they_belong_to() -> None:
    start = {"left_start_V": LEFT_COMMUNITY.copy(), "right_start_V": RIGHT_COMMUNITY.copy()}
    start["left_start_V"][::7] = NO_CLUSTER
    start["right_start_V"][::5] = NO_CLUSTER
    found = cluster_again(*planted(), **start, resolution=2.0)
    assert same_partition(found.left_labels, LEFT_COMMUNITY)
    assert same_partition(found.right_labels, RIGHT_COMMUNITY)


def test_the_numbers_of_earlier_clusters_may_be_of_any_size() -> None:
    # Left clusters are numbered beyond the number of ids: neither the right ones nor single ids may be taken for them.
    left_E, right_E = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    start = {"left_start_V": np.array([3, 7]), "right_start_V": np.array([5, 5, 1, NO_CLUSTER])}
    found = cluster_again(left_E, right_E, **start, resolution=1.0)
    of_left = found.left_communities[found.left_labels]
    of_right = found.right_communities[found.right_labels]
    assert of_left[0] != of_left[1]
    assert of_right.tolist() == of_left[[0, 0, 1, 1]].tolist()


def test_a_clustering_begun_nowhere_is_a_clustering_of_single_ids() -> None:
    alone = {"left_start_V": np.full(LEFT, NO_CLUSTER), "right_start_V": np.full(RIGHT, NO_CLUSTER)}
    assert same_partition(cluster_again(*planted(), **alone, resolution=2.0).left_labels, LEFT_COMMUNITY)
    with pytest.raises(InvalidInputError, match="resolution is 0; allowed: above 0, finite"):
        cluster_again(*planted(), **alone, resolution=0)


def test_keys_at_both_ends_of_the_range_become_indices_and_back() -> None:
    keys_E = np.array([KEY_LIMIT - 1, 0, KEY_LIMIT - 2, 0])
    indices_E, keys_V = index_keys(keys_E)
    assert keys_V.tolist() == [0, KEY_LIMIT - 2, KEY_LIMIT - 1]
    np.testing.assert_array_equal(keys_V[indices_E], keys_E)
    found = cluster(indices_E, np.array([0, 1, 0, 1]), num_left=3, num_right=2, resolution=1.0)
    assert found.left_labels.tolist() == [1, 0, 0]
    matched = match_labels(keys_V, found.left_labels, keys_V[::-1], found.left_labels[::-1])
    assert matched.labels.tolist() == [0, 0, 1] and matched.kept == 2


@pytest.mark.parametrize("key", [MISSING, KEY_LIMIT])
def test_a_key_out_of_range_is_refused(key: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"key {key} is out of range; allowed: 0 to 2\^62 - 1"):
        index_keys(np.array([3, key]))
