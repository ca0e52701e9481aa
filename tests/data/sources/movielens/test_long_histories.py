"""Long histories: who is kept, what is trained on, and how far back a sample reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.data.datasets import load_dataset
from recsys.data.samples.dataset import make_batch, make_dataset
from recsys.data.sources.movielens.long_histories import (
    LEAST_EVENTS,
    MAX_EVENTS,
    TRAINED_PER_USER,
    long_split,
    prepare_movielens_long,
)
from recsys.data.sources.movielens.prepare import RawLog
from recsys.data.sources.movielens.temporal import temporal_split
from recsys.data.sources.synthetic.logs import make_long_range_log
from recsys.errors import InvalidInputError


@pytest.fixture(scope="module")
def raw() -> RawLog:
    """Two users with 260 ratings, and one of them again with 199."""
    log = make_long_range_log(users=3, events_per_user=260, items=80)
    kept = np.flatnonzero((log.user < 3) | (np.arange(len(log)) < 2 * 260 + 199))
    return replace(
        log, user=log.user[kept], item=log.item[kept], rating=log.rating[kept], timestamp_ms=log.timestamp_ms[kept]
    )


def test_only_users_with_long_histories_are_kept(raw: RawLog) -> None:
    split = long_split(raw)
    assert LEAST_EVENTS == 200
    for rows in (split.kept, split.train, split.validation, split.test):
        assert set(raw.user[rows]) == {1, 2}
    assert len(split.kept) == 2 * 260


def test_validation_and_test_are_those_of_the_temporal_split(raw: RawLog) -> None:
    split, temporal = long_split(raw), temporal_split(raw)
    for name in ("validation", "test"):
        rows = getattr(temporal, name)
        assert sorted(getattr(split, name)) == sorted(rows[raw.user[rows] < 3])


def test_a_user_is_trained_on_the_newest_ratings_before_the_validation_part(raw: RawLog) -> None:
    split, temporal = long_split(raw), temporal_split(raw)
    for user in (1, 2):
        before = temporal.train[raw.user[temporal.train] == user]
        newest = before[np.argsort(raw.timestamp_ms[before], kind="stable")][-TRAINED_PER_USER:]
        assert sorted(split.train[raw.user[split.train] == user]) == sorted(newest)


def test_nobody_with_a_long_history_is_refused(raw: RawLog) -> None:
    rows = np.flatnonzero(raw.user == 3)
    short = replace(
        raw, user=raw.user[rows], item=raw.item[rows], rating=raw.rating[rows], timestamp_ms=raw.timestamp_ms[rows]
    )
    with pytest.raises(
        InvalidInputError, match="no user is left: the most ratings of one are 199; allowed: 200 or more"
    ):
        long_split(short)


def test_a_history_longer_than_a_sample_reads_is_cut_to_its_newest_events(raw: RawLog, tmp_path: Path) -> None:
    dataset = prepare_movielens_long(raw, tmp_path)
    features = dataset.table.features
    assert features.name == "movielens_1m_long"
    assert features.history is not None and features.history.max_events == MAX_EVENTS
    features = replace(features, history=replace(features.history, recent=100))
    short = make_dataset(replace(dataset.table, features=features), dataset.samples)
    last = dataset.split("test")[-1:]
    everything = replace(features, history=replace(features.history, recent=MAX_EVENTS))  # type: ignore[type-var]
    whole = make_batch(make_dataset(replace(dataset.table, features=everything), dataset.samples), last)
    cut = make_batch(short, last)
    assert cut.history_offsets.tolist() == [0, 100]
    assert 200 < whole.history_offsets[-1] < 260
    for name, column in cut.history.items():
        np.testing.assert_array_equal(column, whole.history[name][-100:])


def test_recipes_find_the_synthetic_log_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.data.datasets.make_long_range_log", lambda: make_long_range_log(users=2, items=60))
    loaded = load_dataset("synthetic_long", recent=400, work_dir=tmp_path)
    assert loaded.is_synthetic
    assert {name: len(rows) for name, rows in loaded.dataset.samples.splits.items()} == {
        "train": 160,
        "validation": 80,
        "test": 80,
    }
