"""A Redis that is absent, slow, full, or holds other programs' bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from contracts.feature_store_contract.shop import OTHER, SHOP, T0_MS, USER, events_of, rows_of

from recsys.errors import StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.keys import entity_key, history_keys, meta_key
from recsys.feature_store.redis.link.server import RedisLink
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.feature_store.redis.values.history import HistoryValue
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import MISSING
from recsys.features.history.records import HistoryHeader, make_events, pack_header, require_history

KEY, SEALED, _ = history_keys("shop", USER)
NOW_MS = T0_MS + 1000
EVENTS = events_of([(1, 1, 1, 1), (2, 2, 1, 2)])
HEADER = pack_header(SHOP, HistoryHeader(chunk=16, appended=2, newest_ms=T0_MS + 2))
ITEMS = np.array([1, 2, 3])


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, SHOP, item_max_age_s=0)
    await store.append(USER, EVENTS, timeout_s=5)
    await store.put_entities("user", np.array([USER]), make_columns(SHOP.user, {"age": [30]}, length=1), timeout_s=5)
    items = make_columns(SHOP.item, {"price": [1, 2, 3]}, length=3)
    await store.put_entities("item", ITEMS, items, timeout_s=5)
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
        (_as_bytes(b"x" * 98), "not a history: .* found 56 bytes starting with b'xxxx'"),
        (_as_bytes(struct.pack("<4sH50x", b"RSH1", 2)), "history format 2, .* up to 1: upgrade it"),
        (_as_bytes(HEADER[:8] + b"otherlay" + HEADER[16:]), "stored with another layout"),
        (_as_bytes(HEADER[:24] + struct.pack("<QQ16x", 1, 2)), "corrupt header: 2 events trimmed of 1"),
        (_as_bytes(HEADER + EVENTS.tobytes()[:-3]), "corrupt: the bytes stored are not those of the 2 events"),
        (_as_bytes(HEADER + EVENTS.tobytes()[:25]), "corrupt: the bytes stored are not those of the 2 events"),
    ],
    ids=["type", "short", "bytes", "newer", "layout", "counters", "length", "missing-events"],
)
async def test_a_foreign_history_is_named_left_alone_and_degrades_only_the_user(
    store: RedisFeatureStore, redis_admin: redis.Redis, write: Callable[[redis.Redis], None], problem: str
) -> None:
    write(redis_admin)
    before = redis_admin.dump(KEY)
    named = r"(?s)recsys:v1:\{shop:u:7\}:h: .*(" + problem + ")"
    results = await store.append_many([(1, EVENTS), (USER, EVENTS), (2, EVENTS)], timeout_s=5)
    assert re.search(named, str(results[1].refused)) and [r.added for r in results] == [2, 0, 2]
    with pytest.raises(StoreFormatError, match=named):
        await store.append(USER, EVENTS, timeout_s=5)
    with pytest.raises(StoreFormatError, match=named):
        await store.history(USER, limit=10, timeout_s=5)
    inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert inputs.user_degraded and not inputs.items_degraded and len(inputs.events) == 0
    assert inputs.user_columns["age"].tolist() == [30.0], "the user's features are still good"
    assert inputs.item_columns["price"].tolist() == [1.0, 2.0, 3.0]
    user = await store.read_user(USER, timeout_s=5)
    assert user.degraded and len(user.events) == 0 and user.columns["age"].tolist() == [30.0]
    assert redis_admin.dump(KEY) == before
    for neighbour in (1, 2):
        assert len((await store.history(neighbour, limit=10, timeout_s=5))[1]) == 2


async def test_a_foreign_user_row_leaves_the_events_good(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    redis_admin.set(entity_key("shop", "user", USER), b"junk")
    inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert inputs.user_degraded and not inputs.items_degraded
    assert rows_of(inputs.events) == rows_of(EVENTS)
    assert inputs.user_columns["city"].tolist() == [MISSING]
    user = await store.read_user(USER, timeout_s=5)
    assert user.degraded and rows_of(user.events) == rows_of(EVENTS) and user.columns["city"].tolist() == [MISSING]


async def test_one_foreign_item_row_leaves_the_other_items_good(
    store: RedisFeatureStore, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_admin.set(entity_key("shop", "item", 2), b"junk")
    inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert inputs.items_degraded and not inputs.user_degraded
    assert inputs.item_columns["price"].tolist() == [1.0, 0.0, 3.0]
    assert "recsys:v1:{shop:item:2}:2" in caplog.text


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
        await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
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
            await store.put_entities("item", ITEMS[:1], make_columns(SHOP.item, {}, length=1), timeout_s=5)
        inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
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
    inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=0.03)
    assert time.monotonic() - started_s < 0.2
    assert inputs.user_degraded and inputs.items_degraded
    await asyncio.sleep(0.4)
    # The late answers of the requests that gave up must not be taken for these.
    inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert rows_of(inputs.events) == rows_of(EVENTS) and not inputs.user_degraded
    header, _ = await store.history(USER, limit=1, timeout_s=5)
    assert header.appended == 2


async def test_a_call_with_no_time_left_fails_at_once(store: RedisFeatureStore) -> None:
    with pytest.raises(StoreUnavailableError, match="no answer within 0 ms"):
        await store.history(USER, limit=1, timeout_s=-0.5)
    assert (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=0)).user_degraded
    assert not (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_degraded


async def test_a_cancelled_caller_leaves_no_answer_behind(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    redis_admin.client_pause(100, all=True)
    caller = asyncio.create_task(store.history(USER, limit=1, timeout_s=5))
    await asyncio.sleep(0.03)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_columns["age"].tolist() == [30.0]


async def test_connections_that_redis_closed_are_replaced_unnoticed(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    await asyncio.gather(*(store.ping(timeout_s=5) for _ in range(5)))
    for client in redis_admin.client_list():
        if client["cmd"] != "client" and client["cmd"] != "client|list":
            redis_admin.client_kill_filter(_id=client["id"])
    assert not (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_degraded


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
        inputs = await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=1)
        assert inputs.user_degraded and inputs.items_degraded
        assert inputs.item_columns["price"].tolist() == [0.0, 0.0, 0.0]
    assert time.monotonic() - started_s < 0.5
    with EmbeddedRedis(tmp_path):
        started_s = time.monotonic()
        while (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=1)).user_degraded:
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
                assert (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=0.1)).user_degraded
            assert time.monotonic() - started_s < 1.0
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert not (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_degraded
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
        assert (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_degraded
        await store.close()


async def test_while_redis_is_away_expired_items_keep_their_features(
    redis_url: str, redis_admin: redis.Redis, store: RedisFeatureStore
) -> None:
    clock_s = 0.0
    cache = ItemCache(SHOP.item, max_age_s=10, clock=lambda: clock_s)
    cached = RedisFeatureStore(SHOP, link=RedisLink(redis_url), cache=cache)
    assert not (await cached.read_for_rank(USER, ITEMS[:2], time_ms=NOW_MS, timeout_s=5)).items_degraded
    clock_s = 20.0
    redis_admin.client_pause(300, all=True)
    inputs = await cached.read_for_rank(USER, np.array([3, 2, 1, 2]), time_ms=NOW_MS, timeout_s=0.03)
    assert inputs.items_degraded and inputs.user_degraded
    assert inputs.item_columns["price"].tolist() == [0.0, 2.0, 1.0, 2.0]
    redis_admin.client_unpause()
    redis_admin.set(entity_key("shop", "item", 2), b"junk")
    inputs = await cached.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert inputs.items_degraded and not inputs.user_degraded
    assert inputs.item_columns["price"].tolist() == [1.0, 2.0, 3.0]
    await cached.close()


async def test_a_wrong_password_is_reported_without_showing_it(
    redis_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisFeatureStore.connect(f"{redis_server.url}?password=hunter2", SHOP)
    with pytest.raises(StoreUnavailableError) as caught:
        await store.ping(timeout_s=5)
    await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert "password" in str(caught.value) and "password" in caplog.text
    assert "hunter2" not in str(caught.value) + caplog.text


async def test_a_foreign_value_under_the_sealed_key_is_named(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    redis_admin.set(SEALED, "mine")
    with pytest.raises(StoreFormatError, match="another Redis type"):
        await store.append(USER, events_of([(0, 9, 1, 0)]), timeout_s=5)
    assert redis_admin.get(SEALED) == b"mine"
    assert not (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_degraded


async def test_sealed_events_that_redis_evicted_count_as_trimmed(redis_url: str, redis_admin: redis.Redis) -> None:
    features = replace(SHOP, history=replace(require_history(SHOP), max_events=1000))
    store = RedisFeatureStore.connect(redis_url, features)
    rows = [(t, t, 1, 0) for t in range(700)]
    await store.append(USER, events_of(rows), timeout_s=5)
    redis_admin.delete(SEALED)
    header, events = await store.history(USER, timeout_s=5)
    assert rows_of(events) == rows[-len(events) :] and header.stored == len(events) > 0
    result = await store.append(USER, events_of([(0, 999, 1, 0)]), timeout_s=5)
    assert (result.added, result.stored) == (1, len(events) + 1)
    header, _ = await store.history(USER, timeout_s=5)
    assert header.appended == 701
    await store.close()


def with_attributes(*names: str) -> FeatureSet:
    attributes = tuple(Categorical(name=name, storage="u8") for name in names)
    return replace(SHOP, history=History(attributes=attributes, max_events=1000, recent=4))


@pytest.mark.parametrize("count", [3, 400])
async def test_events_stored_before_an_attribute_was_added_read_as_missing_it(
    redis_url: str, redis_admin: redis.Redis, count: int
) -> None:
    old, new = (
        RedisFeatureStore.connect(redis_url, with_attributes(*names)) for names in (("rating",), ("rating", "action"))
    )
    rows = [(t, t, 1, 0) for t in range(count)]
    await old.append_many([(user, events_of(rows)) for user in (USER, OTHER)], timeout_s=5)
    inputs = await new.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert inputs.events[["item", "rating", "action"]].tolist() == [(t, 1, 255) for t in range(count)][-4:]
    features = with_attributes("rating", "action")
    late = make_events(
        features,
        item=[count, 7],
        timestamp_ms=[T0_MS + count, T0_MS + 1],
        attributes={"rating": [2, 3], "action": [8, 9]},
    )
    assert (await new.append(USER, late, timeout_s=5)).stored == count + 2
    _, events = await new.history(USER, timeout_s=5)
    assert len(events) == count + 2
    assert events[["item", "rating", "action"]].tolist()[:3] == [(0, 1, 255), (1, 1, 255), (7, 3, 9)]
    assert events[["item", "rating", "action"]].tolist()[-1] == (count, 2, 8)
    # Who was not written to is still of the old layout; who was is refused by the old program, by name.
    assert len((await old.history(OTHER, timeout_s=5))[1]) == count
    with pytest.raises(StoreFormatError, match="another layout"):
        await old.history(USER, timeout_s=5)
    for store in (old, new):
        await store.close()


async def test_rows_stored_before_a_feature_was_added_read_with_its_default(redis_url: str) -> None:
    old = RedisFeatureStore.connect(redis_url, SHOP)
    new = RedisFeatureStore.connect(redis_url, replace(SHOP, item=(*SHOP.item, Numeric(name="width", default=7.0))))
    await old.put_entities("item", ITEMS, make_columns(SHOP.item, {"price": [1, 2, 3]}, length=3), timeout_s=5)
    columns = await new.entities("item", ITEMS, timeout_s=5)
    assert columns["price"].tolist() == [1.0, 2.0, 3.0] and columns["width"].tolist() == [7.0] * 3
    inputs = await new.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)
    assert inputs.item_columns["width"].tolist() == [7.0] * 3 and not inputs.items_degraded
    for store in (old, new):
        await store.close()


async def test_a_redis_that_wants_a_password_or_still_loads_is_unavailable(
    redis_server: EmbeddedRedis, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    async def loading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")

    writers: list[asyncio.StreamWriter] = []

    redis_admin.config_set("requirepass", "hunter2")
    try:
        async with await asyncio.start_unix_server(loading, tmp_path / "loading.sock"):
            for url, reason in ((redis_server.url, "NOAUTH"), (f"unix://{tmp_path}/loading.sock", "LOADING")):
                store = RedisFeatureStore.connect(url, SHOP)
                with pytest.raises(StoreUnavailableError, match=reason):
                    await store.save_position("a", "1", timeout_s=5)
                assert (await store.read_for_rank(USER, ITEMS, time_ms=NOW_MS, timeout_s=5)).user_degraded
                await store.close()
            for writer in writers:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
    finally:
        with redis.Redis.from_url(f"{redis_server.url}?password=hunter2") as admin:
            admin.config_set("requirepass", "")


async def test_a_foreign_value_under_the_offsets_key_is_named(redis_url: str, redis_admin: redis.Redis) -> None:
    store = RedisFeatureStore.connect(redis_url, SHOP)
    redis_admin.set(history_keys("shop", USER).offsets, "mine")
    offsets = [np.array([1, 2]), np.array([1, 2])]
    results = await store.append_many([(USER, EVENTS), (OTHER, EVENTS)], source="s", offsets=offsets, timeout_s=5)
    assert "recsys:v1:{shop:u:7}:o: the key holds another Redis type" in str(results[0].refused)
    assert results[1].added == 2
    await store.close()


async def test_a_change_of_identity_leaves_a_readable_history(redis_url: str) -> None:
    rows = [(t, t, 1, 0) for t in range(33)] + [(33, 7, rating, 0) for rating in range(25)]
    old = RedisFeatureStore.connect(redis_url, replace(SHOP, history=replace(require_history(SHOP), max_events=100)))
    await old.append(USER, events_of(rows), timeout_s=5)
    history = replace(require_history(SHOP), max_events=100, identity=("item",))
    new = RedisFeatureStore.connect(redis_url, replace(SHOP, history=history))
    result = await new.append(USER, events_of([(33, 8, 1, 0)]), timeout_s=5)
    assert result.stored == 35
    for limit in (1, 20, 100):
        ((header, events),) = await new.histories([USER], limit=limit, timeout_s=5)
        assert header.stored == 35 and len(events) == min(limit, 35)
    for store in (old, new):
        await store.close()


async def test_reads_beside_a_writer_have_neither_gaps_nor_repetitions(redis_url: str) -> None:
    features = replace(SHOP, history=replace(require_history(SHOP), max_events=2_000, recent=40))
    writer, reader = (RedisFeatureStore.connect(redis_url, features) for _ in range(2))

    async def write() -> None:
        for start in range(0, 6_000, 7):
            await writer.append(USER, events_of([(t, t, 1, 0) for t in range(start, start + 7)]), timeout_s=5)

    writing = asyncio.create_task(write())
    while not writing.done():
        for limit in (10, 300):
            ((header, events),) = await reader.histories([USER], limit=limit, timeout_s=5)
            items = events["item"].tolist()
            assert not items or items == list(range(items[0], items[0] + len(items)))
            assert not items or header.newest_ms == T0_MS + items[-1]
    await writing
    for store in (writer, reader):
        await store.close()


def test_two_reads_with_a_write_between_them_are_read_again() -> None:
    value, keys = HistoryValue(SHOP), history_keys("shop", USER)
    before, after = (HEADER[:48] + struct.pack("<q", T0_MS + newest) for newest in (2, 3))
    tail = bytes(len(HEADER)) + events_of([(3, 3, 1, 3)]).tobytes()
    assert not value.parse_open(keys, before, tail, 0, 1).enough
    assert value.parse_open(keys, after, tail, 0, 1).enough
