"""The follower: one thread keeps the added items of all loaded releases current, and says if it cannot."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from serving.added_items.conftest import TRAINED, Index, keys_of, put

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import StoreUnavailableError
from recsys.feature_store.base import ItemChanges
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.serving.added_items import follower as follower_module
from recsys.serving.added_items import release_items as release_items_module
from recsys.serving.added_items.follower import ItemFollower
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.layout import HISTOGRAM, create_counter_file, open_counter_file, sum_of_rows

NEW = TRAINED + 50
INTERVAL_S = 0.02


@pytest.fixture
def telemetry(tmp_path: Path) -> Telemetry:
    return Telemetry(create_counter_file(tmp_path / "counts", workers=1, methods=["Retrieve"]))


@pytest.fixture
def follower(telemetry: Telemetry) -> Iterator[ItemFollower]:
    with closing(ItemFollower(interval_s=INTERVAL_S, most=100, telemetry=telemetry)) as made:
        yield made


def eventually(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_new_release_begins_with_the_items_there_are_and_gets_those_to_come(
    follower: ItemFollower, store: BlockingFeatureStore
) -> None:
    put(store, {NEW: 1.0})
    with follower.following(Index(), store, release="a") as current:
        assert keys_of(current()) == [NEW]
        put(store, {NEW + 1: 1.0})
        eventually(lambda: keys_of(current()) == [NEW, NEW + 1])
        with follower.following(Index(), store, release="b") as other:
            assert keys_of(other()) == [NEW, NEW + 1]
            assert follower.count() == 4
        assert follower.count() == 2
    assert current() is None  # its memory is given back
    assert follower.counts.read() == {"added": 4}


def test_the_time_to_an_items_part_in_searches_is_measured(
    follower: ItemFollower, store: BlockingFeatureStore, tmp_path: Path
) -> None:
    with follower.following(Index(), store, release="a") as current:
        put(store, {NEW: 1.0})
        eventually(lambda: keys_of(current()) == [NEW])
        file = open_counter_file(tmp_path / "counts")
        place = file.times["added_item_seconds",]
        eventually(lambda: sum(sum_of_rows(file)[place : place + HISTOGRAM - 1]) == 1)


def test_nothing_is_read_for_a_model_that_makes_no_rows_of_items(store: BlockingFeatureStore) -> None:
    index = Index()
    index.item_inputs = ()
    with (
        closing(ItemFollower(interval_s=INTERVAL_S, most=100)) as follower,
        follower.following(index, store, release="a") as current,
    ):
        assert current() is None and "added-items" not in threads()
    with (
        closing(ItemFollower(interval_s=INTERVAL_S, most=0)) as follower,
        follower.following(Index(), store, release="a") as current,
    ):
        assert current() is None and "added-items" not in threads()


def test_a_closed_follower_has_no_thread(follower: ItemFollower, store: BlockingFeatureStore) -> None:
    with follower.following(Index(), store, release="a"):
        assert "added-items" in threads()
        follower.close()
        assert "added-items" not in threads()


def test_while_the_store_is_away_the_worker_is_behind_and_then_current_again(
    follower: ItemFollower,
    store: BlockingFeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(follower_module, "BEHIND_S", 0.1)
    with follower.following(Index(), store, release="a") as current:
        link = store._store._link  # type: ignore[attr-defined]

        async def away(*args: object, **options: object) -> None:
            raise StoreUnavailableError("away")

        answers, link.round_trip = link.round_trip, away
        with caplog.at_level(logging.WARNING):
            eventually(lambda: follower.behind() == 1)
        assert "release a: items that came after training: not current: away" in caplog.text
        link.round_trip = answers
        put(store, {NEW: 1.0})
        eventually(lambda: keys_of(current()) == [NEW] and follower.behind() == 0)


def test_a_release_that_goes_while_its_step_lasts_leaves_nothing_behind(
    follower: ItemFollower, store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "BEHIND_S", 0.02)
    at_work, read = threading.Event(), store.changed_items

    def slow(*args: Any, **options: Any) -> ItemChanges:
        at_work.set()
        time.sleep(0.05)
        return read(*args, **options)

    put(store, {NEW: 1.0})
    with follower.following(Index(), store, release="a"):
        monkeypatch.setattr(store, "changed_items", slow)
        assert at_work.wait(5)
        eventually(lambda: follower.behind() == 1)  # though the thread is at work
    assert follower.behind() == 0 and follower.count() == 0


def test_what_is_left_of_the_first_look_is_done_at_once(
    store: BlockingFeatureStore,
    redis_admin: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(follower_module, "_FIRST_S", 0.02)

    def pages() -> Iterator[list[int]]:
        for _ in range(10):  # one to a step
            time.sleep(0.01)
            yield [NEW]

    monkeypatch.setattr(store, "item_keys", pages)
    monkeypatch.setattr(release_items_module, "_SCAN_S", 0.001)
    put(store, {NEW: 1.0})
    redis_admin.delete("recsys:v1:shop:item_changes")
    with (
        closing(ItemFollower(interval_s=60.0, most=100)) as follower,
        follower.following(Index(), store, release="a") as current,
    ):
        eventually(lambda: "release a begins without some of the items that came after" in caplog.text)
        eventually(lambda: keys_of(current()) == [NEW])


def test_a_release_that_fails_does_not_hold_up_the_others(follower: ItemFollower, store: BlockingFeatureStore) -> None:
    class Broken(Index):
        def has_items(self, keys: Int64Array) -> BoolArray:
            raise RuntimeError("broken")

    put(store, {NEW: 1.0})
    with (
        follower.following(Broken(), store, release="a") as current,
        follower.following(Index(), store, release="b") as other,
    ):
        assert current() is None and keys_of(other()) == [NEW]
        put(store, {NEW + 1: 1.0})
        eventually(lambda: keys_of(other()) == [NEW, NEW + 1])


def test_the_first_look_does_not_hold_up_a_release_for_long(
    follower: ItemFollower, store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_FIRST_S", 0.1)
    go_on = threading.Event()

    class Slow(Index):
        def has_items(self, keys: Int64Array) -> BoolArray:
            go_on.wait(5)
            return np.asarray(keys < TRAINED)

    put(store, {NEW: 1.0})
    with follower.following(Slow(), store, release="a") as current:
        assert current() is None
        go_on.set()
        eventually(lambda: keys_of(current()) == [NEW])


def test_a_release_that_goes_while_another_has_its_turn_does_not_stop_the_thread(
    follower: ItemFollower, store: BlockingFeatureStore
) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    go_on.set()

    class Slow(Index):
        def has_items(self, keys: Int64Array) -> BoolArray:
            if not go_on.is_set():
                at_work.set()
                go_on.wait(5)
            return super().has_items(keys)

    with ExitStack() as old:
        old.enter_context(follower.following(Index(), store, release="a"))
        with follower.following(Slow(), store, release="b") as current:
            go_on.clear()
            put(store, {NEW: 1.0})
            assert at_work.wait(5)
            old.close()  # its turn is yet to come
            go_on.set()
            eventually(lambda: keys_of(current()) == [NEW])
            put(store, {NEW + 1: 1.0})
            eventually(lambda: keys_of(current()) == [NEW, NEW + 1])
