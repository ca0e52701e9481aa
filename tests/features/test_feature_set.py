"""FeatureSet: what it accepts, what it refuses and how it says so, and its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.features.changes import changes
from recsys.features.extension import extension_problem
from recsys.features.feature_set import Categorical, Entity, Feature, FeatureSet, History, Numeric
from recsys.features.history.records import require_history

USER, ITEM = Categorical(name="user_id"), Categorical(name="item_id")
GENRE = Categorical(name="genre", id_type="string")


def shop(**changes: Any) -> FeatureSet:
    return FeatureSet(**{"name": "shop", "user_id": USER, "item_id": ITEM, **changes})


def categorical(**options: Any) -> Categorical:
    return Categorical(**options)


def history(*attributes: Categorical, **options: Any) -> History:
    return History(attributes=attributes, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(name="Genre id"), "feature name 'Genre id': must be letters"),
        (lambda: Categorical(name="Label"), "feature name 'Label': .* not be one of arrival, label"),
        (lambda: Categorical(name="1st"), r"must be letters \(a to z\), digits and '_', start with a letter"),
        (lambda: Numeric(name="x" * 64), "at most 63 characters"),
        (lambda: Numeric(name="x\n"), "must be letters"),
        (lambda: Numeric(name="timestamp"), "not be one of arrival, label, logits, scores, timestamp"),
        (lambda: Categorical(name="a", table="2"), "feature name '2'"),
        (
            lambda: shop(user=(GENRE,), item=(Numeric(name="Genre"),)),
            "names 'genre' and 'Genre' differ in capitals alone",
        ),
        (lambda: shop(item=(Categorical(name="a", table="User_ID"),)), "names 'user_id' and 'User_ID' differ"),
        (lambda: categorical(name="a", id_type="uuid"), "id_type is 'uuid'; allowed: int, string"),
        (lambda: categorical(name="a", storage="u16"), "storage is 'u16'; allowed: i64, i32, u8"),
        (lambda: Categorical(name="a", max_values=0), "max_values is 0; allowed: 1 to 256"),
        (lambda: Categorical(name="a", max_values=257), "max_values is 257; allowed: 1 to 256"),
        (
            lambda: Categorical(name="a", id_type="string", storage="u8"),
            "string ids are 62-bit keys and need storage 'i64', not 'u8'",
        ),
        (lambda: Numeric(name="a", default=float("nan")), "default is nan; allowed: a finite float32"),
        (lambda: Numeric(name="a", default=1e39), r"default is 1e\+39; allowed: a finite float32"),
        (lambda: history(GENRE, GENRE), "history feature 'genre' is declared twice"),
        (lambda: history(Categorical(name="item")), "history feature 'item' is declared twice"),
        (lambda: history(replace(GENRE, max_values=2)), "an event holds one value per attribute"),
        (lambda: history(recent=0), r"recent is 0 and max_events 1000; allowed: 1 <= recent <= max_events"),
        (lambda: history(max_events=5, recent=6), r"recent is 6 and max_events 5; allowed: 1 <= recent"),
        (lambda: history(ttl_s=-1), r"ttl_s is -1; allowed: 0 \(never\) to"),
        (lambda: history(max_age_s=1 << 40), "max_age_s is 1099511627776; allowed"),
        (lambda: history(ttl_s=5), "a history that expires needs max_age_s from 1 to ttl_s"),
        (lambda: history(ttl_s=5, max_age_s=6), "ttl_s is 5 and max_age_s 6"),
        (lambda: history(GENRE, identity=("genres",)), "identity names 'genres': did you mean 'genre'"),
        (lambda: history(identity=("item", "item")), "history identity feature 'item' is declared twice"),
        (
            lambda: shop(entities=(Entity(name="item", id=ITEM, features=()),)),
            "entity feature 'item' is declared twice",
        ),
        (lambda: Entity(name="brand", id=GENRE, features=(GENRE,)), "brand feature 'genre' is declared twice"),
        (lambda: shop().entity("items"), "unknown entity 'items': did you mean 'item'"),
        (lambda: shop(name="my shop"), "feature name 'my shop'"),
        (lambda: shop(user=(GENRE,), context=(GENRE,)), "user and context feature 'genre' is declared twice"),
        (lambda: shop(item=(ITEM,)), "item feature 'item_id' is declared twice"),
        (lambda: shop(history=history(ITEM)), "history feature 'item_id' is declared twice"),
        (lambda: shop(user_id=Categorical(name="u", max_values=2)), "'u': max_values is 2; a user has one id"),
        (
            lambda: shop(item=(GENRE,), user=(Categorical(name="likes", table="genre"),)),
            "features 'likes' and 'genre' share table 'genre' but one takes int ids and the other string ids",
        ),
        (
            lambda: require_history(shop(history=None)),
            "FeatureSet 'shop' declares no history; events need one: add \"history\": {} to the FeatureSet's file",
        ),
    ],
)
def test_a_bad_declaration_is_refused_with_a_reason(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_the_same_name_may_be_used_on_the_user_and_the_item_side() -> None:
    shop(user=(GENRE,), item=(GENRE,), history=history(GENRE))


def test_features_that_name_a_table_share_it() -> None:
    features = shop(item=(GENRE,), user=(replace(GENRE, name="likes"),), history=history(GENRE))
    assert features.tables() == {
        "user_id": ("user_id",),
        "genre": ("likes", "genre"),
        "item_id": ("item_id",),
    }


NAMES = st.from_regex(r"[a-z][a-z0-9_]{3,8}", fullmatch=True).filter(
    lambda n: n not in {"timestamp", "arrival", "label", "item", "user_id", "item_id"}
)
CATEGORICALS = st.builds(
    lambda name, string, max_values, storage: Categorical(
        name=name,
        id_type="string" if string else "int",
        max_values=max_values,
        storage="i64" if string else storage,
        table=f"t_{name}_{int(string)}",
    ),
    NAMES,
    st.booleans(),
    st.integers(1, 256),
    st.sampled_from(["i64", "i32", "u8"]),
)
NUMERICS = st.builds(
    lambda name, default: Numeric(name=name, default=default),
    NAMES,
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
FEATURE_LISTS = st.lists(CATEGORICALS | NUMERICS, max_size=4, unique_by=lambda f: f.name).map(tuple)


@st.composite
def feature_sets(draw: st.DrawFn) -> FeatureSet:
    user, item = draw(FEATURE_LISTS), draw(FEATURE_LISTS)
    taken = {f.name for f in user}
    context = tuple(f for f in draw(FEATURE_LISTS) if f.name not in taken)
    names = {f.name for f in item}
    drawn = draw(st.lists(CATEGORICALS, max_size=3, unique_by=lambda f: f.name))
    shared = [f for f in item if isinstance(f, Categorical) and f.max_values == 1]
    attributes = [*shared, *(a for a in drawn if a.name not in names)]
    events = draw(st.integers(1, 10_000))
    past = History(
        attributes=tuple(replace(a, max_values=1) for a in attributes),
        max_events=events,
        recent=draw(st.integers(1, events)),
        max_age_s=draw(st.sampled_from([0, 60])),
        identity=draw(st.sampled_from([None, (), ("item",)])),
    )
    past = replace(past, ttl_s=draw(st.sampled_from([0, past.max_age_s])))
    entities = (Entity(name="brand", id=Categorical(name="brand_id"), features=draw(FEATURE_LISTS)),)
    return shop(user=user, item=item, context=context, history=draw(st.sampled_from([past, None])), entities=entities)


@given(feature_sets())
def test_json_and_back_is_the_same_feature_set(features: FeatureSet) -> None:
    again = FeatureSet.from_json(features.to_json())
    assert again == features
    assert again.to_json() == features.to_json()
    assert again.fingerprint() == features.fingerprint()


def test_a_declaration_by_hand_may_leave_out_what_has_a_default() -> None:
    text = '{"name": "shop", "user_id": {"name": "user_id"}, "item_id": {"name": "item_id"}, "history": {}}'
    assert FeatureSet.from_json(text) == shop()


def test_the_fingerprint_is_16_hex_digits_and_changes_with_any_declaration() -> None:
    base = shop(item=(GENRE, Numeric(name="price")), history=history(GENRE))
    others = [
        replace(base, name="shop2"),
        replace(base, item=(Numeric(name="price"), GENRE)),
        replace(base, item=(GENRE, Numeric(name="price", default=1.0))),
        replace(base, history=None),
        replace(base, history=history(GENRE, recent=49)),
        replace(base, user=(GENRE,)),
    ]
    prints = {f.fingerprint() for f in (base, *others)}
    assert len(prints) == 1 + len(others)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)


def _edited(edit: Callable[[dict[str, Any]], object]) -> str:
    values = json.loads(shop(history=history(GENRE)).to_json())
    edit(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a FeatureSet in JSON"),
        ("[]", "not a FeatureSet in JSON"),
        ("{}", "not a FeatureSet in JSON: 'user_id' is missing"),
        (_edited(lambda v: v.update(user_id="u")), 'user_id is "u"; expected an object with a name: {"name": "u"}'),
        (_edited(lambda v: v.update(item=["price"])), r'item\[0\] is "price"; expected an object with a name'),
        (_edited(lambda v: v.update(item={"name": "x"})), 'item is {"name": "x"}; expected a list'),
        (
            _edited(lambda v: v.update(context=[{"kind": "numeric"}])),
            r"context\[0\] is .*expected an object with a name",
        ),
        (_edited(lambda v: v.update(history=True)), "history is true; expected an object"),
        (_edited(lambda v: v.update(history={"attributes": ["a"]})), r'history.attributes\[0\] is "a"; expected an'),
        (_edited(lambda v: v.update(entities=["shop"])), r'entities\[0\] is "shop"; expected an object'),
        (_edited(lambda v: v.update(histroy=1)), "FeatureSet has no field 'histroy': did you mean 'history'"),
        (
            _edited(lambda v: v["user_id"].update(kind="blob")),
            "'user_id': kind is 'blob'; allowed: categorical, numeric",
        ),
        (_edited(lambda v: v["user_id"].update(stroage="u8")), "no field 'stroage': did you mean 'storage'"),
        (_edited(lambda v: v["history"].update(max_age=1)), "History has no field 'max_age': did you mean 'max_age_s'"),
        (_edited(lambda v: v.update(item_id={"kind": "numeric", "name": "x"})), "'x' must be categorical"),
        (_edited(lambda v: v["history"].update(recent=0)), "recent is 0"),
        (
            _edited(lambda v: v["history"]["attributes"].append({"kind": "numeric", "name": "dwell"})),
            r"history attribute 'dwell' is numeric; .* \{\"name\": \"dwell_bucket\", \"storage\": \"u8\"\} takes",
        ),
        (_edited(lambda v: v.update(name=3)), "feature name 3"),
    ],
)
def test_json_that_is_no_feature_set_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        FeatureSet.from_json(text)


@pytest.mark.parametrize(
    "item",
    [Numeric(name="genre"), Categorical(name="genre", table="other")],
    ids=["number", "other table"],
)
def test_an_attribute_named_like_an_item_feature_must_be_of_its_kind(item: Feature) -> None:
    with pytest.raises(InvalidInputError, match="'genre' has the name of an item feature, but is not of its kind"):
        FeatureSet(
            name="shop",
            user_id=Categorical(name="user_id"),
            item_id=Categorical(name="item_id"),
            item=(item,),
            history=History(attributes=(Categorical(name="genre"),)),
        )


@pytest.mark.parametrize("name", ["logits", "scores", "timestamp", "arrival", "label"])
def test_names_with_a_meaning_of_their_own_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name}.*not be one of"):
        Numeric(name=name)


def test_filterable_features_are_those_of_the_item_and_of_entities_with_its_ids() -> None:
    ids, flag = Categorical(name="item_id"), Categorical(name="in_stock", filterable=True)
    offer = Entity(name="offer", id=ids, features=(flag, Categorical(name="supplier")))
    shop = Entity(name="shop", id=Categorical(name="shop_id"), features=(Categorical(name="city"),))
    price = Numeric(name="price", filterable=True)
    given: dict[str, Any] = {"name": "shop", "user_id": Categorical(name="user_id"), "item_id": ids}
    features = FeatureSet(**given, item=(price, Categorical(name="brand")), entities=(offer, shop))
    assert features.filterable() == (("item", price), ("offer", flag))
    assert [entity.name for entity in features.item_entities()] == ["item", "offer"]
    assert FeatureSet.from_json(features.to_json()) == features
    for declared, message in (
        ({"user": (flag,)}, "'in_stock' of the user is filterable; allowed: features of the item, and of entities"),
        ({"context": (flag,)}, "'in_stock' of the context is filterable"),
        ({"entities": (replace(shop, features=(flag,)),)}, "'in_stock' of entity 'shop' is filterable"),
        ({"item": (flag,), "entities": (offer,)}, "filterable feature 'in_stock' is declared twice"),
        (
            {"entities": (replace(offer, id=Categorical(name="item_id", id_type="string")),)},
            "entity 'offer' has the item's ids, of table 'item_id', but takes string ids and the item int ids",
        ),
    ):
        with pytest.raises(InvalidInputError, match=re.escape(message)):
            FeatureSet(**given, **declared)


def test_being_filterable_changes_no_fingerprint_of_others_and_no_stored_row() -> None:
    plain = FeatureSet(
        name="shop",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        item=(Numeric(name="price"), Categorical(name="brand")),
    )
    assert "filterable" not in plain.to_json()
    now = replace(plain, item=tuple(replace(each, filterable=True) for each in plain.item))
    found = changes(plain, now)
    assert [(change.store, change.model) for change in found] == [("nothing", False)] * 2
    assert not extension_problem(now, plain) and not extension_problem(plain, now)
