"""RedisFeatureStore on a real Redis: the contract, and what is particular to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import redis
from contracts.feature_store_contract import *  # noqa: F403
from contracts.feature_store_contract.shop import SHOP, T0_MS, USER, events_of, rows_of

from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.base import RankRead
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.keys import entity_key, history_keys, meta_key, positions_key
from recsys.feature_store.redis.link.protocol import Command, Reply
from recsys.feature_store.redis.link.server import RedisLink
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import string_key
from recsys.features.history.records import make_events

KEY = history_keys("shop", USER).open
ONE_ITEM = make_columns(SHOP.item, {"price": [1.0]}, length=1)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, SHOP)
    yield store
    await store.close()


async def test_all_keys_of_a_user_share_a_hash_tag(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    await store.put_entities("user", np.array([USER]), make_columns(SHOP.user, {}, length=1), timeout_s=5)
    await store.put_entities("item", np.array([5]), ONE_ITEM, timeout_s=5)
    assert set(redis_admin.keys()) == {
        b"recsys:v1:{shop:u:7}:h",
        b"recsys:v1:{shop:u:7}:f",
        b"recsys:v1:{shop:item:5}:5",
        b"recsys:v1:shop:item_changes",
        b"recsys:v1:shop:meta",
    }


async def test_events_newer_than_all_stored_do_not_rewrite_the_history(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    await store.append(USER, events_of([(t, 1, 1, 1) for t in range(10)]), timeout_s=5)
    redis_admin.config_resetstat()
    await store.append(USER, events_of([(10, 1, 1, 1), (11, 1, 1, 1)]), timeout_s=5)
    calls = {name: stats["calls"] for name, stats in redis_admin.info("commandstats").items()}
    assert calls["cmdstat_append"] == 1
    assert calls["cmdstat_setrange"] == 1  # the counters
    assert calls["cmdstat_getrange"] == 1  # the header
    assert "cmdstat_set" not in calls


async def test_a_script_that_redis_forgot_is_loaded_again(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    for time in range(3):
        redis_admin.script_flush()
        batches = [(user, events_of([(time, 1, 1, 1)])) for user in (1, 2)]
        results = await store.append_many(batches, timeout_s=5)
        assert [(r.added, r.stored) for r in results] == [(1, time + 1)] * 2


async def test_processes_that_append_to_one_user_lose_nothing(redis_url: str) -> None:
    assert SHOP.history is not None
    features = replace(SHOP, history=replace(SHOP.history, max_events=100))
    stores = [RedisFeatureStore.connect(redis_url, features) for _ in range(2)]
    rows = [(t, t, 1, 0) for t in range(60)]

    async def write(store: RedisFeatureStore, first: int) -> int:
        return sum([(await store.append(USER, events_of([r]), timeout_s=5)).added for r in rows[first : first + 40]])

    added = await asyncio.gather(write(stores[0], 0), write(stores[1], 20))
    assert sum(added) == 60
    assert rows_of((await stores[0].history(USER, limit=99, timeout_s=5))[1]) == rows
    for store in stores:
        await store.close()


@pytest.mark.parametrize("events", [1, 200], ids=["plain", "trimmed"])
async def test_a_history_expires_after_its_ttl(redis_url: str, redis_admin: redis.Redis, events: int) -> None:
    assert SHOP.history is not None
    features = replace(SHOP, history=replace(SHOP.history, ttl_s=100, max_age_s=100))
    store = RedisFeatureStore.connect(redis_url, features)
    rows = [(t, 1, 1, 0) for t in range(events)]
    await store.append(USER, events_of(rows), timeout_s=5)
    assert 95 < redis_admin.ttl(KEY) <= 100
    redis_admin.expire(KEY, 50)
    await store.append(USER, events_of(rows), timeout_s=5)
    assert redis_admin.ttl(KEY) <= 50, "a repetition is no new event"
    await store.append_many([(USER, events_of([(events, 1, 1, 0)]))], source="s", offsets=[np.array([1])], timeout_s=5)
    assert {redis_admin.ttl(key) > 95 for key in history_keys("shop", USER) if redis_admin.exists(key)} == {True}
    assert redis_admin.exists(history_keys("shop", USER).offsets)
    await store.close()


async def test_without_a_ttl_a_history_stays(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    assert redis_admin.ttl(KEY) == -1


async def test_an_item_put_by_another_process_shows_when_the_cache_is_too_old(redis_url: str) -> None:
    writer = RedisFeatureStore.connect(redis_url, SHOP)
    await writer.put_entities("item", np.array([5]), make_columns(SHOP.item, {"price": [2.0]}, length=1), timeout_s=5)
    cached = RedisFeatureStore.connect(redis_url, SHOP)
    uncached = RedisFeatureStore.connect(redis_url, SHOP, item_max_age_s=0)
    for store in (cached, uncached):
        await store.read_for_rank(USER, np.array([5]), time_ms=T0_MS + 99, timeout_s=5)
    await writer.put_entities("item", np.array([5]), ONE_ITEM, timeout_s=5)
    prices = [
        (await store.read_for_rank(USER, np.array([5]), time_ms=T0_MS + 99, timeout_s=5)).item_columns["price"].tolist()
        for store in (cached, uncached)
    ]
    assert prices == [[2.0], [1.0]]
    for store in (cached, uncached, writer):
        await store.close()


class Interleaved(RedisLink):
    """Lets another request run to its end while a request waits for Redis."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await super().round_trip(commands, timeout_s=timeout_s)


