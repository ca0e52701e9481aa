"""Metrics against their definitions, written as loops over pairs, users and ranks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.metrics import auc, capped_recall_at_k, gauc, log_loss, ndcg_at_k, recall_at_k

# Few distinct scores, so that ties are common.
samples = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([-1.5, 0.0, 0.25, 2.0]), st.integers(0, 3)), max_size=40
)
Rows = list[tuple[int, float, int]]


def columns(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.array([row[i] for row in rows]) for i in range(3))  # type: ignore[return-value]


def pairwise_auc(rows: Rows) -> float | None:
    """Share of (positive, negative) pairs in the right order, a tie counting half; None if there are none."""
    wins = [(p > n) + 0.5 * (p == n) for a, p, _ in rows if a for b, n, _ in rows if not b]
    return sum(wins) / len(wins) if wins else None


@given(samples)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: Rows) -> None:
    labels, scores, _ = columns(rows)
    expected = pairwise_auc(rows)
    if expected is None:
        with pytest.raises(InvalidInputError, match="AUC needs both classes; got "):
            auc(labels, scores)
    else:
        assert auc(labels, scores) == pytest.approx(expected, abs=1e-12)


@given(samples)
def test_gauc_is_the_mean_auc_of_users_with_both_classes_weighted_by_samples(rows: Rows) -> None:
    labels, scores, users = columns(rows)
    weighted = weight = 0.0
    for user in {row[2] for row in rows}:
        own = [row for row in rows if row[2] == user]
        value = pairwise_auc(own)
        if value is not None:
            weighted, weight = weighted + len(own) * value, weight + len(own)
    got = gauc(labels, scores, users)
    assert math.isnan(got) if not weight else got == pytest.approx(weighted / weight, abs=1e-12)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(rows: Rows, random: object) -> None:
    rows = [*rows, (1, 0.0, 0), (0, 0.0, 0)]
    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for metric in (lambda y, s, g: auc(y, s), gauc):
        assert metric(*columns(rows)) == pytest.approx(metric(*columns(shuffled)), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.bool_])
def test_labels_of_any_dtype_give_the_same(dtype: type) -> None:
    labels = np.arange(600) % 3 == 0  # more positives than a uint8 can count would wrap
    scores = np.cos(np.arange(600))
    users = np.arange(600) % 7
    assert auc(labels.astype(dtype), scores) == auc(labels, scores)
    assert gauc(labels.astype(dtype), scores, users) == gauc(labels, scores, users)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_log_loss_is_the_mean_of_minus_log_likelihood(rows: list[tuple[int, float]]) -> None:
    clipped = [(y, min(max(p, 1e-7), 1 - 1e-7)) for y, p in rows]
    expected = sum(-math.log(p) if y else -math.log(1 - p) for y, p in clipped) / len(rows)
    labels, probabilities = np.array([y for y, _ in rows]), np.array([p for _, p in rows])
    assert log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-9)


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert log_loss(np.array([1, 0]), np.array([0.0, 1.0], dtype=np.float32)) == pytest.approx(-math.log(1e-7))


lists = st.integers(1, 6).flatmap(
    lambda k: st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=k, max_size=k), st.integers(0, 9)), min_size=1, max_size=5
    )
)


@given(lists)
def test_recall_and_ndcg_follow_their_definitions(users: list[tuple[list[int], int]]) -> None:
    # A user has at least as many relevant items as were hit, and at least one.
    relevant = [max(1, sum(hits) + missed) for hits, missed in users]
    recalls, capped, ndcgs = [], [], []
    for (hits, _), count in zip(users, relevant, strict=True):
        recalls.append(sum(hits) / count)
        capped.append(sum(hits) / min(count, len(hits)))
        dcg = sum(hit / math.log2(rank + 1) for rank, hit in enumerate(hits, start=1))
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(count, len(hits)) + 1))
        ndcgs.append(dcg / ideal)
    hits_GK = np.array([hits for hits, _ in users])
    assert recall_at_k(hits_GK, np.array(relevant)) == pytest.approx(sum(recalls) / len(users))
    assert capped_recall_at_k(hits_GK, np.array(relevant)) == pytest.approx(sum(capped) / len(users))
    assert ndcg_at_k(hits_GK, np.array(relevant)) == pytest.approx(sum(ndcgs) / len(users))


def test_ideal_dcg_counts_relevant_items_that_were_not_retrieved() -> None:
    # The mistake of old NGCF code: it would give 1.0, ranking the retrieved hits only.
    one_hit_on_top = np.array([[1, 0, 0]])
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg_at_k(one_hit_on_top, np.array([5])) == pytest.approx(1 / ideal)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.5], r"labels have shape \[2\], scores \[1\]; must be \[N\]"),
        ([[0, 1]], [[0.5, 1.0]], r"labels have shape \[1, 2\], scores \[1, 2\]; must be \[N\]"),
        ([0, 2], [0.5, 0.5], "labels: found 2; allowed: 0 and 1"),
        ([0.0, math.nan], [0.5, 0.5], "labels: found nan; allowed: 0 and 1"),
        ([0, 1], [0.5, math.nan], "scores: 1 of 2 are NaN"),
        ([1, 1], [0.5, 0.6], "AUC needs both classes; got 2 positives and 0 negatives"),
    ],
)
def test_auc_refuses_what_has_no_order(labels: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        auc(np.array(labels), np.array(scores))


def test_other_malformed_inputs_are_refused() -> None:
    labels = np.array([0, 1])
    with pytest.raises(InvalidInputError, match="1 groups for 2 labels"):
        gauc(labels, np.array([0.1, 0.2]), np.array([1]))
    with pytest.raises(InvalidInputError, match=r"probabilities are in \[-0.5, 1.5\]; allowed: 0 to 1"):
        log_loss(labels, np.array([-0.5, 1.5]))
    with pytest.raises(InvalidInputError, match="there are no samples; allowed: one or more"):
        log_loss(np.zeros(0), np.zeros(0))
    for metric in (recall_at_k, capped_recall_at_k, ndcg_at_k):
        with pytest.raises(InvalidInputError, match=r"hits have shape \[2\]; expected \[1, k\]"):
            metric(np.array([1, 0]), np.array([1]))
        with pytest.raises(InvalidInputError, match=r"hits have shape \[1, 2\]; expected \[2, k\]"):
            metric(np.array([[1, 0]]), np.array([1, 1]))
        with pytest.raises(InvalidInputError, match="at least one relevant item; leave the others out"):
            metric(np.array([[1, 0]]), np.array([0]))
        with pytest.raises(InvalidInputError, match="there are no users; allowed: one or more"):
            metric(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
