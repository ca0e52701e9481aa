"""The user bootstrap against resampling by hand, and what it says of cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.metrics import Resamples, auc, mean_resamples, user_resamples
from recsys.metrics.bootstrap import WeightedAuc

samples = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([-1.0, 0.0, 0.5]), st.integers(0, 3)), min_size=1, max_size=20
)


@given(samples, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_weighted_auc_is_auc_of_samples_repeated_as_often(
    rows: list[tuple[int, float, int]], counts: list[int]
) -> None:
    labels, scores, users = (np.array(column) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), np.array(counts)[users])
    weighted = WeightedAuc.of(labels, scores, users)(np.array(counts, dtype=np.float64))
    if len(set(labels[repeated].tolist())) < 2:
        assert np.isnan(weighted)
    else:
        assert weighted == pytest.approx(auc(labels[repeated], scores[repeated]))


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_each_resample_draws_as_many_users_as_there_are(seed: int) -> None:
    users, random = 7, np.random.Generator(np.random.PCG64(seed))
    expected = [np.bincount(random.integers(users, size=users), minlength=users) for _ in range(5)]
    values = np.arange(users) ** 2.0
    drawn = mean_resamples({"x": values}, resamples=5, seed=seed)["x"].values_R
    assert drawn.tolist() == pytest.approx([float(counts @ values) / users for counts in expected])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # AUC of N(1, 1) over N(0, 1) is Phi(1 / sqrt 2) = 0.7602. 100 users of 6 samples whose scores share a part.
    random = np.random.Generator(np.random.PCG64(1))
    covered = 0
    for trial in range(60):
        labels = random.integers(0, 2, size=600)
        users = np.repeat(np.arange(100), 6)
        shared, own = random.normal(size=100)[users], random.normal(size=600)
        scores = labels + np.sqrt(0.5) * shared + np.sqrt(0.5) * own
        interval = user_resamples(labels, scores, users, means={}, resamples=200, seed=trial)["auc"].interval()
        assert interval is not None
        covered += interval[0] <= 0.7602 <= interval[1]
    assert 51 <= covered <= 60  # 57 expected


def test_a_model_beside_itself_is_not_better() -> None:
    values = mean_resamples({"a": np.array([0.0, 1.0, 0.5])}, resamples=50)["a"]
    assert values.minus(values).interval() == (0.0, 0.0)
    assert values.minus(values).share_above_zero() == 0.5


def test_where_most_resamples_have_one_class_there_is_no_interval() -> None:
    # The positive belongs to one of two users: a resample has both classes in half of the cases at most.
    labels, scores, users = np.array([1, 0]), np.array([0.5, 0.2]), np.array([1, 2])
    drawn = user_resamples(labels, scores, users, means={}, resamples=400)["auc"]
    assert 0.4 < np.isfinite(drawn.values_R).mean() < 0.6
    assert Resamples(values_R=np.full(4, np.nan)).interval() is None
    assert Resamples(values_R=np.full(4, np.nan)).share_above_zero() is None


def test_the_same_seed_gives_the_same_draws_whatever_the_order_of_samples() -> None:
    random = np.random.Generator(np.random.PCG64(3))
    labels, scores, users = random.integers(0, 2, 50), random.normal(size=50), random.integers(0, 9, 50)
    order = random.permutation(50)
    one = user_resamples(labels, scores, users, means={}, resamples=20, seed=4)["auc"].values_R
    two = user_resamples(labels[order], scores[order], users[order], means={}, resamples=20, seed=4)["auc"].values_R
    assert one.tolist() == pytest.approx(two.tolist())


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="resamples is 0; allowed: 1 or more"):
        user_resamples(np.array([0, 1]), np.array([0.1, 0.2]), np.array([1, 1]), means={}, resamples=0)
    with pytest.raises(InvalidInputError, match="values of .1, 2. users; allowed: of the same users"):
        mean_resamples({"a": np.zeros(1), "b": np.zeros(2)})