async def test_a_request_that_takes_the_cache_over_changes_no_waiting_requests_items(redis_url: str) -> None:
    link = Interleaved(redis_url)
    store = RedisFeatureStore(SHOP, link=link, cache=ItemCache(SHOP.item, capacity=8))
    keys = np.arange(1, 25)
    await store.put_entities(
        "item", keys, make_columns(SHOP.item, {"price": keys.tolist()}, length=len(keys)), timeout_s=5
    )
    mine, theirs = keys[:8], keys[8:]
    await store.read_for_rank(USER, mine, time_ms=T0_MS + 99, timeout_s=5)
    link.meanwhile = lambda: store.read_for_rank(USER, theirs, time_ms=T0_MS + 99, timeout_s=5)
    inputs = await store.read_for_rank(USER, mine, time_ms=T0_MS + 99, timeout_s=5)
    assert inputs.item_columns["price"].tolist() == mine.tolist()
    await store.close()


class Torn(RedisLink):
    """Lets somebody write before the last command of a round trip, once."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is None:
            return await super().round_trip(commands, timeout_s=timeout_s)
        before = await super().round_trip(commands[:-1], timeout_s=timeout_s)
        await meanwhile()
        return [*before, *await super().round_trip(commands[-1:], timeout_s=timeout_s)]


@pytest.mark.parametrize("count", [0, 1, 30])
async def test_a_user_whose_history_changes_while_it_is_read_is_read_again(redis_url: str, count: int) -> None:
    link = Torn(redis_url)
    store = RedisFeatureStore(SHOP, link=link, cache=ItemCache(SHOP.item, capacity=8))
    await store.append(USER, events_of([(t, t, 1, t) for t in range(count)]), timeout_s=5)
    link.meanwhile = lambda: store.append(USER, events_of([(99, 99, 1, 99)]), timeout_s=5)
    user = await store.read_user(USER, timeout_s=5)
    header, events = await store.history(USER, timeout_s=5)
    assert user.header == header and rows_of(user.events) == rows_of(events) and not user.degraded
    assert int(user.events["item"][-1]) == 99
    await store.close()


async def test_a_feature_set_without_history_or_features_still_ranks(redis_url: str) -> None:
    ids = Categorical(name="user_id"), Categorical(name="item_id")
    store = RedisFeatureStore.connect(redis_url, FeatureSet(name="bare", user_id=ids[0], item_id=ids[1], history=None))
    inputs = await store.read_for_rank(1, np.array([1, 2]), time_ms=T0_MS + 99, timeout_s=5)
    assert (len(inputs.events), inputs.user_columns, inputs.item_columns) == (0, {}, {})
    assert not inputs.user_degraded and not inputs.items_degraded
    user = await store.read_user(1, timeout_s=5)
    (inputs,) = await store.read_many_for_rank([RankRead(1, np.array([1]), T0_MS, user)], timeout_s=5)
    assert (len(user.events), user.degraded, len(inputs.events), inputs.user_degraded) == (0, False, 0, False)
    await store.put_entities("item", np.array([1]), {}, timeout_s=5)
    with pytest.raises(InvalidInputError, match="FeatureSet 'bare' declares no history"):
        await store.append(1, events_of([]), timeout_s=5)
    await store.close()


async def test_a_store_filled_with_another_record_is_refused_by_name(store: RedisFeatureStore, redis_url: str) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    other_features = replace(SHOP, history=History(attributes=(Categorical(name="action", storage="i32"),)))
    other = RedisFeatureStore.connect(redis_url, other_features)
    event = make_events(other_features, item=[1], timestamp_ms=[1])
    both = r'history part .*\["rating","\|u1"\].* declares .*\["action","<i4"\].*another name'
    with pytest.raises(StoreFormatError, match=both):
        await other.append(8, event, timeout_s=5)
    with pytest.raises(StoreFormatError, match=both):
        await other.ping(timeout_s=5)
    await other.close()


async def test_after_a_flush_a_running_program_records_its_layout_again(
    store: RedisFeatureStore, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    redis_admin.flushdb()
    monkeypatch.setattr("recsys.feature_store.redis.layouts._CLAIM_EVERY_S", 0.0)
    await store.append(USER, events_of([(2, 1, 1, 1)]), timeout_s=5)
    await store.put_entities("item", np.array([5]), ONE_ITEM, timeout_s=5)
    assert set(redis_admin.hkeys(meta_key("shop"))) == {b"history", b"item"}
    redis_admin.flushdb()
    redis_admin.hset(meta_key("shop"), "history", "of another program")
    for _ in range(2):
        with pytest.raises(StoreFormatError, match="of another program"):
            await store.append(USER, events_of([(3, 1, 1, 1)]), timeout_s=5)
    assert redis_admin.keys() == [meta_key("shop")]


async def test_the_layout_is_asked_for_once_a_second_not_per_append(
    store: RedisFeatureStore, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.feature_store.redis.layouts._CLAIM_EVERY_S", 1000.0)
    redis_admin.config_resetstat()
    for time in range(10):
        await store.append(USER, events_of([(time, 1, 1, 1)]), timeout_s=5)
    assert redis_admin.info("commandstats")["cmdstat_hget"]["calls"] == 1


async def test_a_new_user_feature_leaves_the_histories_usable(store: RedisFeatureStore, redis_url: str) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    await store.put_entities("user", np.array([USER]), make_columns(SHOP.user, {}, length=1), timeout_s=5)
    features = replace(SHOP, user=(Numeric(name="height"), *SHOP.user))
    other = RedisFeatureStore.connect(redis_url, features)
    assert (await other.append(USER, events_of([(2, 1, 1, 1)]), timeout_s=5)).stored == 2
    inputs = await other.read_for_rank(USER, np.array([1]), time_ms=T0_MS + 99, timeout_s=5)
    assert len(inputs.events) == 2 and inputs.user_degraded and not inputs.items_degraded
    with pytest.raises(StoreFormatError, match="user part"):
        await other.put_entities("user", np.array([USER]), make_columns(features.user, {}, length=1), timeout_s=5)
    await other.close()


def test_key_names_are_those_of_the_specification() -> None:
    parts = ("h", "c", "o")
    assert history_keys("shop", 7) == tuple(f"recsys:v1:{{shop:u:7}}:{part}".encode() for part in parts)
    assert entity_key("shop", "user", 7) == b"recsys:v1:{shop:u:7}:f"
    assert entity_key("shop", "item", 65) == b"recsys:v1:{shop:item:1}:65"
    assert positions_key("shop") == b"recsys:v1:shop:positions"
    assert meta_key("shop") == b"recsys:v1:shop:meta"


async def test_texts_are_in_the_hash_of_their_bucket(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    await store.put_names({42: "a", 64 + 42: "é", 3: "a\udc80"}, timeout_s=5)
    assert redis_admin.hgetall("recsys:v1:{shop:names:42}") == {b"42": b"a", b"106": "é".encode()}
    assert not redis_admin.exists("recsys:v1:{shop:names:3}"), "UTF-8 cannot express it"


async def test_texts_written_a_moment_ago_are_not_sent_again_and_after_a_minute_are(
    store: RedisFeatureStore, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = map(string_key, "abc")
    await store.put_names({a: "a", b: "b"}, timeout_s=5)
    redis_admin.flushdb()
    await store.put_names({a: "a", c: "c"}, timeout_s=5)
    assert await store.names([a, b, c], timeout_s=5) == {c: "c"}
    monkeypatch.setattr("recsys.feature_store.redis.names._REMEMBERED_S", 0.0)
    await store.put_names({a: "a"}, timeout_s=5)
    assert await store.names([a, b, c], timeout_s=5) == {a: "a", c: "c"}


async def test_texts_under_a_key_of_another_type_are_unknown_and_writes_refused_by_name(
    store: RedisFeatureStore, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_admin.set("recsys:v1:{shop:names:1}", "x")
    assert await store.names([1], timeout_s=5) == {}
    assert "names:1}: the key holds another Redis type" in caplog.text
    with pytest.raises(StoreFormatError, match=r"names:1.: the key holds another Redis type"):
        await store.put_names({1: "a"}, timeout_s=5)
