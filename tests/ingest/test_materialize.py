"""An event table in the store: whole histories at once, the newest events, and live events stay."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from contracts.feature_store_contract.shop import SHOP

from recsys.arrays import Int64Array
from recsys.cli.options import load_features, with_features
from recsys.data.log.event_table import EventTable, open_event_table, user_events, write_event_table
from recsys.errors import ConfigError, InvalidInputError, StoreUnavailableError
from recsys.feature_store.redis.keys import history_keys
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import make_events
from recsys.features.history.rules import canonical
from recsys.ingest.materialize import materialize, put_entities

USERS = 30
MAX_EVENTS = 40
FEATURES = FeatureSet(
    name="loaded",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city"),),
    item=(Categorical(name="genre"),),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), max_events=MAX_EVENTS, recent=5),
)


@pytest.fixture
def table(tmp_path: Path) -> EventTable:
    """User u has 5 u events, so some have more than the store keeps, and one has none."""
    user = np.repeat(np.arange(USERS), 5 * np.arange(USERS))
    random = np.random.Generator(np.random.PCG64(0))
    events = {
        "user_id": user,
        "item_id": random.integers(0, 9, len(user)),
        "timestamp_ms": 1_000_000 + random.permutation(len(user)) * 10,
        "rating": random.integers(1, 6, len(user)),
    }
    users = {"user_id": np.arange(USERS), "city": np.arange(USERS) + 100}
    items = {"item_id": np.arange(9), "genre": np.arange(9) + 50}
    write_event_table(FEATURES, users, items, events, tmp_path / "table")
    return open_event_table(tmp_path / "table")


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, FEATURES)
    yield store
    await store.close()


async def test_a_loaded_history_is_the_newest_events_of_the_table(store: RedisFeatureStore, table: EventTable) -> None:
    for _ in range(2):
        done: list[int] = []
        result = await materialize(store, table, progress=done.append)
        assert (result.users, result.events, result.kept) == (USERS, len(table), 0)
        assert result.sent == sum(min(5 * user, MAX_EVENTS) for user in range(USERS))
        assert done[-1] == len(table)
    for user in range(USERS):
        expected = canonical(FEATURES, user_events(table, user))
        header, events = await store.history(user, timeout_s=5)
        assert events.tobytes() == expected[-MAX_EVENTS:].tobytes()
        left_out = expected[:-MAX_EVENTS]["timestamp"]
        assert header.trimmed_until_ms == (left_out[-1] if len(left_out) else -1)
    assert (await store.entities("user", np.array([3]), timeout_s=5))["city"].tolist() == [103]
    assert (await store.entities("item", np.array([8]), timeout_s=5))["genre"].tolist() == [58]


async def test_the_text_of_an_item_is_there_before_its_row(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told of an item by the log of changes finds its text."""
    features = dataclasses.replace(FEATURES, item_id=Categorical(name="item_id", id_type="string"))
    names = [f"item {n}" for n in range(9)]
    one = np.ones(1, dtype=np.int64)
    events = {"user_id": one, "item_id": names[:1], "timestamp_ms": one, "rating": one}
    items = {"item_id": names, "genre": np.arange(9)}
    users = {"user_id": one, "city": one}
    write_event_table(features, users, items, events, tmp_path / "texts")
    store = RedisFeatureStore.connect(redis_url, features)
    put, found = store.put_entities, {}

    async def checked(entity: str, keys: Int64Array, *args: Any, **options: Any) -> None:
        if entity == "item":
            found.update(await store.names(keys.tolist(), timeout_s=5))
        await put(entity, keys, *args, **options)

    monkeypatch.setattr(store, "put_entities", checked)
    await materialize(store, open_event_table(tmp_path / "texts"))
    await store.close()
    assert sorted(found.values()) == names


async def test_events_that_came_after_the_table_was_made_stay(store: RedisFeatureStore, table: EventTable) -> None:
    live = make_events(FEATURES, item=[1], timestamp_ms=[int(table.arrival_ms.max()) + 1], attributes={"rating": [5]})
    stale = make_events(FEATURES, item=[1], timestamp_ms=[999], attributes={"rating": [5]})
    await store.append_many([(2, np.concatenate([stale, live]))], timeout_s=5)
    assert (await materialize(store, table)).kept == 1
    _, events = await store.history(2, timeout_s=5)
    assert events.tobytes() == user_events(table, 2).tobytes() + live.tobytes()


async def test_only_chosen_users_are_loaded(store: RedisFeatureStore, table: EventTable) -> None:
    result = await materialize(store, table, users=[4, 2])
    assert (result.users, result.events) == (2, 30)
    stored = await store.histories(range(USERS), limit=99, timeout_s=5)
    assert {user: len(events) for user, (_, events) in enumerate(stored) if len(events)} == {2: 10, 4: 20}


async def test_entities_are_put_some_at_a_time(store: RedisFeatureStore) -> None:
    keys, done = np.arange(25), list[int]()
    await put_entities(store, "item", keys, {"genre": keys + 7}, rows_per_call=10, progress=done.append)
    assert done == [10, 20, 25]
    assert (await store.entities("item", keys, timeout_s=5))["genre"].tolist() == (keys + 7).tolist()
    with pytest.raises(InvalidInputError, match="feature 'genre': 24 values for 25 items"):
        await put_entities(store, "item", keys, {"genre": keys[1:]})


async def test_a_store_that_is_not_there_is_told(table: EventTable) -> None:
    store = RedisFeatureStore.connect("unix:///nonexistent/redis.sock", FEATURES)
    with pytest.raises(StoreUnavailableError):
        await materialize(store, table)


def test_a_feature_set_is_taken_from_a_file_a_table_or_a_bundle(table: EventTable, tmp_path: Path) -> None:
    from support.tiny_bundle import write_tiny_bundle

    (tmp_path / "features.json").write_text(SHOP.to_json())
    assert load_features(str(tmp_path / "features.json")) == SHOP
    assert load_features(str(tmp_path / "table")) == FEATURES
    write_tiny_bundle(tmp_path / "bundle")
    assert load_features(str(tmp_path / "bundle")).history is not None


def test_a_table_is_loaded_for_another_feature_set_only_if_that_stores_the_same(table: EventTable) -> None:
    renamed = dataclasses.replace(FEATURES, name="other", history=dataclasses.replace(FEATURES.history, max_events=7))
    assert with_features(table, renamed).features == renamed
    with pytest.raises(ConfigError, match="declares other users than the table"):
        with_features(table, dataclasses.replace(FEATURES, user=()))
    with pytest.raises(ConfigError, match="declares other events than the table"):
        with_features(table, dataclasses.replace(FEATURES, history=History()))


async def test_a_history_that_is_not_ours_is_told_and_the_others_are_loaded(
    store: RedisFeatureStore, table: EventTable, redis_admin: redis.Redis
) -> None:
    redis_admin.set(history_keys(FEATURES.name, 7).open, "mine")
    result = await materialize(store, table)
    assert len(result.refused) == 1 and "{loaded:u:7}:h: not a history" in result.refused[0]
    assert redis_admin.get(history_keys(FEATURES.name, 7).open) == b"mine"
    assert len((await store.history(8, timeout_s=5))[1]) == MAX_EVENTS
