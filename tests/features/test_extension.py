"""Extension: which FeatureSets share a store, checked against the layouts that the store itself accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.shop_features import AGE, BRAND, GENRE, HISTORY, PAGE, PRICE, RATING, SHOP, past

from recsys.errors import InvalidInputError
from recsys.feature_store.redis.keys import layouts
from recsys.features.extension import extension_problem, stored_as, widest
from recsys.features.feature_set import Categorical, FeatureSet, Numeric


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"user": (AGE, PRICE)},
        {"item": (GENRE, PRICE), "user": (AGE, GENRE)},
        past(attributes=(GENRE, RATING)),
        {"entities": (BRAND, replace(BRAND, name="shop"))},
        {"entities": (replace(BRAND, features=(PRICE, AGE)),)},
        {"context": ()},
        {"user": (replace(AGE, transform="none"),)},
        {"item": (replace(GENRE, table="kinds"),), **past(attributes=(replace(GENRE, table="kinds"),))},
        past(recent=20),
        past(max_events=1_000, max_age_s=30),
        past(identity=("item",)),
    ],
)
def test_what_is_added_at_the_end_or_not_stored_extends(changed: dict[str, Any]) -> None:
    new = replace(SHOP, **changed)
    assert extension_problem(new, SHOP) == ""
    now = layouts(new)
    assert all(declared[0] in now[part] for part, declared in layouts(SHOP).items())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": "store"}, "name: shop -> store"),
        ({"user_id": Categorical(name="user_id", id_type="string")}, "user id: id_type int -> string"),
        ({"item_id": Categorical(name="item_id", id_type="string")}, "item id: id_type int -> string"),
        ({"user": (PRICE, AGE)}, "user feature price added not at the end"),
        ({"user": ()}, "user feature age removed"),
        ({"user": (Categorical(name="age"),)}, "user feature age: numeric -> categorical"),
        ({"user": (replace(AGE, default=1.0),)}, "user feature age: default None -> 1.0: stored for a missing value"),
        (past(attributes=(RATING, GENRE)), "history feature rating added not at the end"),
        (past(attributes=(replace(GENRE, storage="i32"),)), "history feature genre: storage i64 -> i32"),
        ({"history": None}, "history removed"),
        ({"entities": ()}, "entity brand removed"),
        ({"entities": (replace(BRAND, features=(Numeric(name="price", default=0.0),)),)}, "brand feature price: def"),
    ],
)
def test_what_is_not_names_the_feature_and_the_difference(changed: dict[str, Any], problem: str) -> None:
    found = extension_problem(replace(SHOP, **changed), SHOP)
    assert found.startswith(problem)


def test_all_differences_are_said() -> None:
    found = extension_problem(replace(SHOP, user=(), history=None), SHOP)
    assert found == "user feature age removed; history removed"


def test_the_widest_is_the_first_that_extends_all_others() -> None:
    wide = replace(SHOP, item=(GENRE, PRICE))
    of_context = replace(SHOP, context=())
    assert widest({"a": SHOP, "b": wide, "c": of_context}) == wide
    assert widest({"a": of_context, "b": SHOP}) == of_context


def test_its_histories_keep_what_any_of_them_keeps() -> None:
    wide = replace(SHOP, **past(attributes=(GENRE, RATING), max_events=50, recent=5, max_age_s=80, ttl_s=80))
    kept = widest({"a": SHOP, "b": wide}).history
    assert kept == replace(HISTORY, attributes=(GENRE, RATING), max_age_s=80)
    for_ever = replace(SHOP, **past(max_age_s=0, ttl_s=0))
    kept = widest({"a": for_ever, "b": wide}).history
    assert kept is not None and (kept.max_age_s, kept.ttl_s) == (0, 0)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"b": replace(SHOP, name="store")}, "b and a cannot share a store: name: shop -> store"),
        (
            {"b": replace(SHOP, user=(AGE, PRICE)), "c": replace(SHOP, user=(AGE, GENRE))},
            "c and b cannot share a store: user feature genre added not at the end; user feature price removed",
        ),
    ],
)
def test_those_that_do_not_fit_are_named(others: dict[str, FeatureSet], said: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        widest({"a": SHOP, **others})
    assert str(error.value).startswith(said)


def test_a_release_reads_the_bytes_of_the_store_by_its_own_policy() -> None:
    wide = replace(
        SHOP,
        user=(AGE, PRICE),
        item=(GENRE, PRICE),
        **past(attributes=(GENRE, RATING), recent=20, max_age_s=90, identity=("item",)),
    )
    read = stored_as(SHOP, wide)
    assert layouts(read) == layouts(wide)
    assert read.history is not None and (read.history.recent, read.history.max_age_s) == (10, 60)
    bare = stored_as(replace(SHOP, user=(), item=(), history=None), wide)
    assert (bare.user, bare.item, bare.history) == ((), (), None)


def test_a_context_feature_may_have_the_name_of_a_feature_that_another_stores() -> None:
    wide = replace(SHOP, user=(AGE, PAGE), context=())
    assert stored_as(SHOP, wide).user == (AGE, PAGE)
