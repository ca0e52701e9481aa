"""Positive ratings of a log as interactions, with the ids of the log: for models that rank all items beside ranking
models of the same log, whose FeatureSet and store they share."""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, Pairs, make_pairs
from recsys.data.sources.movielens.prepare import LogSplit
from recsys.data.sources.raw_log import MOVIELENS_1M, RawLog
from recsys.features.hashing import integer_keys

_POSITIVE = 4


def log_interactions(raw: RawLog, split: LogSplit) -> Interactions:
    """Ratings of 4 and more as pairs, in the parts of a split.

    Users and movies are those with a rating of any size in the training part, in the order of their ids: what is known
    only later has no part in it. A pair stays in the first part that has it.

    >>> from recsys.data.sources.movielens.prepare import rechorus_split
    >>> from recsys.data.sources.synthetic.logs import make_synthetic_log
    >>> raw = make_synthetic_log(users=50, events_per_user=40, items=30)
    >>> made = log_interactions(raw, rechorus_split(raw))
    >>> made.ids.features.name, made.num_items <= 30
    ('movielens_1m', True)
    """
    users, items = np.unique(raw.user[split.train]), np.unique(raw.item[split.train])
    positive = raw.rating >= _POSITIVE
    known = np.isin(raw.user, users) & np.isin(raw.item, items)

    def pairs(rows: Int64Array) -> Pairs:
        chosen = rows[positive[rows] & known[rows]]
        return make_pairs(np.searchsorted(users, raw.user[chosen]), np.searchsorted(items, raw.item[chosen]))

    train = pairs(split.train)
    validation = without(pairs(split.validation), train)
    test = without(without(pairs(split.test), train), validation)
    return Interactions(
        num_users=len(users),
        num_items=len(items),
        train=train,
        validation=validation,
        test=test,
        source=raw.source,
        ids=PairIds(features=MOVIELENS_1M, user_keys_N=integer_keys(users), item_keys_M=integer_keys(items)),
    )


def without(pairs: Pairs, others: Pairs) -> Pairs:
    """Pairs that are not among others."""
    width = 1 + max(int(pairs.item_E.max(initial=0)), int(others.item_E.max(initial=0)))
    new = ~np.isin(pairs.user_E * width + pairs.item_E, others.user_E * width + others.item_E)
    return Pairs(pairs.user_E[new], pairs.item_E[new])
