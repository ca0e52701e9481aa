"""Users and items of planted communities, which a model must find."""

from __future__ import annotations

import numpy as np
import torch

from recsys.data.interactions.pairs import Interactions, hold_out, make_pairs
from recsys.training.retrieval.ranking import RankingMetrics, rank_all

COMMUNITIES, USERS_EACH, ITEMS_EACH = 4, 30, 25
USERS, ITEMS = COMMUNITIES * USERS_EACH, COMMUNITIES * ITEMS_EACH
LOST = "2 of 360 test pairs are of 1 items of which nothing was learnt: they are in no list, and count as not found"
"""Note of each run: an item of these, but for other seeds, has no training pair."""


def planted(seed: int = 0) -> Interactions:
    """Users take 12 items, most of them their community's; some items are three times as popular as others."""
    random = np.random.default_rng(seed)
    popularity = 1.0 + np.arange(ITEMS) % 3
    user_E, item_E = [], []
    for user in range(USERS):
        own = np.arange(ITEMS) // ITEMS_EACH == user // USERS_EACH
        chance = np.where(own, 0.97, 0.03) * popularity
        item_E.append(random.choice(ITEMS, size=12, replace=False, p=chance / chance.sum()))
        user_E.append(np.full(12, user))
    rest, test = hold_out(make_pairs(np.concatenate(user_E), np.concatenate(item_E)), share=0.25, seed=seed)
    train, validation = hold_out(rest, share=0.2, seed=seed)
    return Interactions(
        num_users=USERS, num_items=ITEMS, train=train, validation=validation, test=test, source="planted"
    )


def popularity_metrics(data: Interactions) -> RankingMetrics:
    count = np.bincount(data.train.item_E, minlength=ITEMS)
    return rank_all(
        torch.ones(USERS, 1),
        torch.from_numpy(count[:, None]).float(),
        relevant=data.test,
        excluded=(data.train, data.validation),
        list_length=5,
    )
