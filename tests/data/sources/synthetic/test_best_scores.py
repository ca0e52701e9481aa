"""The best possible scores on the long-range log: exact, calibrated, and better with more of the history."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from recsys.data.sources.movielens.long_histories import long_split
from recsys.data.sources.synthetic.best_scores import best_scores, probability_liked
from recsys.data.sources.synthetic.logs import LONG_RANGE_GENRES, long_range_movies, make_long_range_log
from recsys.metrics import auc


def test_the_probability_of_a_genre_is_its_share_of_all_choices_weighted_by_their_evidence() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    evidence_MG = random.normal(0, 3, size=(20, 6))
    genre_M = random.integers(0, 6, size=20)
    for sample in range(20):
        weights = {chosen: np.exp(evidence_MG[sample, list(chosen)].sum()) for chosen in combinations(range(6), 3)}
        with_it = sum(weight for chosen, weight in weights.items() if genre_M[sample] in chosen)
        liked = probability_liked(evidence_MG[[sample]], genre_M[[sample]], count=3)
        assert liked == pytest.approx([with_it / sum(weights.values())])


def test_without_evidence_every_genre_is_liked_as_often_and_much_evidence_does_not_overflow() -> None:
    assert probability_liked(np.zeros((1, 60)), np.array([7]), count=12) == pytest.approx([12 / 60])
    sure = np.where(np.arange(60) < 12, 2000.0, -2000.0)[None].repeat(2, axis=0)
    assert probability_liked(sure, np.array([3, 30]), count=12).tolist() == [1.0, 0.0]


def test_the_movies_are_those_of_the_log() -> None:
    raw, movies = (
        make_long_range_log(users=300, events_per_user=100, items=70, seed=3),
        long_range_movies(items=70, seed=3),
    )
    genres = [int(name.removeprefix("Genre ")) for name in raw.items["main_genre"]]
    assert movies.genre_I.tolist() == genres and movies.genre_I.max() == LONG_RANGE_GENRES - 1
    # The probability that a rating was drawn with is that of its movie's genre being liked, or not.
    assert raw.best_probabilities is not None
    logit = np.log(raw.best_probabilities / (1 - raw.best_probabilities)) - movies.quality_I[raw.item - 1]
    assert np.unique(logit.round(9)).tolist() == [-1.6, 2.0]


def test_scores_are_the_probabilities_that_they_say() -> None:
    raw = make_long_range_log(users=400, events_per_user=60)
    rows = np.flatnonzero(np.arange(len(raw)) % 60 >= 30)
    positive = raw.rating[rows] >= 4
    scores = best_scores(raw, long_range_movies(), rows, recent=30)
    for tenth in np.array_split(np.argsort(scores), 10):
        assert positive[tenth].mean() == pytest.approx(scores[tenth].mean(), abs=4 * 0.5 / np.sqrt(len(tenth)))


def test_only_earlier_events_of_the_window_and_those_remembered_count() -> None:
    raw, movies = make_long_range_log(users=2, events_per_user=50), long_range_movies()
    row = np.array([90])  # of the second user, whose rows are 50 to 99
    other = raw.rating.copy()
    other[:80], other[90:] = 6 - other[:80], 6 - other[90:]  # all but the newest ten before it

    def score(rating: np.ndarray, **known: np.ndarray | int) -> float:
        changed = make_long_range_log(users=2, events_per_user=50)
        object.__setattr__(changed, "rating", rating.astype(np.uint8))
        return float(best_scores(changed, movies, row, **known)[0])  # type: ignore[arg-type]

    assert score(other, recent=10) == score(raw.rating, recent=10)
    assert score(other, recent=11) != score(raw.rating, recent=11)
    assert score(raw.rating, recent=10, remembered=np.arange(40, 80)) == score(raw.rating, recent=40)
    assert score(raw.rating, recent=10, remembered=np.arange(90, 100)) == score(raw.rating, recent=10)


def test_the_best_auc_of_the_recipes_samples_is_what_its_log_says() -> None:
    raw, movies = make_long_range_log(), long_range_movies()
    test = long_split(raw).test
    test = test[raw.user[test] % 10 == 0]  # 12,000 of 120,000: within .01 of the AUC of all
    positive = raw.rating[test] >= 4
    short, long = (auc(positive, best_scores(raw, movies, test, recent=recent)) for recent in (16, 400))
    assert raw.best_probabilities is not None
    known = auc(positive, raw.best_probabilities[test])
    assert (short, long) == pytest.approx((0.7123, 0.8862), abs=0.01)
    assert long < known < long + 0.001  # 400 events leave little to guess
