"""MovieLens-1M of users with long histories: what attention over a thousand events is worth.

1,589 of 6,040 users have 200 ratings or more: 656,981 of the ratings, 335 per user in the middle, 2,314 at most.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.sources.movielens.prepare import LogSplit, prepare_movielens
from recsys.data.sources.movielens.temporal import temporal_split
from recsys.data.sources.raw_log import RawLog
from recsys.errors import InvalidInputError
from recsys.features.feature_set import History

LEAST_EVENTS = 200
"""Ratings of a user who is kept."""

TRAINED_PER_USER = 80
"""A user's newest ratings before the validation part that are training samples; older ones are history only."""

MAX_EVENTS = 2400
"""More than the longest history has."""


def long_split(raw: RawLog) -> LogSplit:
    """:func:`temporal_split`, 80/10/10 of each user's ratings in time, of users with many of them.

    Training samples are a user's newest ``TRAINED_PER_USER`` of the first part, so that a run takes minutes and every
    training sample has a history of about the length that the test's have.

    Raises:
        InvalidInputError: no user has that many ratings.
    """
    users, user, count_U = np.unique(raw.user, return_inverse=True, return_counts=True)
    long = (count_U >= LEAST_EVENTS)[user]
    if not long.any():
        raise InvalidInputError(
            f"no user is left: the most ratings of one are {count_U.max(initial=0)}; allowed: {LEAST_EVENTS} or more"
        )
    split = temporal_split(raw)
    train = split.train[long[split.train]]
    newest_first = train[np.lexsort((-raw.timestamp_ms[train], user[train]))]
    trained_U = np.bincount(user[newest_first], minlength=len(users))
    begin_U = np.cumsum(trained_U) - trained_U
    place = np.arange(len(newest_first)) - begin_U[user[newest_first]]
    return LogSplit(
        kept=split.kept[long[split.kept]],
        train=newest_first[place < TRAINED_PER_USER],
        validation=split.validation[long[split.validation]],
        test=split.test[long[split.test]],
    )


def prepare_movielens_long(raw: RawLog, path: Path) -> Dataset:
    """Event table and samples of :func:`long_split`; see ``prepare_movielens``. Histories hold ``MAX_EVENTS``."""
    dataset = prepare_movielens(raw, path, split=long_split)
    declared = dataset.table.features
    assert declared.history is not None
    history: History = replace(declared.history, max_events=MAX_EVENTS)
    features = replace(declared, name="movielens_1m_long", history=history)
    return make_dataset(replace(dataset.table, features=features), dataset.samples)
