"""Time-decayed counts in a real Redis, beside an exact count of the distinct events."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import redis
from support.redis_servers import cluster

from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.redis import trending as module
from recsys.feature_store.redis.keys import trending_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import Events, make_events
from recsys.features.trending import Trending

HALF_LIFE_S = 3600
FEATURES = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    history=History(
        attributes=(Categorical(name="action", id_type="string"),),
        max_events=100,
        trending=Trending(
            half_life_s=HALF_LIFE_S, attribute="action", weights=(("buy", 5.0), ("look", 0.0)), other=1.0
        ),
    ),
)
WEIGHTS = {"buy": 5.0, "look": 0.0, "view": 1.0}
Event = tuple[int, int, str]
"""Item, time in milliseconds, action."""


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, FEATURES)
    yield store
    await store.close()


def events_of(events: list[Event]) -> Events:
    items, times, actions = zip(*events, strict=True)
    return make_events(FEATURES, item=items, timestamp_ms=times, attributes={"action": actions})


def exact(events: set[tuple[int, Event]], now_ms: int) -> dict[int, float]:
    """The definition, of distinct (user, event) pairs."""
    counts: dict[int, float] = defaultdict(float)
    for _, (item, time_ms, action) in events:
        counts[item] += WEIGHTS[action] * 2.0 ** ((time_ms - now_ms) / (1000 * HALF_LIFE_S))
    return {item: count for item, count in counts.items() if count}


async def stored(store: RedisFeatureStore, now_ms: int) -> dict[int, float]:
    trending = Trending(half_life_s=HALF_LIFE_S)
    counts: dict[int, float] = defaultdict(float)
    for begin, (items, numbers) in (await store.trending(trending.begins_ms(now_ms), timeout_s=5)).items():
        for item, number in zip(items.tolist(), numbers.tolist(), strict=True):
            counts[item] += number * trending.worth(begin, now_ms)
    return dict(counts)


def drawn(now_ms: int) -> list[tuple[int, list[Event]]]:
    """Batches of users: late ones, and some whose events come again, alone or among new ones."""
    random = np.random.default_rng(0)
    batches: list[tuple[int, list[Event]]] = []
    for _ in range(120):
        user, size = int(random.integers(1, 6)), int(random.integers(1, 8))
        times = now_ms - random.integers(0, 7 * 3_600_000, size) // 60_000 * 60_000
        items, actions = random.integers(1, 9, size), random.choice(list(WEIGHTS), size)
        batch = list(zip(items.tolist(), times.tolist(), actions.tolist(), strict=True))
        if batches and random.random() < 0.3:
            user, before = batches[int(random.integers(len(batches)))]
            batch = [*batch, *before] if random.random() < 0.5 else before
        batches.append((user, batch))
    return batches


async def check_counts(store: RedisFeatureStore) -> None:
    now_ms = time.time_ns() // 1_000_000
    batches = drawn(now_ms)
    for begin in range(0, len(batches), 10):
        part = [(user, events_of(batch)) for user, batch in batches[begin : begin + 10]]
        await store.append_many(part, timeout_s=5)
    expected = exact({(user, event) for user, batch in batches for event in batch}, now_ms)
    assert await stored(store, now_ms) == pytest.approx(expected)


async def test_counts_are_those_of_the_distinct_events_whatever_their_order_and_repetitions(
    store: RedisFeatureStore,
) -> None:
    await check_counts(store)
    assert store.trending_counts()["lost"] == store.trending_counts()["no_room"] == 0


async def test_so_they_are_in_a_cluster(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        store = RedisFeatureStore.connect(f"redis+cluster://{nodes[0].address}", FEATURES)
        try:
            await check_counts(store)
        finally:
            await store.close()


async def test_an_event_up_to_the_last_offset_of_its_source_is_not_counted_again(store: RedisFeatureStore) -> None:
    now_ms = time.time_ns() // 1_000_000
    first, changed = (1, now_ms - 1000, "view"), (2, now_ms - 500, "view")
    for event in (first, changed):
        await store.append_many([(7, events_of([event]))], source="log", offsets=[np.array([3])], timeout_s=5)
    assert set(await stored(store, now_ms)) == {1}


async def test_an_event_of_the_future_counts_as_of_its_arrival_and_an_old_one_not_at_all(
    store: RedisFeatureStore,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    future = make_events(
        FEATURES, item=[1], timestamp_ms=[now_ms + 240_000], arrival_ms=[now_ms], attributes={"action": ["buy"]}
    )
    await store.append_many([(1, future)], timeout_s=5)
    await store.append_many([(1, events_of([(2, now_ms - 10 * 3_600_000, "buy")]))], timeout_s=5)
    await store.append_many([(1, events_of([(2, now_ms - 11 * 3_600_000, "look")]))], timeout_s=5)  # of weight 0
    assert await stored(store, now_ms) == pytest.approx({1: 5.0})
    assert store.trending_counts() == {"counted": 1, "late": 1, "no_room": 0, "lost": 0}


async def test_a_full_hash_takes_no_other_items_and_says_so(
    store: RedisFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ITEMS", 1)
    now_ms = time.time_ns() // 1_000_000 // 3_600_000 * 3_600_000
    same_shard = [(item, now_ms, "view") for item in (1, 1 + module.SHARDS, 1)]
    for user, event in enumerate(same_shard):
        await store.append_many([(user, events_of([event]))], timeout_s=5)
    assert await stored(store, now_ms) == pytest.approx({1: 2.0})
    assert store.trending_counts()["no_room"] == 1


async def test_of_an_item_without_room_each_event_is_said_to_be_without_it(
    store: RedisFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ITEMS", 1)
    now_ms = time.time_ns() // 1_000_000 // 3_600_000 * 3_600_000
    many = [(1, now_ms, "view")] + [(1 + module.SHARDS, now_ms + place, "view") for place in range(3)]
    for batch in (many[:1], many[1:]):
        await store.append_many([(7, events_of(batch))], timeout_s=5)
    assert store.trending_counts() == {"counted": 1, "late": 0, "no_room": 3, "lost": 0}


async def test_the_parts_expire(store: RedisFeatureStore, redis_admin: redis.Redis) -> None:
    now_ms = time.time_ns() // 1_000_000
    await store.append_many([(1, events_of([(5, now_ms, "view")]))], timeout_s=5)
    (key,) = redis_admin.keys("*trending*")
    assert 9 * HALF_LIFE_S < redis_admin.ttl(key) <= 10 * HALF_LIFE_S


async def test_a_count_that_fails_fails_no_append_and_is_told(
    store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    now_ms = time.time_ns() // 1_000_000
    begin_s = now_ms // 3_600_000 * HALF_LIFE_S
    redis_admin.set(trending_key("shop", HALF_LIFE_S, 5, begin_s), "foreign")
    (result,) = await store.append_many([(1, events_of([(5, now_ms, "view")]))], timeout_s=5)
    assert result.added == 1 and store.trending_counts()["lost"] == 1
    with pytest.raises(StoreFormatError, match="trending:5"):
        await stored(store, now_ms)


async def test_a_feature_set_without_it_counts_nothing(redis_url: str, redis_admin: redis.Redis) -> None:
    plain = FeatureSet(name="plain", user_id=Categorical(name="user_id"), item_id=Categorical(name="item_id"))
    store = RedisFeatureStore.connect(redis_url, plain)
    events = make_events(plain, item=[1], timestamp_ms=[time.time_ns() // 1_000_000])
    (result,) = await store.append_many([(1, events)], timeout_s=5)
    assert result.added == 1 and result.new is None and not redis_admin.keys("*trending*")
    with pytest.raises(InvalidInputError, match="counts nothing that is trending: declare history.trending"):
        await store.trending([0], timeout_s=5)
    await store.close()
