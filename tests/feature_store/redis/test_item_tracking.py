"""Items that one process writes show in another's cache at once, because Redis tells of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
import redis
from contracts.feature_store_contract.shop import SHOP, T0_MS, USER

from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns


@asynccontextmanager
async def following(url: str) -> AsyncIterator[RedisFeatureStore]:
    """A store with a cache that never gets too old, told of writes."""
    store = RedisFeatureStore.connect(url, SHOP, item_max_age_s=10_000)
    task = asyncio.create_task(store.follow_items())
    yield store
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def put(store: RedisFeatureStore, price: float) -> None:
    await store.put_entities("item", np.array([5]), make_columns(SHOP.item, {"price": [price]}, length=1), timeout_s=5)


async def price(store: RedisFeatureStore) -> float:
    inputs = await store.read_for_rank(USER, np.array([5]), time_ms=T0_MS, timeout_s=5)
    return float(inputs.item_columns["price"][0])


async def until(store: RedisFeatureStore, expected: float) -> None:
    deadline_s = time.monotonic() + 10
    while await price(store) != expected:
        assert time.monotonic() < deadline_s, "the write never showed"
        await asyncio.sleep(0.01)


def trackers(admin: redis.Redis) -> list[dict[str, str]]:
    return [c for c in admin.client_list() if "t" in c["flags"]]


async def watched(admin: redis.Redis, is_there: Callable[[list[dict[str, str]]], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not is_there(trackers(admin)):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def test_a_write_by_another_process_shows_at_once(redis_url: str, redis_admin: redis.Redis) -> None:
    writer = RedisFeatureStore.connect(redis_url, SHOP)
    async with following(redis_url) as reader:
        await watched(redis_admin, bool)
        for value in (1.0, 2.0, 3.0):
            await put(writer, value)
            await until(reader, value)
        redis_admin.flushall()
        await until(reader, 0.0)
    await writer.close()
    await watched(redis_admin, lambda there: not there)  # the connection is closed


async def test_without_following_the_cache_keeps_what_it_has(redis_url: str) -> None:
    writer = RedisFeatureStore.connect(redis_url, SHOP)
    reader = RedisFeatureStore.connect(redis_url, SHOP, item_max_age_s=10_000)
    await put(writer, 1.0)
    assert await price(reader) == 1.0
    await put(writer, 2.0)
    assert await price(reader) == 1.0
    for store in (writer, reader):
        await store.close()


async def test_a_write_while_the_connection_was_lost_shows_after_it_is_back(
    redis_url: str, redis_admin: redis.Redis
) -> None:
    writer = RedisFeatureStore.connect(redis_url, SHOP)
    async with following(redis_url) as reader:
        await watched(redis_admin, bool)
        await put(writer, 1.0)
        await until(reader, 1.0)
        (tracker,) = trackers(redis_admin)
        pipe = redis_admin.pipeline()
        pipe.client_kill_filter(_id=tracker["id"])
        pipe.execute()
        await put(writer, 2.0)
        await until(reader, 2.0)
        await watched(redis_admin, lambda found: bool(found) and found[0]["id"] != tracker["id"])
    await writer.close()


async def test_where_redis_does_not_offer_it_items_are_renewed_by_age(
    redis_server: EmbeddedRedis, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_admin.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-client"])
    try:
        store = RedisFeatureStore.connect(f"{redis_server.url}?username=plain&password=x", SHOP)
        with caplog.at_level(logging.WARNING):
            await asyncio.wait_for(store.follow_items(), timeout=10)
        assert "cached items are renewed by age alone" in caplog.text and "CLIENT TRACKING" in caplog.text
        await store.close()
    finally:
        redis_admin.acl_deluser("plain")


async def test_while_writes_are_told_items_are_not_read_again_for_their_age(
    redis_url: str, redis_admin: redis.Redis
) -> None:
    writer = RedisFeatureStore.connect(redis_url, SHOP)
    await put(writer, 1.0)
    store = RedisFeatureStore.connect(redis_url, SHOP, item_max_age_s=0.01)
    task = asyncio.create_task(store.follow_items())
    await watched(redis_admin, bool)
    await until(store, 1.0)

    async def reads_of_items() -> int:
        before = redis_admin.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
        for _ in range(5):
            await asyncio.sleep(0.02)
            assert await price(store) == 1.0
        return int(redis_admin.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]) - before

    assert await reads_of_items() == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await reads_of_items() == 5, "nobody tells of writes any more"
    for each in (writer, store):
        await each.close()
