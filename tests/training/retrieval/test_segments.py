"""Segments and novelty of lists, by hand; recent popularity; a pair of models that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.data.interactions.pairs import Interactions, make_pairs
from recsys.evaluation.predictions import UserValues
from recsys.training.retrieval.baselines import with_baselines
from recsys.training.retrieval.segments import list_details


def test_new_users_and_new_items_stand_apart() -> None:
    # User 0 took 0 and 1, user 1 took 0, user 2 nothing; nobody took item 3.
    train = make_pairs(np.array([0, 0, 1]), np.array([0, 1, 0]))
    relevant = make_pairs(np.array([0, 0, 1, 2]), np.array([2, 3, 1, 0]))
    nothing = train.where(np.zeros(3, dtype=np.bool_))
    data = Interactions(num_users=3, num_items=4, train=train, validation=nothing, test=relevant, source="by hand")
    found_Gk = np.array([[2, 1], [2, -1], [1, 0]])
    details = list_details(found_Gk, relevant, data)
    told = {each.name: (each.users, each.pairs, each.recall) for each in details.segments}
    assert told == {
        "new users": (1, 1, 1.0),
        "users of 1 to 9 pairs": (2, 3, 0.25),
        "new items": (1, 2, 0.5),
        "items of 1 to 9 pairs": (2, 2, 0.5),
    }
    of_new = next(each for each in details.segments if each.name == "new users")
    assert of_new.ndcg == pytest.approx(1 / math.log2(3))
    # Items 2 (none: as one), 1, 2, 1, 0 of two users: shares 1/2, 1/2, 1/2, 1/2, 1.
    assert details.novelty == pytest.approx(4 / 5)


def test_recent_popularity_has_the_half_life_that_finds_most_in_validation() -> None:
    day = 86_400_000
    # Ten users took item 0 long ago, four took item 1 in the last day: what comes next is item 1.
    user_E, item_E = np.arange(14), np.repeat([0, 1], [10, 4])
    train = make_pairs(user_E, item_E, time_ms_E=np.repeat([0, 60 * day], [10, 4]))
    later = make_pairs(np.array([14, 15]), np.array([1, 1]))
    test = make_pairs(np.array([16]), np.array([1]))
    data = Interactions(num_users=17, num_items=3, train=train, validation=later, test=test, source="by hand")
    values = UserValues(user_G=np.array([16]), values={"recall": np.zeros(1)})
    found, means = with_baselines(values, data, test, excluded=(train,), list_length=1)
    assert means["popularity"]["recall"] == 0.0 and means["recent popularity"]["recall"] == 1.0
    assert set(found.baselines) == {"popularity", "recent popularity", "chance"}
    timeless = Interactions(
        num_users=17, num_items=3, train=make_pairs(user_E, item_E), validation=later, test=test, source="by hand"
    )
    assert set(with_baselines(values, timeless, test, excluded=(train,), list_length=1)[1]) == {"popularity", "chance"}
