"""Time-decayed counts, kept in parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.errors import InvalidInputError
from recsys.features.changes import changes
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.trending import PARTS, Trending

FEATURES = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    history=History(attributes=(Categorical(name="action", id_type="string"),)),
)


def with_trending(trending: Trending | None) -> FeatureSet:
    assert FEATURES.history is not None
    return replace(FEATURES, history=replace(FEATURES.history, trending=trending))


def test_the_parts_add_up_to_the_decayed_sum_at_any_later_moment() -> None:
    trending = Trending(half_life_s=3600)
    random = np.random.default_rng(0)
    now_ms = 1_700_000_000_000
    time_ms_E = now_ms - random.integers(0, 8 * 3_600_000, 500)
    weight_E = random.uniform(0, 5, 500)
    begin_E, count_E = trending.counted(time_ms_E, weight_E)
    for later_ms in (0, 1_234_567, 3_600_000):
        at_ms = now_ms + later_ms
        expected = (weight_E * 2.0 ** ((time_ms_E - at_ms) / 3_600_000)).sum()
        parts = {begin: count_E[begin_E == begin].sum() for begin in set(begin_E.tolist())}
        assert sum(part * trending.worth(begin, at_ms) for begin, part in parts.items()) == pytest.approx(expected)


def test_every_event_of_the_window_is_in_a_part_that_is_kept() -> None:
    trending, now_ms = Trending(half_life_s=60), 1_700_000_012_345
    begins = trending.begins_ms(now_ms)
    oldest = np.array([now_ms - 1000 * trending.window_s])
    assert len(begins) == PARTS and trending.counted(oldest, np.ones(1))[0][0] in begins


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"half_life_s": 59}, "half_life_s is 59; allowed: 60 to"),
        ({"weights": (("buy", 5.0),)}, "there are weights and no attribute"),
        ({"attribute": "action", "weights": (("buy", -1.0),)}, "the weight of 'buy' is -1.0; allowed: 0 to 1,000,000"),
        ({"other": float("nan")}, "the weight of 'other' is nan"),
    ],
)
def test_what_cannot_be_counted_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Trending(**given)


def test_a_feature_set_declares_it_and_one_without_keeps_its_fingerprint() -> None:
    declared = with_trending(Trending(half_life_s=3600, attribute="action", weights=(("buy", 5.0),), other=0.5))
    assert FeatureSet.from_json(declared.to_json()) == declared
    assert "trending" not in FEATURES.to_json()
    assert [change.store for change in changes(FEATURES, declared)] == ["nothing"]
    with pytest.raises(InvalidInputError, match="trending weighs by attribute 'acton': did you mean 'action'"):
        with_trending(Trending(attribute="acton"))
