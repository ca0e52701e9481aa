"""The synthetic log: repeatable, self-consistent, and only history tells the taste."""

import numpy as np
import pytest

from recsys.data.sources.movielens.prepare import rechorus_split
from recsys.data.sources.raw_log import RawLog
from recsys.data.sources.synthetic.logs import GENRES, make_long_range_log, make_synthetic_log
from recsys.errors import InvalidInputError
from recsys.metrics import auc


@pytest.fixture(scope="module")
def raw() -> RawLog:
    return make_synthetic_log()


def test_the_same_seed_gives_the_same_log(raw: RawLog) -> None:
    again, other = make_synthetic_log(), make_synthetic_log(seed=1)
    for name in ("user", "item", "rating", "timestamp_ms", "best_probabilities"):
        np.testing.assert_array_equal(getattr(again, name), getattr(raw, name))
    assert not np.array_equal(other.item, raw.item)


def test_sizes_are_those_asked_for() -> None:
    raw = make_synthetic_log(users=7, events_per_user=5, items=24)
    assert len(raw) == 35
    assert np.unique(raw.user).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert raw.item.min() >= 1 and raw.item.max() <= 24
    assert len(raw.items["title"]) == 24
    assert raw.source == "synthetic log: 7 users, 24 movies, 35 ratings, seed 0"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"users": 0}, "users is 0; allowed: 1 or more"),
        ({"events_per_user": 0}, "events_per_user is 0; allowed: 1 or more"),
        ({"items": 11}, "items is 11; allowed: 12 or more"),
    ],
)
def test_a_size_out_of_range_is_refused(size: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_synthetic_log(**size)


def test_labels_follow_their_probabilities(raw: RawLog) -> None:
    assert raw.best_probabilities is not None
    positive = raw.rating >= 4
    decile = (raw.best_probabilities * 10).astype(int)
    for d in np.unique(decile):
        chosen = decile == d
        spread = 0.5 / np.sqrt(chosen.sum())
        assert positive[chosen].mean() == pytest.approx(raw.best_probabilities[chosen].mean(), abs=5 * spread)


def test_history_beats_popularity_and_static_taste(raw: RawLog) -> None:
    """Scores that read the last 30 events are clearly better than any that do not."""
    assert raw.best_probabilities is not None
    split = rechorus_split(raw)
    train, test = split.train, split.test
    positive = (raw.rating >= 4).astype(np.float64)
    genre = np.array([GENRES.index(g) for g in raw.items["main_genre"]])[raw.item - 1]

    shown = np.bincount(raw.item[train], minlength=801)
    liked = np.bincount(raw.item[train], positive[train], minlength=801)
    popularity = (liked + 2.5) / (shown + 5)

    static = np.full((len(np.unique(raw.user)) + 1, len(GENRES), 2), 1.0)
    np.add.at(static, (raw.user[train], genre[train], positive[train].astype(int)), 1.0)
    static_rate = static[..., 1] / static.sum(axis=-1)

    events_per_user = 100
    recent_rate = np.empty(len(test))
    for row, event in enumerate(test):  # the log is sorted by user and time
        begin = max(event // events_per_user * events_per_user, event - 30)
        same = genre[begin:event] == genre[event]
        recent_rate[row] = (positive[begin:event][same].sum() + 0.5) / (same.sum() + 1)

    quality = popularity[raw.item[test]]
    labels = positive[test]
    best = auc(labels, raw.best_probabilities[test])
    recent = auc(labels, recent_rate + quality)
    by_static = auc(labels, static_rate[raw.user[test], genre[test]] + quality)
    assert best > 0.85
    assert best > recent + 0.05
    assert recent > by_static + 0.05
    assert by_static > auc(labels, quality) + 0.05


def test_the_long_range_log_keeps_a_users_taste_for_good() -> None:
    raw = make_long_range_log(users=40, events_per_user=200)
    assert raw.best_probabilities is not None
    half = np.tile(np.arange(200) < 100, 40)
    genre = np.asarray([name.removeprefix("Genre ") for name in raw.items["main_genre"]]).astype(int)[raw.item - 1]
    share = {}
    for part in (half, ~half):
        seen = np.zeros((40, 60))
        np.add.at(seen, (raw.user[part] - 1, genre[part]), 1)
        share[part[0]] = np.argsort(-seen, axis=1)[:, :12]
    again = np.mean([len(set(a) & set(b)) for a, b in zip(share[True], share[False], strict=True)])
    # By chance 12 of 60 and 12 of 60 have 2.4 in common.
    assert again > 5


def test_a_short_window_of_the_long_range_log_seldom_holds_the_candidates_genre() -> None:
    raw = make_long_range_log(users=40, events_per_user=200)
    genre = ((raw.item - 1) // 20).reshape(40, 200)
    seen = [
        (genre[user, place - 16 : place] == genre[user, place]).any() for user in range(40) for place in range(16, 200)
    ]
    assert np.mean(seen) < 0.5


def test_a_long_range_log_needs_a_movie_of_every_genre() -> None:
    with pytest.raises(InvalidInputError, match="items is 59; allowed: 60 or more"):
        make_long_range_log(items=59)
