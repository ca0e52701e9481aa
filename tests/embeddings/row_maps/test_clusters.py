"""Clusters of ids that share neighbours, and what keeps their rows useful.

Legend: ``E`` edges, ``V`` ids of a side.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.clusters import (
    MAX_TRIES,
    NO_CLUSTER,
    TOLERANCE,
    Clusters,
    Try,
    assign_unseen,
    cluster,
    cluster_again,
    cluster_to_rows,
    index_keys,
    match_labels,
)
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, MISSING

COMMUNITIES, LEFT, RIGHT = 12, 240, 120
LEFT_COMMUNITY = np.arange(LEFT) % COMMUNITIES
RIGHT_COMMUNITY = np.arange(RIGHT) % COMMUNITIES
SIZES = {"num_left": LEFT, "num_right": RIGHT}


def planted(*, seed: int = 0, inside: float = 0.7, outside: float = 0.01) -> tuple[Int64Array, Int64Array]:
    """Edges inside communities are likely, others are not."""
    same = LEFT_COMMUNITY[:, None] == RIGHT_COMMUNITY
    drawn = np.random.default_rng(seed).random((LEFT, RIGHT)) < np.where(same, inside, outside)
    left_E, right_E = np.nonzero(drawn)
    return left_E, right_E


def power_law(*, left: int = 3_000, right: int = 1_000, edges: int = 20_000) -> tuple[Int64Array, Int64Array]:
    """A graph whose number of clusters has many values."""
    random = np.random.default_rng(3)
    return (left * random.random(edges) ** 2).astype(np.int64), (right * random.random(edges) ** 2).astype(np.int64)


def same_partition(labels: Int64Array, expected: Int64Array) -> bool:
    """Whether two labellings differ by names only."""
    pairs = np.unique(np.stack([labels, expected]), axis=1).shape[1]
    return pairs == len(np.unique(labels)) == len(np.unique(expected))


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


def clusters_of(found: Clusters, side: str) -> int:
    return {"left": found.num_left, "right": found.num_right, "both": found.num_left + found.num_right}[side]


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


def test_a_side_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="side is 'top'; allowed: 'left', 'right', 'both'"):
        cluster_to_rows(*planted(), **SIZES, rows=30, side="top")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="side is 'both'; allowed: 'left', 'right'"):
        found = cluster(*planted(), **SIZES, resolution=2.0)
        assign_unseen(found, np.array([0]), np.array([0]), num_new=1, side="both")  # type: ignore[arg-type]


def test_rows_persist_when_5_percent_of_the_edges_change() -> None:
    left_E, right_E = planted()
    before = cluster(left_E, right_E, **SIZES, resolution=2.0)
    random = np.random.default_rng(5)
    changed = random.random(len(left_E)) < 0.05
    new_right_E = np.where(changed, random.integers(0, RIGHT, len(right_E)), right_E)
    after = cluster(left_E, new_right_E, **SIZES, resolution=2.0, seed=9)
    # Ids 0 to 9 are gone, as many have come.
    keys_V = np.arange(LEFT) + 1_000
    new_keys_V = np.concatenate([keys_V[10:], np.arange(10)])
    new_labels_V = np.concatenate([after.left_labels[10:], after.left_labels[:10]])
    matched = match_labels(keys_V, before.left_labels, new_keys_V, new_labels_V)
    assert matched.kept == matched.num_clusters == COMMUNITIES
    assert (matched.labels[:-10] == before.left_labels[10:]).mean() > 0.99
    assert matched.kept_ids == (matched.labels[:-10] == before.left_labels[10:]).sum()


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


def test_clusters_are_matched_by_falling_number_of_common_ids() -> None:
    """Old cluster 0 shares two ids with new 1 and three with new 0; old 1 shares one with new 0."""
    old = np.array([0, 0, 0, 0, 0, 1])
    new = np.array([0, 0, 0, 1, 1, 0])
    matched = match_labels(np.arange(6), old, np.arange(6), new)
    assert matched.labels.tolist() == [0, 0, 0, 1, 1, 0]
    assert (matched.kept, matched.num_clusters) == (1, 2)


def test_a_new_cluster_gets_the_smallest_free_number() -> None:
    old_labels, new_labels = np.array([0, 1, 2, NO_CLUSTER]), np.array([0, 1, 2, 3, NO_CLUSTER, 3])
    matched = match_labels(np.array([5, 6, 7, 8]), old_labels, np.array([7, 8, 5, 9, 10, 11]), new_labels)
    # 7 was in cluster 2 and 5 in 0; 8 was in none, so new cluster 1 is new, and so is 3.
    assert matched.labels.tolist() == [2, 1, 0, 3, NO_CLUSTER, 3]
    assert (matched.kept, matched.kept_ids, matched.num_clusters) == (2, 2, 4)


def test_where_clusters_become_fewer_some_numbers_are_unused() -> None:
    matched = match_labels(np.arange(4), np.array([0, 1, 2, 3]), np.array([3]), np.array([0]))
    assert matched.labels.tolist() == [3]
    assert (matched.kept, matched.num_clusters) == (1, 4)


def test_matching_is_the_greedy_one_pair_by_pair() -> None:
    random = np.random.default_rng(2)
    old, new = random.integers(0, 40, 800), random.integers(0, 50, 800)
    overlap: dict[tuple[int, int], int] = {}
    for pair in zip(old.tolist(), new.tolist(), strict=True):
        overlap[pair] = overlap.get(pair, 0) + 1
    expected: dict[int, int] = {}
    for (a, b), _ in sorted(overlap.items(), key=lambda item: (-item[1], item[0])):
        if b not in expected and a not in expected.values():
            expected[b] = a
    matched = match_labels(np.arange(800), old, np.arange(800), new)
    for b, a in expected.items():
        assert set(matched.labels[new == b]) == {a}
    assert matched.kept == len(expected) == 40
    assert same_partition(matched.labels, new)


def test_keys_given_twice_or_without_a_label_are_refused_in_matching() -> None:
    one, two = np.array([1]), np.array([1, 1])
    with pytest.raises(InvalidInputError, match=r"old keys are \(2,\), old labels \(1,\); allowed: one label a key"):
        match_labels(two, one, one, one)
    with pytest.raises(InvalidInputError, match="1 new keys are given more than once"):
        match_labels(one, one, two, two)


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
