"""ItemCache: bounded, exact, forgetful when told."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.arrays import Int64Array
from recsys.feature_store.item_cache import ItemCache
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Numeric

FEATURES = (Categorical(name="tags", max_values=2), Numeric(name="price"))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def columns_of(keys: Int64Array, version: int = 0) -> dict[str, Column]:
    tags = np.stack([keys, keys + version], axis=1)
    return {"tags": tags, "price": (keys % 1000 + version).astype(np.float32)}


def assert_exact(cache: ItemCache, keys: Int64Array) -> int:
    """What the cache has of keys is right; returns how many it has."""
    columns, known, fresh = cache.read(keys)
    assert not (fresh & ~known).any()
    for name, column in columns.items():
        np.testing.assert_array_equal(column[fresh], columns_of(keys)[name][fresh])
    return int(fresh.sum())


def found(cache: ItemCache, keys: Int64Array) -> list[bool]:
    return cache.read(keys)[2].tolist()


def test_what_is_put_is_found() -> None:
    cache = ItemCache(FEATURES, capacity=4096)
    keys = np.array([5, (1 << 62) - 1, 0, 17])
    assert assert_exact(cache, keys) == 0
    cache.put(keys, columns_of(keys), generation=0)
    assert assert_exact(cache, keys[[2, 0, 0, 3, 1]]) == 5


@given(st.lists(st.sets(st.integers(0, 500), min_size=1, max_size=40), max_size=20))
def test_a_full_cache_never_mixes_items_up(batches: list[set[int]]) -> None:
    cache = ItemCache(FEATURES, capacity=64)
    for batch in batches:
        keys = np.array(sorted(batch))
        cache.put(keys, columns_of(keys), generation=0)
        assert_exact(cache, np.arange(501))


def test_half_full_it_keeps_nearly_everything_and_never_more_than_its_capacity() -> None:
    cache = ItemCache(FEATURES, capacity=8192)
    keys = np.arange(4096) * 7919
    cache.put(keys, columns_of(keys), generation=0)
    assert assert_exact(cache, keys) > 0.95 * len(keys)
    more = np.arange(50_000)
    cache.put(more, columns_of(more), generation=0)
    assert assert_exact(cache, more) <= 8192


def test_the_oldest_items_make_room() -> None:
    clock = Clock()
    cache = ItemCache(FEATURES, capacity=8, clock=clock)
    for key in range(9):
        cache.put(np.array([key]), columns_of(np.array([key])), generation=0)
        clock.now_s += 1
    assert found(cache, np.arange(9)) == [False] + [True] * 8


def test_an_item_too_old_is_not_found_until_put_again() -> None:
    clock = Clock()
    cache = ItemCache(FEATURES, capacity=8, max_age_s=10, clock=clock)
    key = np.array([3])
    cache.put(key, columns_of(key, version=1), generation=0)
    clock.now_s += 10
    assert assert_exact(cache, key) == 0
    cache.put(key, columns_of(key), generation=0)
    assert assert_exact(cache, key) == 1


def test_a_forgotten_item_is_not_found_and_the_others_are() -> None:
    cache = ItemCache(FEATURES, capacity=64)
    keys = np.arange(5)
    cache.put(keys, columns_of(keys), generation=0)
    cache.forget(np.array([2, 99]))
    assert found(cache, keys) == [True, True, False, True, True]
    assert not cache.read(np.array([2]))[1].any(), "not even as an expired one"


def test_features_read_before_a_write_are_not_cached_after_it() -> None:
    cache = ItemCache(FEATURES, capacity=64)
    key, generation = np.array([3]), cache.generation
    cache.forget(key)
    cache.put(key, columns_of(key), generation=generation)
    assert found(cache, key) == [False]


def test_with_max_age_0_nothing_is_cached() -> None:
    cache = ItemCache(FEATURES, capacity=64, max_age_s=0)
    key = np.array([3])
    cache.put(key, columns_of(key), generation=0)
    assert found(cache, key) == [False]


def test_an_expired_item_is_still_known() -> None:
    clock = Clock()
    cache = ItemCache(FEATURES, capacity=8, max_age_s=10, clock=clock)
    keys = np.array([3, 4])
    cache.put(keys[:1], columns_of(keys[:1]), generation=0)
    clock.now_s += 10
    columns, known, fresh = cache.read(keys)
    assert (known.tolist(), fresh.tolist()) == ([True, False], [False, False])
    assert columns["price"][0] == 3.0


def test_an_absent_item_is_read_again_after_a_second() -> None:
    clock = Clock()
    cache = ItemCache(FEATURES, capacity=64, max_age_s=10, clock=clock)
    keys = np.array([3, 4])
    cache.put(keys, columns_of(keys), generation=0, absent=np.array([False, True]))
    clock.now_s += 0.9
    assert found(cache, keys) == [True, True]
    clock.now_s += 0.1
    assert found(cache, keys) == [True, False]


def test_the_item_cache_counts_what_it_knew() -> None:
    cache = ItemCache([], max_age_s=60.0)
    keys = np.arange(10, dtype=np.int64)
    cache.read(keys)
    cache.put(keys[:4], {}, generation=cache.generation)
    cache.read(keys)
    assert cache.counts() == {"memory": 4, "store": 16}


def test_other_features_are_held_when_told_and_the_old_ones_until_items_are_read_again() -> None:
    cache = ItemCache(FEATURES, capacity=8)
    keys = np.arange(3)
    cache.put(keys, columns_of(keys), generation=0)
    boost = Numeric(name="boost", default=2.0)
    cache.hold((*FEATURES, boost))
    columns, known, fresh = cache.read(keys)
    assert known.all() and not fresh.any()
    assert columns["price"].tolist() == [0.0, 1.0, 2.0] and columns["boost"].tolist() == [2.0] * 3
    more = {**columns_of(keys), "boost": np.array([5.0, 6.0, 7.0], dtype=np.float32)}
    cache.put(keys, more, generation=0)
    assert not cache.read(keys)[2].any(), "read before it held them"
    cache.put(keys, columns_of(keys), generation=cache.generation)
    assert not cache.read(keys)[2].any(), "by a store that does not know the new one"
    cache.put(keys, more, generation=cache.generation)
    assert cache.read(keys)[0]["boost"].tolist() == [5.0, 6.0, 7.0] and cache.read(keys)[2].all()
    cache.hold(FEATURES)
    assert set(cache.read(keys)[0]) == {"tags", "price"}
