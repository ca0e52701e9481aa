"""Positive ratings of a log as pairs: in the parts of the ranking models' split, with the log's ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.interactions.datasets import INTERACTION_SETS, load_interaction_set
from recsys.data.interactions.from_log import log_interactions
from recsys.data.interactions.pairs import Pairs, ids_of
from recsys.data.sources.movielens.prepare import LogSplit
from recsys.data.sources.raw_log import MOVIELENS_1M, RawLog
from recsys.errors import DataFileError


def log(ratings: list[tuple[int, int, int]]) -> RawLog:
    """(user, movie, rating), a minute apart."""
    user, item, rating = (np.array(column) for column in zip(*ratings, strict=True))
    return RawLog(
        users={},
        items={},
        user=user,
        item=item,
        rating=rating.astype(np.uint8),
        timestamp_ms=np.arange(len(ratings)) * 60_000,
        source="made",
    )


def named(pairs: Pairs, users: np.ndarray, items: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(users[pairs.user_E].tolist(), items[pairs.item_E].tolist(), strict=True))


def test_pairs_are_ratings_of_four_and_more_of_what_training_knows() -> None:
    raw = log(
        [
            *((7, 100, 5), (7, 40, 2), (9, 40, 4)),  # trained on
            *((9, 100, 4), (7, 100, 5), (7, 40, 3)),  # for validation: the second repeats, the third is not liked
            *((7, 40, 5), (9, 100, 5), (8, 40, 5), (9, 999, 5)),  # for test: known pair; and a new user, a new movie
        ]
    )
    parts = {"train": np.arange(3), "validation": np.arange(3, 6), "test": np.arange(6, 10)}
    made = log_interactions(raw, LogSplit(kept=np.arange(10), **parts))
    ids = ids_of(made)
    assert ids.user_keys_N.tolist() == [7, 9] and ids.item_keys_M.tolist() == [40, 100]
    assert ids.features == MOVIELENS_1M
    assert named(made.train, ids.user_keys_N, ids.item_keys_M) == {(7, 100), (9, 40)}
    assert named(made.validation, ids.user_keys_N, ids.item_keys_M) == {(9, 100)}
    assert named(made.test, ids.user_keys_N, ids.item_keys_M) == {(7, 40)}


def test_no_pair_of_training_is_later_than_one_of_the_other_parts(tmp_path: Path) -> None:
    made = load_interaction_set("synthetic", work_dir=tmp_path)
    assert "synthetic" in INTERACTION_SETS and len(made.train) > len(made.test) > 0
    everything = [part.user_E * made.num_items + part.item_E for part in (made.train, made.validation, made.test)]
    assert len(np.unique(np.concatenate(everything))) == sum(map(len, everything))


def test_movielens_that_cannot_be_had_is_no_synthetic_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFileError):
        load_interaction_set("movielens_1m", work_dir=tmp_path, path=tmp_path / "empty")
