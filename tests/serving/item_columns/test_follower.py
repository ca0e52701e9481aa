"""Columns that follow a real store: writes, gaps, another process that takes over, items that are gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.filtered_shop import SHOP

from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.features.entities import make_columns
from recsys.serving.item_columns import follower as columns_follower
from recsys.serving.item_columns import writer as columns_writer
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.item_columns.follower import ColumnFollower
from recsys.serving.item_columns.postings import Snapshot


@pytest.fixture
def store(redis_url: str) -> Iterator[BlockingFeatureStore]:
    with loop_in_thread("store") as loop:
        store = BlockingFeatureStore.connect(redis_url, SHOP, loop=loop, cache=ItemCache(SHOP.item))
        yield store
        store.close()


@contextmanager
def following(folder: Path, store: BlockingFeatureStore, **more: Any) -> Iterator[ColumnFollower]:
    follower = ColumnFollower(folder, lambda: SHOP, store, **{"limit_bytes": 1 << 24, "interval_s": 0.02, **more})
    with closing(follower):
        assert follower.tried.wait(10.0)
        yield follower


def put(store: BlockingFeatureStore, prices: dict[int, float]) -> None:
    columns = make_columns(SHOP.item, {"price": list(prices.values())}, length=len(prices))
    store.put_entities("item", np.array(list(prices), dtype=np.int64), columns, timeout_s=5.0)


def prices(folder: Path) -> dict[int, float]:
    reading = ItemColumns(folder).read(
        lambda generation, version: dict(
            zip(
                generation.items.keys_C[: len(generation.items)].tolist(),
                generation.columns["price"].array[: len(generation.items)].tolist(),
                strict=True,
            )
        )
    )
    return reading.found or {}


def until(is_so: Callable[[], Any], *, limit_s: float = 10.0) -> None:
    until_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.01)


def test_what_was_there_and_what_is_written_is_in_the_columns(tmp_path: Path, store: BlockingFeatureStore) -> None:
    put(store, {1: 1.0, 2: 2.0})
    took_ms: list[int] = []
    with following(tmp_path, store, on_applied=took_ms.append) as follower:
        assert prices(tmp_path) == {1: 1.0, 2: 2.0} and follower.writes
        assert ItemColumns(tmp_path).state.age_s < 2.0
        put(store, {2: 5.0, 3: 3.0})
        until(lambda: prices(tmp_path) == {1: 1.0, 2: 5.0, 3: 3.0})
        until(lambda: len(took_ms) == 2)
        assert max(took_ms) < 2_000


def test_an_item_that_is_deleted_in_redis_loses_its_values_at_the_next_look_at_all(
    tmp_path: Path, store: BlockingFeatureStore, redis_admin: redis.Redis
) -> None:
    put(store, {1: 1.0, 2: 2.0})
    with following(tmp_path, store):
        redis_admin.delete("recsys:v1:{tiny:item:1}:1")
        redis_admin.delete("recsys:v1:tiny:item_changes")  # a gap: all are looked at
        until(lambda: np.isnan(prices(tmp_path)[1]) and prices(tmp_path)[2] == 2.0)  # nor has it the default
        assert ItemColumns(tmp_path).withdrawn == 0


def test_one_of_two_writes_and_the_other_takes_over_where_it_was(tmp_path: Path, store: BlockingFeatureStore) -> None:
    put(store, {1: 1.0})
    with following(tmp_path, store) as second:
        with following(tmp_path, store) as first:
            assert [first.writes, second.writes] == [False, True]
        second.close()
        put(store, {2: 2.0})
        with following(tmp_path, store) as third:
            until(lambda: third.writes and prices(tmp_path) == {1: 1.0, 2: 2.0})
            assert ItemColumns(tmp_path).state.generation == 1  # the same file


def test_nothing_is_read_while_nothing_asks_for_columns(tmp_path: Path, store: BlockingFeatureStore) -> None:
    with closing(ColumnFollower(tmp_path, lambda: SHOP, store, limit_bytes=1 << 24, enabled=lambda: False)) as follower:
        assert follower.tried.wait(5.0) and not follower.writes
        assert not (tmp_path / "columns-1").exists()


def test_items_are_listed_by_value_once_there_are_many(
    tmp_path: Path, store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns_writer, "FEWEST_LISTED", 3)
    offer = SHOP.entity("offer").features

    def put_offers(keys: list[int]) -> None:
        columns = make_columns(offer, {"category": ["shoes"] * len(keys)}, length=len(keys))
        store.put_entities("offer", np.array(keys, dtype=np.int64), columns, timeout_s=5.0)

    columns = ItemColumns(tmp_path)
    put_offers([1, 2])
    with following(tmp_path, store):
        time.sleep(0.2)
        assert columns.read(lambda generation, version: generation.has_lists).found is False
        put_offers([3])
        until(lambda: columns.read(lambda generation, version: generation.has_lists).found)
        assert not list(tmp_path.glob("making*"))


def test_the_writer_knows_the_items_that_are_stored_and_not_withdrawn(
    tmp_path: Path, store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns_follower, "_STORED_S", 0.1)
    put(store, {1: 1.0, 2: 2.0, 3: 3.0})
    with following(tmp_path, store) as follower:
        until(lambda: follower.stored.tolist() == [1, 2, 3])
        put(store, {4: 4.0})
        store.withdraw_items(np.array([2]), timeout_s=5.0)
        until(lambda: sorted(follower.stored.tolist()) == [1, 3, 4])


def test_another_writer_begins_once_the_lists_of_the_one_before_are_made(
    tmp_path: Path, store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make them in one file."""
    began, may_end, write = threading.Event(), threading.Event(), columns_writer.write_postings

    def slow(path: Path, snapshot: Snapshot) -> None:
        began.set()
        assert may_end.wait(10.0)
        write(path, snapshot)

    monkeypatch.setattr(columns_writer, "FEWEST_LISTED", 1)
    monkeypatch.setattr(columns_writer, "write_postings", slow)
    columns = make_columns(SHOP.entity("offer").features, {"category": ["shoes"]}, length=1)
    store.put_entities("offer", np.array([1], dtype=np.int64), columns, timeout_s=5.0)
    follower = ColumnFollower(tmp_path, lambda: SHOP, store, limit_bytes=1 << 24, interval_s=0.02)
    assert began.wait(10.0)
    ending = threading.Thread(target=follower.close)
    ending.start()
    with closing(ColumnFollower(tmp_path, lambda: SHOP, store, limit_bytes=1 << 24, interval_s=0.02)) as other:
        time.sleep(0.3)
        assert not other.writes
        may_end.set()
        until(lambda: other.writes)
    ending.join(10.0)
    assert len(list(tmp_path.glob("postings-*"))) == 1 and not list(tmp_path.glob("making*"))
