"""The temporal split of MovieLens-1M: a user's last tenth is for test, and no moment is cut."""

from pathlib import Path

import numpy as np

from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.movielens.temporal import temporal_split
from recsys.data.sources.raw_log import RawLog
from recsys.data.sources.synthetic.logs import make_synthetic_log


def log(user: list[int], timestamp_ms: list[int]) -> RawLog:
    """Ratings of movie 1, 2, ...: all of them 4."""
    count = len(user)
    return RawLog(
        users={"user_id": sorted(set(user))},
        items={"movie_id": list(range(count))},
        user=np.array(user),
        item=np.arange(count),
        rating=np.full(count, 4, dtype=np.uint8),
        timestamp_ms=np.array(timestamp_ms),
        source="made",
    )


def test_the_last_tenth_of_each_user_is_for_test_and_the_tenth_before_for_validation() -> None:
    times = list(range(20)) + list(range(100, 110))
    split = temporal_split(log([1] * 20 + [2] * 10, times))
    assert sorted(split.test.tolist()) == [18, 19, 29]
    assert sorted(split.validation.tolist()) == [16, 17, 28]
    assert sorted(split.train.tolist()) == [*range(16), *range(20, 28)]
    assert split.kept.tolist() == list(range(30))


def test_the_order_of_the_rows_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(20)
    split = temporal_split(log([1] * 20, shuffled.tolist()))
    assert sorted(shuffled[split.test].tolist()) == [18, 19]


def test_a_moment_is_not_cut() -> None:
    # The cut before the last of ten falls into a moment of three: it is trained on as a whole.
    split = temporal_split(log([1] * 10, [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]))
    assert split.test.tolist() == split.validation.tolist() == []
    split = temporal_split(log([1] * 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]))
    assert sorted(split.validation.tolist()) == [8, 9] and split.test.tolist() == []


def test_a_user_with_fewer_than_ten_ratings_is_only_trained_on() -> None:
    split = temporal_split(log([1] * 9, list(range(9))))
    assert len(split.train) == 9 and not len(split.test) and not len(split.validation)


def test_nothing_is_tested_at_or_before_a_moment_the_user_was_trained_on(tmp_path: Path) -> None:
    raw = make_synthetic_log(users=50, events_per_user=40, items=60)
    dataset = prepare_movielens(raw, tmp_path, split=temporal_split)
    newest = np.full(len(dataset.table.user_keys), -1)
    train, test = dataset.split("train"), dataset.split("test")
    np.maximum.at(newest, dataset.sample_user[train], dataset.sample_time_ms[train])
    assert len(test) > 100
    assert (dataset.sample_time_ms[test] > newest[dataset.sample_user[test]]).all()
