"""The log of changed items in Redis: what is dropped, lost or damaged is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import numpy as np
import pytest
import redis
from contracts.feature_store_contract.changes import changed, put_items
from contracts.feature_store_contract.shop import SHOP

from recsys.errors import StoreError, StoreFormatError
from recsys.feature_store.redis import item_changes
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns

KEY = "recsys:v1:shop:item_changes"


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, SHOP)
    yield store
    await store.close()


async def test_a_position_whose_entry_is_gone_may_have_missed_some(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    await put_items(store, 1)
    position = (await changed(store, "")).position
    for key in (2, 3, 4):
        await put_items(store, key)
    redis_admin.xtrim(KEY, maxlen=3, approximate=False)
    found = await changed(store, position)
    assert (found.keys.tolist(), found.complete) == ([2, 3, 4], False)
    assert (await changed(store, found.position)).complete  # from here on none is missing


async def test_old_entries_are_dropped_once_there_are_too_many(
    store: RedisFeatureStore, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_changes, "KEPT", 200)
    empty = (await changed(store, "")).position
    for _ in range(5):
        await put_items(store, *range(100 * 100))
    kept = redis_admin.xlen(KEY)
    assert 200 <= kept < 400  # Redis drops whole blocks of 100 entries
    assert not (await changed(store, empty)).complete


async def test_a_lost_log_is_noticed(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    await put_items(store, 1)
    position = (await changed(store, "")).position
    redis_admin.delete(KEY)
    lost = await changed(store, position)
    assert (len(lost.keys), lost.complete) == (0, False)
    assert (await changed(store, lost.position)).complete
    await asyncio.sleep(0.01)  # an entry's id is its millisecond
    await put_items(store, 2)
    assert not (await changed(store, position)).complete
    assert (await changed(store, lost.position)).keys.tolist() == [2]


async def test_entries_of_another_program_are_skipped_and_said(
    store: RedisFeatureStore, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    position = (await changed(store, "")).position
    await put_items(store, 1)
    for fields in ({"items": b"123"}, {"other": b"12345678"}, {"items": b"\xff" * 8}):
        redis_admin.xadd(KEY, fields)
    await put_items(store, 2)
    with caplog.at_level(logging.WARNING):
        found = await changed(store, position)
    assert (found.keys.tolist(), found.complete) == ([1, 2], False)
    assert caplog.text.count("does not hold keys of items") == 3
    assert (await changed(store, found.position)).complete


async def test_a_write_that_cannot_be_noted_is_not_acknowledged(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    redis_admin.set(KEY, "foreign")
    with pytest.raises(StoreFormatError, match="item_changes: the key holds another Redis type"):
        await put_items(store, 1)
    with pytest.raises(StoreError, match="another Redis type"):
        await changed(store, "")


async def test_features_without_items_note_nothing(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    users = make_columns(SHOP.user, {"age": [30.0]}, length=1)
    await store.put_entities("user", np.array([1]), users, timeout_s=5)
    assert not redis_admin.exists(KEY)
