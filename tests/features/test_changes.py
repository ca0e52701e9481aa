"""What a change of a FeatureSet needs; checked against what the store and the model do with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.shop_features import AGE, BRAND, GENRE, PRICE, RATING, past
from support.shop_features import SHOP as SMALL_SHOP

from recsys.errors import StoreFormatError
from recsys.feature_store.redis.keys import check_layout, layouts
from recsys.features.changes import StoreNeed, changes, store_need
from recsys.features.feature_set import Categorical, FeatureSet, Numeric

SHOP = replace(SMALL_SHOP, item=(GENRE, PRICE))


@pytest.mark.parametrize(
    ("changed", "what", "store", "model"),
    [
        ({"name": "store"}, "name: shop -> store", "reload", True),
        ({"user": (AGE, PRICE)}, "user feature price added at the end", "backfill", True),
        ({"user": (PRICE, AGE)}, "user feature price added not at the end", "reload", True),
        ({"item": (PRICE, GENRE)}, "item features in another order", "reload", False),
        ({"item": (GENRE,)}, "item feature price removed", "reload", True),
        (
            {"item": (GENRE, Numeric(name="price", default=2.0))},
            "price: default None -> 2.0: stored rows",
            "backfill",
            True,
        ),
        ({"item": (GENRE, Numeric(name="price", transform="none"))}, "price: transform auto -> none", "nothing", True),
        ({"user": (Categorical(name="age"),)}, "user feature age: numeric -> categorical", "reload", True),
        ({"user": (AGE,), "context": ()}, "context feature page removed", "nothing", True),
        ({"user_id": Categorical(name="user_id", id_type="string")}, "user id: id_type int -> string", "reload", True),
        ({"item_id": Categorical(name="item_id", table="t")}, "item id: table item_id -> t", "nothing", True),
        ({"history": None}, "history removed", "nothing", True),
        (past(attributes=(GENRE, RATING), identity=("item",)), "history feature rating added at the", "backfill", True),
        (past(attributes=(RATING, GENRE), identity=("item",)), "rating added not at the end", "reload", True),
        (past(attributes=(replace(GENRE, storage="i32"),), identity=("item",)), "storage i64 -> i32", "reload", True),
        (past(identity=("item", "genre")), "history identity: item -> item, genre", "backfill", True),
        (past(max_events=200), "history max_events: 100 -> 200", "backfill", False),
        (past(max_events=50), "history max_events: 100 -> 50", "nothing", False),
        (past(max_age_s=30), "history max_age_s: 60 -> 30", "nothing", True),
        (past(max_age_s=80), "history max_age_s: 60 -> 80", "backfill", True),
        (past(recent=20), "history recent: 10 -> 20", "nothing", True),
        (past(ttl_s=60), "history ttl_s: 90 -> 60", "nothing", False),
        ({"entities": ()}, "entity brand removed", "nothing", False),
        ({"entities": (replace(BRAND, features=(PRICE, AGE)),)}, "brand feature age added at", "backfill", False),
    ],
)
def test_each_change_tells_what_it_needs(changed: dict[str, Any], what: str, store: StoreNeed, model: bool) -> None:
    (change,) = changes(SHOP, replace(SHOP, **changed))
    assert what in change.what and (change.store, change.model) == (store, model)


def test_equal_feature_sets_need_nothing() -> None:
    assert changes(SHOP, FeatureSet.from_json(SHOP.to_json())) == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"user": (AGE, PRICE)},
        {"user": (PRICE, AGE)},
        {"item": (PRICE, GENRE)},
        {"item": (GENRE,)},
        past(attributes=(GENRE, RATING)),
        past(attributes=(RATING, GENRE)),
        past(attributes=(replace(GENRE, storage="i32"),)),
        past(attributes=()),
        past(max_events=200),
    ],
)
def test_the_store_refuses_exactly_what_needs_a_reload(changed: dict[str, Any]) -> None:
    new = replace(SHOP, **changed)
    filled = {part: texts[0] for part, texts in layouts(SHOP).items()}
    refused = False
    for part, declared in layouts(new).items():
        try:
            check_layout("shop", part, filled.get(part, declared[0]), declared)
        except StoreFormatError:
            refused = True
    assert refused == (store_need(changes(SHOP, new)) == "reload")
