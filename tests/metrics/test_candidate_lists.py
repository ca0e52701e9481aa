"""Metrics of lists: of candidates with one positive by enumerating the orders of ties, of retrieved items by sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.metrics import coverage, hit_rate_at_k, mrr, one_positive_lists

# Few distinct scores, so that ties are common; the first of each list is its positive.
lists = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=5), min_size=1, max_size=4)


def mean_over_orders_of_ties(scores: list[float], gain: dict[int, float]) -> float:
    """Mean of the gain at the positive's rank over all orders that the scores allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(gain.get(order.index(0) + 1, 0.0) for order in orders) / len(orders)


@given(lists, st.integers(1, 6))
def test_a_tie_counts_as_the_mean_over_its_orders(candidates: list[list[float]], k: int) -> None:
    labels = np.array([place == 0 for each in candidates for place, _ in enumerate(each)]).astype(int)
    scores = np.array([score for each in candidates for score in each])
    groups = np.repeat(np.arange(len(candidates)) * 7, [len(each) for each in candidates])
    found = one_positive_lists(labels, scores, groups)
    assert found is not None
    hit = {rank: 1.0 for rank in range(1, k + 1)}
    ndcg = {rank: 1 / math.log2(rank + 1) for rank in range(1, k + 1)}
    reciprocal = {rank: 1 / rank for rank in range(1, 7)}
    for number, each in enumerate(candidates):
        assert found.hit_rate_G(k)[number] == pytest.approx(mean_over_orders_of_ties(each, hit))
        assert found.ndcg_G(k)[number] == pytest.approx(mean_over_orders_of_ties(each, ndcg))
        assert found.reciprocal_rank_G()[number] == pytest.approx(mean_over_orders_of_ties(each, reciprocal))


def test_a_model_that_scores_all_alike_hits_a_tenth_of_lists_of_a_hundred() -> None:
    labels = np.tile(np.arange(100) == 0, 3).astype(int)
    found = one_positive_lists(labels, np.zeros(300), np.repeat([1, 2, 3], 100))
    assert found is not None
    assert found.hit_rate_G(10).tolist() == pytest.approx([0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([1, 0, 1], [1, 1, 2]),  # a list without a negative
        ([1, 1, 0, 1, 0], [1, 1, 1, 2, 2]),  # two positives
        ([0, 0, 1, 0], [1, 1, 2, 2]),  # no positive
        ([], []),
    ],
)
def test_samples_that_are_no_such_lists_have_none(labels: list[int], groups: list[int]) -> None:
    assert one_positive_lists(np.array(labels), np.zeros(len(labels)), np.array(groups)) is None


@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_hit_rate_and_mrr_follow_their_definitions(rows: list[list[int]]) -> None:
    hits, relevant = np.array(rows), np.array([max(1, sum(row)) for row in rows])
    assert hit_rate_at_k(hits, relevant) == pytest.approx(sum(1 in row for row in rows) / len(rows))
    ranks = [1 / (row.index(1) + 1) if 1 in row else 0.0 for row in rows]
    assert mrr(hits, relevant) == pytest.approx(sum(ranks) / len(rows))


def test_coverage_counts_each_recommended_item_once_and_no_empty_place() -> None:
    assert coverage(np.array([[1, 2], [2, -1]]), items=8) == 2 / 8
    with pytest.raises(InvalidInputError, match="coverage of 2 items: found item 2; allowed: below"):
        coverage(np.array([[0, 2]]), items=2)


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 groups for 2 labels"):
        one_positive_lists(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1]))
