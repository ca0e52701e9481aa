"""Bulk feeds: batched, idempotent, honest about what they did."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from contracts.feature_store_contract import SHOP, events_of, rows_of

from recsys.errors import StoreUnavailableError
from recsys.feature_store.ingest import ingest_histories, put_in_chunks
from recsys.feature_store.redis_store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.history import Events


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, SHOP)
    yield store
    await store.close()


def histories() -> list[tuple[int, Events]]:
    return [(user, events_of([(t, user, 1, 0) for t in range(user)])) for user in range(30)]


@pytest.mark.parametrize("events_per_batch", [1, 7, 29, 10_000])
async def test_everything_arrives_in_order_and_twice_adds_nothing(
    store: RedisFeatureStore, events_per_batch: int
) -> None:
    total = sum(range(30))
    for added in (total, 0):
        done: list[int] = []
        result = await ingest_histories(
            store, iter(histories()), events_per_batch=events_per_batch, progress=done.append
        )
        assert (result.users, result.events, result.added) == (30, total, added)
        assert done == sorted(done) and done[-1] == total
        assert done[0] <= events_per_batch
        assert result.events_per_s == result.events / result.elapsed_s
    for user, events in histories():
        assert rows_of((await store.history(user, limit=99, timeout_s=5))[1]) == rows_of(events)


async def test_ties_of_a_split_history_keep_their_order(store: RedisFeatureStore) -> None:
    rows = [(5, item, 1, 0) for item in (9, 3, 7, 1, 8, 2, 6)]
    await ingest_histories(store, [(1, events_of(rows))], events_per_batch=2)
    assert rows_of((await store.history(1, limit=99, timeout_s=5))[1]) == rows


async def test_no_histories_are_no_error(store: RedisFeatureStore) -> None:
    result = await ingest_histories(store, [])
    assert (result.users, result.events, result.added) == (0, 0, 0)


async def test_a_feed_to_an_unreachable_store_fails_and_leaves_no_task_behind() -> None:
    store = RedisFeatureStore.connect("unix:///nonexistent/redis.sock", SHOP)
    with pytest.raises(StoreUnavailableError):
        await ingest_histories(store, histories(), events_per_batch=5)


async def test_entities_are_put_in_chunks(store: RedisFeatureStore) -> None:
    keys, done = np.arange(25), list[int]()
    items = make_columns(SHOP.item, {"price": keys.astype(float)}, length=25)
    await put_in_chunks(store.put_items, keys, items, rows_per_chunk=10, progress=done.append)
    assert done == [10, 20, 25]
    users = make_columns(SHOP.user, {"age": keys.astype(float)}, length=25)
    await put_in_chunks(store.put_users, keys, users, rows_per_chunk=10)
    inputs = await store.read_for_rank(24, keys, timeout_s=5)
    assert inputs.item_columns["price"].tolist() == keys.tolist()
    assert inputs.user_columns["age"].tolist() == [24.0]
