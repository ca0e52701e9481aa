"""Changed items: which were written, in the order of the writes, none twice from one position, none in silence."""

from __future__ import annotations

import time

import numpy as np
import pytest
from contracts.feature_store_contract.shop import SHOP, USER

from recsys.errors import InvalidInputError
from recsys.feature_store.base import IS_WITHDRAWN, NOT_STORED, STORED, FeatureStore, ItemChanges
from recsys.features.entities import make_columns


async def put_items(store: FeatureStore, *keys: int) -> None:
    columns = make_columns(SHOP.item, {"price": [float(key % 97) for key in keys]}, length=len(keys))
    await store.put_entities("item", np.array(keys), columns, timeout_s=5)


async def changed(store: FeatureStore, since: str, limit: int = 1000) -> ItemChanges:
    return await store.changed_items(since, limit=limit, timeout_s=5)


async def test_written_items_are_read_from_a_position_on(store: FeatureStore) -> None:
    start = await changed(store, "")
    assert (len(start.keys), start.complete, start.more) == (0, False, False)
    began_ms = time.time_ns() // 1_000_000
    await put_items(store, 3, 1)
    await put_items(store, 2)
    await put_items(store, 3)
    first = await changed(store, start.position)
    assert (first.keys.tolist(), first.complete, first.more) == ([3, 1, 2, 3], True, False)
    assert np.all(np.abs(first.times_ms - began_ms) < 60_000) and np.all(np.diff(first.times_ms) >= 0)
    again = await changed(store, first.position)
    assert (len(again.keys), again.complete, again.position) == (0, True, first.position)
    await put_items(store, 9)
    assert (await changed(store, first.position)).keys.tolist() == [9]
    assert (await changed(store, "")).keys.tolist() == [3, 1, 2, 3, 9]  # what a new reader finds


async def test_the_row_of_a_changed_item_can_be_read(store: FeatureStore) -> None:
    await put_items(store, *range(250))
    found = await changed(store, "")
    assert found.keys.tolist() == list(range(250))
    assert (await store.entities("item", found.keys, timeout_s=5))["price"].tolist() == [k % 97 for k in range(250)]


async def test_changes_are_read_a_limited_number_of_writes_at_a_time(store: FeatureStore) -> None:
    position = (await changed(store, "")).position
    for key in range(5):
        await put_items(store, key)
    read, more = [], True
    while more:
        found = await changed(store, position, limit=2)
        assert found.complete
        read += found.keys.tolist()
        position, more = found.position, found.more
    assert read == list(range(5))
    with pytest.raises(InvalidInputError, match="limit is 0; allowed: 1 or more writes"):
        await changed(store, "", limit=0)


async def test_only_items_are_noted(store: FeatureStore) -> None:
    users = make_columns(SHOP.user, {"age": [30.0]}, length=1)
    await store.put_entities("user", np.array([USER]), users, timeout_s=5)
    rated = make_columns(SHOP.entity("shop").features, {"rating": [1.0]}, length=1)
    await store.put_entities("shop", np.array([1]), rated, timeout_s=5)
    await store.put_entities("item", np.empty(0, np.int64), make_columns(SHOP.item, {}, length=0), timeout_s=5)
    assert not len((await changed(store, "")).keys)


async def test_all_items_with_features_are_listed(store: FeatureStore) -> None:
    keys = [0, 5, 64, 1 << 61, *range(1000, 1300)]
    await put_items(store, *keys)
    users = make_columns(SHOP.user, {"age": [30.0]}, length=1)
    await store.put_entities("user", np.array([USER]), users, timeout_s=5)
    await store.put_names({1: "a"}, timeout_s=5)
    assert {key async for some in store.item_keys() for key in some} == set(keys)


async def test_a_withdrawn_item_has_no_features_and_is_noted_until_it_is_put_again(store: FeatureStore) -> None:
    await put_items(store, 5, 6)
    position = (await changed(store, "")).position
    await store.withdraw_items(np.array([5, 77]), timeout_s=5)
    found = await changed(store, position)
    assert found.keys.tolist() == [5, 77] and found.complete
    rows = await store.entity_rows("item", np.array([5, 6, 77, 78]), timeout_s=5)
    assert rows.stored.tolist() == [IS_WITHDRAWN, STORED, IS_WITHDRAWN, NOT_STORED] and not rows.damaged
    assert rows.columns["price"].tolist()[1] == 6.0
    assert {key async for some in store.item_keys() for key in some} == {5, 6, 77}
    await put_items(store, 5)
    assert (await store.entity_rows("item", np.array([5]), timeout_s=5)).stored.tolist() == [STORED]
