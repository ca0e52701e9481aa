"""What a history holds, and what a model sees of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import Events, make_events
from recsys.features.history.rules import canonical, canonical_order, identity_fields, visible

GENRE = Categorical(name="genre")
RATING = Categorical(name="rating", storage="u8")
SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=(GENRE,),
    history=History(attributes=(GENRE, RATING), max_age_s=10),
)

Row = tuple[int, int, int, int, int]
"""(timestamp, arrival, item, genre, rating)"""

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from([1, 2, 256]), st.integers(0, 1), st.integers(0, 1)),
    max_size=30,
)


def events_of(rows: list[Row]) -> Events:
    timestamp, arrival, item, genre, rating = zip(*rows, strict=True) if rows else ([],) * 5
    times = {"timestamp_ms": np.array(timestamp, dtype=np.int64), "arrival_ms": np.array(arrival, dtype=np.int64)}
    return make_events(SHOP, item=item, attributes={"genre": genre, "rating": rating}, **times)


def by_definition(rows: list[Row]) -> list[Row]:
    """In order of time, arrival, bytes; each (time, item, rating) as it came first."""
    ordered = sorted(rows, key=lambda r: (r[0], r[1], r[2].to_bytes(8, "little"), r[3].to_bytes(8, "little"), r[4]))
    first: dict[tuple[int, int, int], Row] = {}
    for row in ordered:
        first.setdefault((row[0], row[2], row[4]), row)
    return list(first.values())


def rows_of(events: Events) -> list[Row]:
    return [tuple(int(e[n]) for n in ("timestamp", "arrival", "item", "genre", "rating")) for e in events]


def test_what_may_be_taken_from_the_item_does_not_identify_an_event() -> None:
    assert identity_fields(SHOP) == ("item", "rating")
    assert SHOP.history is not None
    chosen = replace(SHOP, history=replace(SHOP.history, identity=("genre", "item")))
    assert identity_fields(chosen) == ("item", "genre")


@given(ROWS)
def test_a_history_holds_each_event_once_in_order(rows: list[Row]) -> None:
    assert rows_of(canonical(SHOP, events_of(rows))) == by_definition(rows)


@given(ROWS, st.randoms())
def test_a_history_does_not_depend_on_the_order_of_delivery(rows: list[Row], random: object) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rows_of(canonical(SHOP, events_of(shuffled))) == rows_of(canonical(SHOP, events_of(rows)))


@given(st.lists(st.tuples(st.integers(0, 2), ROWS), max_size=4))
def test_users_are_put_in_order_one_after_another(groups: list[tuple[int, list[Row]]]) -> None:
    rows = [row for _, part in groups for row in part]
    user = np.array([u for u, part in groups for _ in part], dtype=np.int64)
    events = events_of(rows)
    order = canonical_order(SHOP, events, user)
    expected = [row for u in range(3) for row in by_definition([r for g, part in groups if g == u for r in part])]
    assert rows_of(events[order]) == expected and (np.diff(user[order]) >= 0).all()


@pytest.mark.parametrize(("time_ms", "seen"), [(0, []), (5_000, [0]), (5_001, [0, 5_000]), (10_001, [5_000, 10_000])])
def test_a_model_sees_what_happened_before_and_is_not_too_old(time_ms: int, seen: list[int]) -> None:
    events = make_events(SHOP, item=[1, 2, 3], timestamp_ms=[0, 5_000, 10_000])
    assert visible(SHOP, events, time_ms)["timestamp"].tolist() == seen
