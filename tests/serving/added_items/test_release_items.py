"""Added items of a release: those of the store that its bundle has not, with their newest attributes."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import redis
from contracts.feature_store_contract.shop import SHOP
from serving.added_items.conftest import FAILS, TRAINED, Index, keys_of, prices_of, put

from recsys.errors import StoreUnavailableError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.feature_set import Categorical
from recsys.features.hashing import string_key
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.added_items import release_items as release_items_module
from recsys.serving.added_items.release_items import ReleaseItems
from recsys.serving.telemetry.label_counts import LabelCounts

NEW = TRAINED + 50
CHANGES = "recsys:v1:shop:item_changes"


def made(store: BlockingFeatureStore, index: Index | None = None, *, most: int = 1000) -> ReleaseItems:
    items = ReleaseItems(index or Index(), store, release="a", most=most, counts=LabelCounts())
    run(items)
    return items


def run(items: ReleaseItems) -> dict[str, int]:
    """Make steps until there is no more to do; the outcomes meanwhile."""
    before = items._counts.read()
    until_s = time.monotonic() + 30
    while items.step():
        assert time.monotonic() < until_s
    return {k: n - before.get(k, 0) for k, n in items._counts.read().items() if n > before.get(k, 0)}


def test_items_of_the_bundle_are_passed_over_and_others_added(store: BlockingFeatureStore) -> None:
    index = Index()
    put(store, {1: 1.0, NEW: 2.0})
    items = made(store, index)
    assert prices_of(items.current) == {NEW: 2.0}
    put(store, {2: 1.0, NEW + 2: 3.0, NEW + 1: 4.0})
    assert run(items) == {"added": 2}
    assert prices_of(items.current) == {NEW: 2.0, NEW + 1: 4.0, NEW + 2: 3.0}
    assert {key for keys in index.runs for key in keys} == {NEW, NEW + 1, NEW + 2}


def test_nothing_to_do_is_one_read_and_no_run(store: BlockingFeatureStore) -> None:
    index = Index()
    put(store, {NEW: 2.0})
    items = made(store, index)
    runs, before = len(index.runs), items.current
    assert not items.step() and len(index.runs) == runs and items.current is before


def test_changed_attributes_make_another_row_and_the_snapshot_before_stays_as_it_was(
    store: BlockingFeatureStore,
) -> None:
    items = made(store)
    put(store, {NEW: 2.0})
    run(items)
    before = items.current
    put(store, {NEW: 5.0})
    assert run(items) == {"changed": 1}
    assert (prices_of(before), prices_of(items.current)) == ({NEW: 2.0}, {NEW: 5.0})


def test_items_without_a_row_are_counted_by_reason_and_named_once(
    store: BlockingFeatureStore, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    items = made(store)
    redis_admin.set(f"recsys:v1:{{shop:item:{(NEW + 2) % 64}}}:{NEW + 2}", b"foreign")
    packed = np.array([NEW + 2], dtype="<i8").tobytes()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            put(store, {NEW: 0.0, NEW + 1: -1.0, NEW + 3: 1.0 + _})
            redis_admin.xadd(CHANGES, {"items": packed})
            assert run(items) == {"no_attributes": 1, "not_finite": 1, "damaged": 1, ("changed" if _ else "added"): 1}
    assert keys_of(items.current) == [NEW + 3]
    assert caplog.text.count("take no part in searches") == 3
    assert f"the store has no attributes of it, or none that the model knows: {name_of(NEW)}" in caplog.text


def test_each_item_without_a_row_is_named_though_the_log_has_a_line_in_ten_seconds(
    store: BlockingFeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    items, now_s = made(store), 0.0
    items._trouble = RateLimitedLog(logging.getLogger("recsys.serving"), clock=lambda: now_s)
    for n in range(24):
        put(store, {NEW + n: 0.0})
        run(items)
    assert [line.count("recsys:v1:") for line in caplog.messages] == [1]
    now_s = 10.0
    items.step()
    assert [line.count("recsys:v1:") for line in caplog.messages] == [1, 20]
    assert caplog.messages[1].endswith(f"{name_of(NEW + 20)}, and 3 more")
    put(store, dict.fromkeys([NEW + n for n in range(24)], 0.0))
    now_s = 20.0
    run(items)
    assert [line.count("recsys:v1:") for line in caplog.messages] == [1, 20, 3]
    assert sorted(re.findall(r"}:(\d+)", caplog.text)) == [str(NEW + n) for n in range(24)]


def test_a_row_of_huge_numbers_takes_no_part(store: BlockingFeatureStore) -> None:
    put(store, {NEW: 1e30, NEW + 1: -3e37, NEW + 2: 1e9})
    items = ReleaseItems(Index(), store, release="a", most=10, counts=LabelCounts())
    assert run(items) == {"added": 1, "not_finite": 2}
    assert keys_of(items.current) == [NEW + 2]


def test_an_item_whose_log_entry_was_lost_is_found_by_a_later_look(
    store: BlockingFeatureStore, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis lost its newest entry with the server; the row of it was kept."""
    put(store, {NEW: 1.0})
    items = made(store)

    def lose(key: int) -> None:
        put(store, {key: 1.0})
        redis_admin.xdel(CHANGES, redis_admin.xrevrange(CHANGES, count=1)[0][0])

    lose(NEW + 1)
    assert run(items) == {}
    monkeypatch.setattr(release_items_module, "_AGAIN_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(store, "changed_items", away)
        with pytest.raises(StoreUnavailableError):
            items.step()
    assert run(items) == {"added": 1}  # the other is as it was
    lose(NEW + 2)
    assert run(items) == {}
    items._look_at_s -= release_items_module._ANYWAY_S
    assert run(items) == {"added": 1}
    assert keys_of(items.current) == [NEW, NEW + 1, NEW + 2]


def test_items_there_was_no_room_for_come_in_when_others_go(
    store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_items_module, "_AGAIN_S", 0.0)
    put(store, {NEW + n: 1.0 for n in range(5)})
    items = made(store, most=3)
    put(store, {NEW: 0.0})
    run(items)
    run(items)  # the log says nothing of them
    assert keys_of(items.current) == [NEW + 1, NEW + 2, NEW + 3]


def test_an_item_whose_text_comes_after_it_is_found_by_a_later_look(
    redis_url: str, store: BlockingFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_items_module, "_AGAIN_S", 0.05)
    features = replace(SHOP, item_id=Categorical(name="item_id", id_type="string"))
    items, key = made(store, Index(features)), string_key("new lamp")
    put(store, {key: 1.0})
    assert run(items) == {"no_name": 1}
    put_names(redis_url, {key: "new lamp"})
    time.sleep(0.05)
    assert run(items) == {"added": 1}


def away(*args: object, **options: object) -> None:
    raise StoreUnavailableError("away")


def name_of(key: int) -> str:
    return f"recsys:v1:{{shop:item:{key % 64}}}:{key}"


def test_an_item_that_loses_its_attributes_is_added_no_more(store: BlockingFeatureStore) -> None:
    items = made(store)
    put(store, {NEW: 1.0, NEW + 1: 1.0})
    run(items)
    put(store, {NEW: 0.0})
    assert run(items) == {"no_attributes": 1}
    assert keys_of(items.current) == [NEW + 1]


def test_a_model_that_fails_leaves_the_other_items_as_they_were(
    store: BlockingFeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    items = made(store)
    put(store, {NEW: 1.0})
    run(items)
    put(store, {NEW + 1: FAILS})
    assert run(items) == {"failed": 1} and "table damaged" in caplog.text
    put(store, {NEW + 1: 2.0})
    assert run(items) == {"added": 1}
    assert keys_of(items.current) == [NEW, NEW + 1]


def test_the_newest_items_stay_when_there_is_no_room_for_all(store: BlockingFeatureStore) -> None:
    put(store, {NEW + n: 1.0 for n in range(4)})
    items = made(store, most=3)
    assert keys_of(items.current) == [NEW, NEW + 1, NEW + 2]  # of one moment those of the smallest keys
    time.sleep(0.002)
    put(store, {NEW + 9: 1.0})
    assert run(items) == {"added": 1, "no_room": 1}
    assert keys_of(items.current) == [NEW, NEW + 1, NEW + 9]
    time.sleep(0.002)
    put(store, {NEW: 2.0})
    time.sleep(0.002)
    put(store, {NEW + 8: 1.0})
    run(items)
    assert keys_of(items.current) == [NEW, NEW + 8, NEW + 9]


@pytest.mark.parametrize("log_lost", [False, True])
def test_after_a_bulk_load_beyond_the_room_what_is_written_next_has_a_place_and_after_a_restart_too(
    store: BlockingFeatureStore, redis_admin: redis.Redis, log_lost: bool
) -> None:
    items, bulk = made(store, most=10), {NEW + n: 1.0 for n in range(80)}
    for _ in range(2):  # a full `recsys materialize`, day by day
        put(store, bulk)
        run(items)
        assert keys_of(items.current) == list(bulk)[:10]
    time.sleep(0.002)
    if log_lost:
        redis_admin.delete(CHANGES)
        items = made(store, most=10)
    newest = [NEW + 9_000 + n for n in range(3)]
    put(store, dict.fromkeys(newest, 2.0))
    assert run(items) == {"added": 3, "no_room": 3}
    expected = list(bulk)[:7] + newest
    assert keys_of(items.current) == expected
    assert keys_of(made(store, most=10).current) == expected


def test_of_a_table_of_many_new_items_no_more_rows_are_made_than_stay(store: BlockingFeatureStore) -> None:
    index = Index()
    items = made(store, index, most=10)
    put(store, {NEW + n: 1.0 for n in range(3000)})
    assert run(items)["no_room"] == 2990
    assert len(keys_of(items.current)) == 10
    assert sum(map(len, index.runs)) <= 1000


def test_every_start_finds_the_same_items_whatever_the_log_still_holds(
    store: BlockingFeatureStore, redis_admin: redis.Redis
) -> None:
    put(store, {key: float(key) for key in range(50, 1500)})
    kept = prices_of(made(store, most=10_000).current)
    assert kept == {key: float(key) for key in range(TRAINED, 1500)}
    redis_admin.xtrim(CHANGES, maxlen=1, approximate=False)
    assert prices_of(made(store, most=10_000).current) == kept
    redis_admin.delete(CHANGES)
    assert prices_of(made(store, most=10_000).current) == kept


def test_a_gap_in_the_log_is_made_good_by_a_look_at_all_items(
    store: BlockingFeatureStore, redis_admin: redis.Redis
) -> None:
    put(store, {NEW: 1.0, NEW + 1: 1.0})
    items = made(store)
    put(store, {NEW: 2.0, NEW + 2: 3.0})
    redis_admin.delete(f"recsys:v1:{{shop:item:{(NEW + 1) % 64}}}:{NEW + 1}")
    redis_admin.delete(CHANGES)
    assert run(items) == {"removed": 1, "changed": 1, "added": 1}
    assert prices_of(items.current) == {NEW: 2.0, NEW + 2: 3.0}


def test_an_item_that_a_look_at_all_leaves_out_stays_as_long_as_its_row_is_there(
    store: BlockingFeatureStore, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may leave out some while the slots of a cluster move."""
    put(store, {NEW: 1.0, NEW + 1: 1.0})
    items = made(store)
    redis_admin.delete(CHANGES)
    monkeypatch.setattr(store, "item_keys", lambda: iter([[NEW + 1]]))
    run(items)
    assert keys_of(items.current) == [NEW, NEW + 1]


def test_an_emptied_store_has_no_added_items(store: BlockingFeatureStore, redis_admin: redis.Redis) -> None:
    put(store, {NEW: 1.0})
    items = made(store)
    redis_admin.flushall()
    assert run(items) == {"removed": 1}
    assert items.current is None


def test_a_store_that_is_away_changes_nothing_and_nothing_is_missed(store: BlockingFeatureStore) -> None:
    items = made(store)
    put(store, {NEW: 1.0})
    run(items)
    put(store, {NEW + 1: 2.0})
    link = store._store._link  # type: ignore[attr-defined]

    async def away(*args: object, **options: object) -> None:
        raise StoreUnavailableError("away")

    answers, link.round_trip = link.round_trip, away
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            items.step()
    assert keys_of(items.current) == [NEW]
    link.round_trip = answers
    assert run(items) == {"added": 1} and keys_of(items.current) == [NEW, NEW + 1]


def test_items_named_by_strings_need_a_name(redis_url: str, store: BlockingFeatureStore) -> None:
    features = replace(SHOP, item_id=Categorical(name="item_id", id_type="string"))
    index = Index(features)
    items = made(store, index)
    keys = [string_key(text) for text in ("new lamp", "nameless")]
    put(store, dict.fromkeys(keys, 1.0))
    assert run(items) == {"no_name": 2}
    put_names(redis_url, {keys[0]: "new lamp"})
    put(store, {keys[0]: 1.0})
    assert run(items) == {"added": 1}
    assert items.current is not None and items.current.names == ["new lamp"]


def put_names(url: str, names: dict[int, str]) -> None:
    import asyncio

    from recsys.feature_store.redis.store import RedisFeatureStore

    async def write() -> None:
        writer = RedisFeatureStore.connect(url, SHOP)
        await writer.put_names(names, timeout_s=5)
        await writer.close()

    asyncio.run(write())
