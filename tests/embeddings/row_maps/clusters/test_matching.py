"""Clusters that persist keep their numbers.

Legend: ``E`` edges, ``V`` ids of a side.
"""

from __future__ import annotations

import numpy as np
import pytest
from embeddings.row_maps.clusters.two_sided import COMMUNITIES, LEFT, RIGHT, SIZES, planted, same_partition

from recsys.embeddings.row_maps.clusters import NO_CLUSTER, cluster, match_labels
from recsys.errors import InvalidInputError


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
