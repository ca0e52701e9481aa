"""A Redis that is absent, slow, full, or holds other programs' bytes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import redis
from contracts.feature_store_contract import SHOP, USER, events_of, rows_of

from recsys.errors import StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.embedded import EmbeddedRedis
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.keys import history_key, item_row_key, meta_key, user_row_key
from recsys.feature_store.link import RedisLink
from recsys.feature_store.redis_store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.hashing import MISSING
from recsys.features.history import pack_header

KEY = history_key("shop", USER)
EVENTS = events_of([(1, 1, 1, 1), (2, 2, 1, 2)])
HEADER = pack_header(SHOP, appended=2, trimmed=0)
ITEMS = np.array([1, 2, 3])


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, SHOP, item_max_age_s=0)
    await store.append(USER, EVENTS, timeout_s=5)
    await store.put_users(np.array([USER]), make_columns(SHOP.user, {"age": [30]}, length=1), timeout_s=5)
    items = make_columns(SHOP.item, {"price": [1, 2, 3]}, length=3)
    await store.put_items(ITEMS, items, timeout_s=5)
    yield store
    await store.close()


def _as_list(redis_admin: redis.Redis) -> None:
    redis_admin.delete(KEY)
    redis_admin.lpush(KEY, "a", "b")


def _as_bytes(value: bytes) -> Callable[[redis.Redis], None]:
    def write(redis_admin: redis.Redis) -> None:
        redis_admin.set(KEY, value)

    return write


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (_as_list, "another Redis type"),
        (_as_bytes(b"hello"), "not a history: .* found 5 bytes starting with b'hell'"),
        (_as_bytes(b"x" * 98), "not a history: .* found 32 bytes starting with b'xxxx'"),
        (_as_bytes(struct.pack("<4sH26x", b"RSH1", 2)), "history format 2, .* up to 1: upgrade it"),
        (_as_bytes(HEADER[:8] + b"otherlay" + HEADER[16:]), "stored with another layout"),
        (_as_bytes(HEADER[:16] + struct.pack("<QQ", 1, 2)), "corrupt header: 2 events trimmed of 1"),
        (_as_bytes(HEADER + EVENTS.tobytes()[:-3]), "not a multiple of the 25-byte record|corrupt: its length"),
        (_as_bytes(HEADER + EVENTS.tobytes()[:25]), "corrupt: its length is not that of the 2 events"),
    ],
    ids=["type", "short", "bytes", "newer", "layout", "counters", "length", "missing-events"],
)
async def test_a_foreign_history_is_named_left_alone_and_degrades_only_the_user(
    store: RedisFeatureStore, redis_admin: redis.Redis, write: Callable[[redis.Redis], None], problem: str
) -> None:
    write(redis_admin)
    before = redis_admin.dump(KEY)
    named = r"recsys:v1:\{shop:u:7\}:h: .*(" + problem + ")"
    with pytest.raises(StoreFormatError, match=named):
        await store.append_many([(1, EVENTS), (USER, EVENTS), (2, EVENTS)], timeout_s=5)
    with pytest.raises(StoreFormatError, match=named):
        await store.history(USER, limit=10, timeout_s=5)
    inputs = await store.read_for_rank(USER, ITEMS, timeout_s=5)
    assert inputs.user_degraded and not inputs.items_degraded and len(inputs.events) == 0
    assert inputs.user_columns["age"].tolist() == [30.0], "the user's features are still good"
    assert inputs.item_columns["price"].tolist() == [1.0, 2.0, 3.0]
    assert redis_admin.dump(KEY) == before
    for neighbour in (1, 2):
        assert len((await store.history(neighbour, limit=10, timeout_s=5))[1]) == 2


async def test_a_foreign_user_row_leaves_the_events_good(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    redis_admin.set(user_row_key("shop", USER), b"junk")
    inputs = await store.read_for_rank(USER, ITEMS, timeout_s=5)
    assert inputs.user_degraded and not inputs.items_degraded
    assert rows_of(inputs.events) == rows_of(EVENTS)
    assert inputs.user_columns["city"].tolist() == [MISSING]


async def test_one_foreign_item_row_leaves_the_other_items_good(
    store: RedisFeatureStore, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_admin.set(item_row_key("shop", 2), b"junk")
    inputs = await store.read_for_rank(USER, ITEMS, timeout_s=5)
    assert inputs.items_degraded and not inputs.user_degraded
    assert inputs.item_columns["price"].tolist() == [1.0, 0.0, 3.0]
    assert "recsys:v1:shop:i:2" in caplog.text


async def test_a_foreign_meta_key_refuses_writes_by_name(redis_url: str, redis_admin: redis.Redis) -> None:
    redis_admin.set(meta_key("shop"), "mine")
    store = RedisFeatureStore.connect(redis_url, SHOP)
    with pytest.raises(StoreFormatError, match="recsys:v1:shop:meta: .* another Redis type"):
        await store.append(USER, EVENTS, timeout_s=5)
    await store.close()


async def test_trouble_is_logged_once_in_a_while_not_per_request(
    store: RedisFeatureStore, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    _as_list(redis_admin)
    for _ in range(50):
        await store.read_for_rank(USER, ITEMS, timeout_s=5)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_full_redis_refuses_writes_clearly_and_reads_go_on(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    redis_admin.config_set("maxmemory-policy", "noeviction")
    redis_admin.config_set("maxmemory", 1)
    try:
        for rows in ([(3, 3, 1, 3)], [(0, 0, 1, 0)]):  # one appended, one inserted
            with pytest.raises(StoreError, match="out of memory: nothing was written. Raise its maxmemory"):
                await store.append(USER, events_of(rows), timeout_s=5)
        with pytest.raises(StoreError, match="1 items: Redis is out of memory"):
            await store.put_items(ITEMS[:1], make_columns(SHOP.item, {}, length=1), timeout_s=5)
        inputs = await store.read_for_rank(USER, ITEMS, timeout_s=5)
        assert not inputs.user_degraded and not inputs.items_degraded
        assert rows_of(inputs.events) == rows_of(EVENTS)
        header, _ = await store.history(USER, limit=1, timeout_s=5)
        assert header.appended == 2
    finally:
        redis_admin.config_set("maxmemory", 0)
    assert (await store.append(USER, events_of([(3, 3, 1, 3)]), timeout_s=5)).stored == 3


async def test_a_slow_redis_holds_nobody_past_the_deadline(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    redis_admin.client_pause(400, all=True)
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="no answer within 30 ms"):
        await store.history(USER, limit=1, timeout_s=0.03)
    inputs = await store.read_for_rank(USER, ITEMS, timeout_s=0.03)
    assert time.monotonic() - started_s < 0.2
    assert inputs.user_degraded and inputs.items_degraded
    await asyncio.sleep(0.4)
    # The late answers of the requests that gave up must not be taken for these.
    inputs = await store.read_for_rank(USER, ITEMS, timeout_s=5)
    assert rows_of(inputs.events) == rows_of(EVENTS) and not inputs.user_degraded
    header, _ = await store.history(USER, limit=1, timeout_s=5)
    assert header.appended == 2


async def test_a_call_with_no_time_left_fails_at_once(store: RedisFeatureStore) -> None:
    with pytest.raises(StoreUnavailableError, match="no answer within 0 ms"):
        await store.history(USER, limit=1, timeout_s=-0.5)
    assert (await store.read_for_rank(USER, ITEMS, timeout_s=0)).user_degraded
    assert not (await store.read_for_rank(USER, ITEMS, timeout_s=5)).user_degraded


async def test_a_cancelled_caller_leaves_no_answer_behind(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    redis_admin.client_pause(100, all=True)
    caller = asyncio.create_task(store.history(USER, limit=1, timeout_s=5))
    await asyncio.sleep(0.03)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (await store.read_for_rank(USER, ITEMS, timeout_s=5)).user_columns["age"].tolist() == [30.0]


async def test_connections_that_redis_closed_are_replaced_unnoticed(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    await asyncio.gather(*(store.ping(timeout_s=5) for _ in range(5)))
    for client in redis_admin.client_list():
        if client["cmd"] != "client" and client["cmd"] != "client|list":
            redis_admin.client_kill_filter(_id=client["id"])
    assert not (await store.read_for_rank(USER, ITEMS, timeout_s=5)).user_degraded


async def test_connections_are_bounded(redis_url: str, redis_admin: redis.Redis) -> None:
    store = RedisFeatureStore.connect(redis_url, SHOP, max_connections=3)
    before = len(redis_admin.client_list())
    await asyncio.gather(*(store.history(USER, limit=1, timeout_s=5) for _ in range(50)))
    assert len(redis_admin.client_list()) - before <= 3
    await store.close()


async def test_an_unreachable_redis_degrades_at_once_and_is_found_again(tmp_path: Path) -> None:
    store = RedisFeatureStore.connect(f"unix://{tmp_path}/redis.sock", SHOP)
    with pytest.raises(StoreUnavailableError, match="redis.sock"):
        await store.append(USER, EVENTS, timeout_s=5)
    started_s = time.monotonic()
    for _ in range(100):
        inputs = await store.read_for_rank(USER, ITEMS, timeout_s=1)
        assert inputs.user_degraded and inputs.items_degraded
        assert inputs.item_columns["price"].tolist() == [0.0, 0.0, 0.0]
    assert time.monotonic() - started_s < 0.5
    with EmbeddedRedis(tmp_path):
        started_s = time.monotonic()
        while (await store.read_for_rank(USER, ITEMS, timeout_s=1)).user_degraded:
            assert time.monotonic() - started_s < 3
            await asyncio.sleep(0.02)
        assert (await store.append(USER, EVENTS, timeout_s=5)).added == 2
        await store.close()


async def test_a_hung_redis_costs_only_the_first_requests_their_time(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as admin:
        store = RedisFeatureStore.connect(server.url, SHOP)
        await store.ping(timeout_s=5)
        pid = admin.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            for _ in range(50):
                assert (await store.read_for_rank(USER, ITEMS, timeout_s=0.1)).user_degraded
            assert time.monotonic() - started_s < 1.0
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert not (await store.read_for_rank(USER, ITEMS, timeout_s=5)).user_degraded
        await store.close()


async def test_a_port_that_speaks_another_protocol_is_an_unavailable_store() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as http:
        port = http.sockets[0].getsockname()[1]
        store = RedisFeatureStore.connect(f"redis://127.0.0.1:{port}", SHOP)
        with pytest.raises(StoreUnavailableError, match=f"redis://127.0.0.1:{port}: Protocol [Ee]rror"):
            await store.ping(timeout_s=5)
        assert (await store.read_for_rank(USER, ITEMS, timeout_s=5)).user_degraded
        await store.close()


async def test_while_redis_is_away_expired_items_keep_their_features(
    redis_url: str, redis_admin: redis.Redis, store: RedisFeatureStore
) -> None:
    clock_s = 0.0
    cache = ItemCache(SHOP.item, max_age_s=10, clock=lambda: clock_s)
    cached = RedisFeatureStore(SHOP, link=RedisLink(redis_url), cache=cache)
    assert not (await cached.read_for_rank(USER, ITEMS[:2], timeout_s=5)).items_degraded
    clock_s = 20.0
    redis_admin.client_pause(300, all=True)
    inputs = await cached.read_for_rank(USER, np.array([3, 2, 1, 2]), timeout_s=0.03)
    assert inputs.items_degraded and inputs.user_degraded
    assert inputs.item_columns["price"].tolist() == [0.0, 2.0, 1.0, 2.0]
    redis_admin.client_unpause()
    redis_admin.set(item_row_key("shop", 2), b"junk")
    inputs = await cached.read_for_rank(USER, ITEMS, timeout_s=5)
    assert inputs.items_degraded and not inputs.user_degraded
    assert inputs.item_columns["price"].tolist() == [1.0, 2.0, 3.0]
    await cached.close()


async def test_a_wrong_password_is_reported_without_showing_it(
    redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisFeatureStore.connect(f"{redis_server.url}?password=hunter2", SHOP)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.ping(timeout_s=5)
    await store.read_for_rank(USER, ITEMS, timeout_s=5)
    assert "password" in str(caught.value) and "password" in caplog.text
    assert "hunter2" not in str(caught.value) + caplog.text
