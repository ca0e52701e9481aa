"""Reads: ranges of a history, what ranking reads, rows, texts; and what is refused."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest
from contracts.feature_store_contract.shop import OTHER, SHOP, T0_MS, USER, VERSION, events_of, rows_of

from recsys.errors import InvalidInputError
from recsys.feature_store.base import FeatureStore, RankRead, StateRead
from recsys.features.entities import make_columns
from recsys.features.hashing import MISSING, string_key
from recsys.features.history.records import HistoryHeader


async def test_ranking_leaves_out_what_had_not_arrived(store: FeatureStore) -> None:
    rows = [(t, t, 1, t) for t in range(40)] + [(30 + t, 100 + t, 1, 90) for t in range(9)]
    await store.append(USER, events_of(rows), timeout_s=5)
    for time, items in ((50, [36, 37, 38, 39]), (90, [107, 38, 108, 39])):
        inputs = await store.read_for_rank(USER, np.array([1]), time_ms=T0_MS + time, timeout_s=5)
        assert sorted(inputs.events["item"].tolist()) == sorted(items)


@pytest.mark.parametrize("count", [3, 30, 300])
async def test_a_range_of_time_holds_exactly_its_events(store: FeatureStore, count: int) -> None:
    rows = [(t, t, 1, t) for t in range(count)]
    await store.append(OTHER, events_of(rows), timeout_s=5)
    stored = rows_of((await store.history(OTHER, timeout_s=5))[1])
    for since, until, limit in itertools.product((None, 0, count - 9, count), (None, 1, count - 3), (None, 2)):
        _, events = await store.history(
            OTHER,
            since_ms=None if since is None else T0_MS + since,
            until_ms=None if until is None else T0_MS + until,
            limit=limit,
            timeout_s=5,
        )
        expected = [r for r in stored if (since or 0) <= r[0] < (count if until is None else until)]
        assert rows_of(events) == (expected if limit is None else expected[-limit:])


async def test_many_histories_are_read_together(store: FeatureStore) -> None:
    rows = {user: [(t, user, 1, 0) for t in range(user)] for user in (0, 1, 40, 300)}
    await store.append_many([(user, events_of(r)) for user, r in rows.items()], timeout_s=5)
    for limit in (2, 1000):
        found = await store.histories(list(rows), limit=limit, timeout_s=5)
        for user, (header, events) in zip(rows, found, strict=True):
            assert header.appended == user
            assert rows_of(events) == rows[user][header.trimmed :][-limit:]


@pytest.mark.parametrize("count", [0, 3, 20, 300])
async def test_a_span_holds_the_events_of_these_numbers(store: FeatureStore, count: int) -> None:
    rows = [(t, t, 1, t) for t in range(count)]
    await store.append(USER, events_of(rows), timeout_s=5)
    header, stored = await store.history(USER, timeout_s=5)
    numbered = dict(zip(range(header.trimmed, header.appended), rows_of(stored), strict=True))
    bounds = {0, 1, header.trimmed, header.trimmed + header.chunk, count - 30, count - 1, count, 999}
    for first, end in itertools.combinations_with_replacement(sorted(b for b in bounds if b >= 0), 2):
        for known in (header, header._replace(appended=header.appended + 3), HistoryHeader(chunk=7)):
            span = await store.span(USER, first, end, header=known, timeout_s=5)
            assert span.header == header
            wanted = {n: row for n, row in numbered.items() if first <= n < end}
            assert dict(enumerate(rows_of(span.events), span.first)) == wanted


async def test_a_span_that_ends_before_it_begins_is_refused(store: FeatureStore) -> None:
    for first, end in ((3, 2), (-1, 2)):
        with pytest.raises(InvalidInputError, match=f"events {first} to {end}; allowed: 0 <= first <= end"):
            await store.span(USER, first, end, header=HistoryHeader(chunk=7), timeout_s=5)


async def test_concurrent_writers_lose_nothing(store: FeatureStore) -> None:
    users = range(100, 103)
    rows = [(t, t % 5, 1, 0) for t in range(20)]
    await asyncio.gather(
        *(
            store.append(user, events_of(rows[start : start + 4]), timeout_s=5)
            for start in (16, 0, 8, 4, 12, 6, 2)
            for user in users
        )
    )
    for user in users:
        assert rows_of((await store.history(user, limit=99, timeout_s=5))[1]) == rows


async def test_ranking_reads_events_and_features_together(store: FeatureStore) -> None:
    await store.append(USER, events_of([(t, t, 1, 0) for t in range(6)]), timeout_s=5)
    users = make_columns(SHOP.user, {"city": ["Oslo"], "age": [30]}, length=1)
    await store.put_entities("user", np.array([USER]), users, timeout_s=5)
    items = make_columns(SHOP.item, {"tag": [[1], [2, 3]], "price": [1.5, 2.5]}, length=2)
    await store.put_entities("item", np.array([10, 20]), items, timeout_s=5)
    for _ in range(2):  # the second time from a cache, if there is one
        inputs = await store.read_for_rank(USER, np.array([20, 99, 10, 20]), time_ms=T0_MS + 99, timeout_s=5)
        assert not inputs.user_degraded and not inputs.items_degraded
        assert inputs.events["item"].tolist() == [2, 3, 4, 5]  # History.recent is 4
        assert inputs.user_columns["city"].tolist() == users["city"].tolist()
        assert inputs.user_columns["age"].tolist() == [30.0]
        assert inputs.item_columns["price"].tolist() == [2.5, 0.0, 1.5, 2.5]
        tags = [[2, 3], [MISSING, MISSING], [1, MISSING], [2, 3]]
        assert inputs.item_columns["tag"].tolist() == tags


@pytest.mark.parametrize(
    ("time", "items"),
    [(0, []), (1, [0]), (4, [0, 1, 2, 3]), (6, [2, 3, 4, 5]), (7, [3, 4, 5, 6]), (99, [296, 297, 298, 299])],
)
async def test_ranking_sees_the_newest_events_before_its_time(store: FeatureStore, time: int, items: list[int]) -> None:
    rows = [(t if t < 7 else 10 + t // 5, t, 1, 0) for t in range(300)]
    for start in (0, 8, 100):
        await store.append(
            USER, events_of(rows[start : {0: 8, 8: 100, 100: 300}[start] if time > 7 else 8]), timeout_s=5
        )
    inputs = await store.read_for_rank(USER, np.array([1]), time_ms=T0_MS + time, timeout_s=5)
    assert inputs.events["item"].tolist() == items


@pytest.mark.parametrize("tail", [1, 3, 50])
async def test_ranking_with_a_state_reads_it_with_the_newest_events_as_stored(store: FeatureStore, tail: int) -> None:
    rows = [(t, t, 1, t + 50) for t in range(12)]
    await store.append(USER, events_of(rows), timeout_s=5)
    header, _ = await store.history(USER, timeout_s=5)
    await store.put_states([(USER, b"state"), (OTHER, b"another")], version=VERSION, ttl_s=100, timeout_s=5)
    read = StateRead(VERSION, tail)
    inputs = await store.read_for_rank(USER, np.array([1]), time_ms=T0_MS + 5, timeout_s=5, state=read)
    assert rows_of(inputs.tail) == rows[-tail:] and inputs.header == header
    assert inputs.state == b"state" and len(inputs.events) == 0 and not inputs.user_degraded
    other = await store.read_for_rank(USER, np.array([1]), time_ms=T0_MS + 5, timeout_s=5, state=StateRead("ab" * 8, 1))
    assert other.state is None
    unknown = await store.read_for_rank(99, np.array([1]), time_ms=T0_MS + 5, timeout_s=5, state=read)
    assert unknown.state is None and len(unknown.tail) == 0 and unknown.header.stored == 0
    plain = await store.read_for_rank(USER, np.array([1]), time_ms=T0_MS + 99, timeout_s=5)
    assert plain.state is None and len(plain.tail) == 0 and len(plain.events) == 4


@pytest.mark.parametrize("count", [0, 3, 12, 300])
async def test_a_user_read_before_the_items_gives_what_one_read_gives(store: FeatureStore, count: int) -> None:
    await store.append(USER, events_of([(t, t, 1, t + t % 9) for t in range(count)]), timeout_s=5)
    users = make_columns(SHOP.user, {"city": ["Paris"], "age": [30.0]}, length=1)
    await store.put_entities("user", np.array([USER]), users, timeout_s=5)
    await store.put_states([(USER, b"state")], version=VERSION, ttl_s=100, timeout_s=5)
    items, header_and_all = np.array([20, 99]), await store.history(USER, timeout_s=5)
    for state in (None, StateRead(VERSION, 2), StateRead(VERSION, 50), StateRead("ab" * 8, 2)):
        user = await store.read_user(USER, timeout_s=5, state=state)
        assert user.header == header_and_all[0] and rows_of(user.events) == rows_of(header_and_all[1])
        for time_ms in (T0_MS, T0_MS + count // 2, T0_MS + count + 99):
            one = await store.read_for_rank(USER, items, time_ms=time_ms, timeout_s=5, state=state)
            read = RankRead(USER, items, time_ms, user)
            (two,) = await store.read_many_for_rank([read], timeout_s=5, state=state)
            assert rows_of(two.events) == rows_of(one.events) and rows_of(two.tail) == rows_of(one.tail)
            assert (two.header, two.state, two.user_degraded) == (one.header, one.state, one.user_degraded)
            for name, column in one.user_columns.items():
                assert two.user_columns[name].tolist() == column.tolist()
            assert two.item_columns["price"].tolist() == one.item_columns["price"].tolist()


async def test_states_are_kept_by_user_and_bundle(store: FeatureStore) -> None:
    await store.put_states([], version=VERSION, ttl_s=100, timeout_s=5)
    await store.put_states([(USER, b"old"), (OTHER, b"b")], version=VERSION, ttl_s=100, timeout_s=5)
    await store.put_states([(USER, b"new")], version=VERSION, ttl_s=100, timeout_s=5)
    await store.put_states([(USER, b"c")], version="ab" * 8, ttl_s=100, timeout_s=5)
    assert await store.states([OTHER, 99, USER], version=VERSION, timeout_s=5) == [b"b", None, b"new"]
    with pytest.raises(InvalidInputError, match="ttl_s is 0; allowed: 1 or more"):
        await store.put_states([(USER, b"x")], version=VERSION, ttl_s=0, timeout_s=5)
    with pytest.raises(InvalidInputError, match="key is -1"):
        await store.states([-1], version=VERSION, timeout_s=5)


async def test_all_users_with_a_history_are_found(store: FeatureStore) -> None:
    users = list(range(0, 5_000, 7))
    await store.append_many([(user, events_of([(1, 1, 1, 1)])) for user in users], timeout_s=5)
    await store.put_states([(10_000, b"no history")], version=VERSION, ttl_s=100, timeout_s=5)
    found = [user async for some in store.users() for user in some]
    assert sorted(set(found)) == users


async def test_other_entities_are_stored_too(store: FeatureStore) -> None:
    await store.put_entities("shop", np.array([4]), {"rating": np.float32([4.5])}, timeout_s=5)
    assert (await store.entities("shop", np.array([4, 5]), timeout_s=5))["rating"].tolist() == [4.5, 0.0]
    with pytest.raises(InvalidInputError, match="unknown entity 'shops': did you mean 'shop'"):
        await store.entities("shops", np.array([4]), timeout_s=5)


async def test_positions_of_sources_are_remembered(store: FeatureStore) -> None:
    assert await store.positions(timeout_s=5) == {}
    await store.save_position("a.parquet", "7", timeout_s=5)
    await store.save_position("a.parquet", "8", timeout_s=5)
    assert await store.positions(timeout_s=5) == {"a.parquet": "8"}


async def test_ranking_an_unknown_user_is_not_degraded(store: FeatureStore) -> None:
    inputs = await store.read_for_rank(USER, np.array([1, 2]), time_ms=T0_MS + 99, timeout_s=5)
    assert not inputs.user_degraded and not inputs.items_degraded
    assert len(inputs.events) == 0
    assert inputs.user_columns["city"].tolist() == [MISSING]
    assert inputs.user_columns["age"].tolist() == [-1.0]
    assert inputs.item_columns["price"].tolist() == [0.0, 0.0]


async def test_ranking_no_candidates_returns_empty_columns(store: FeatureStore) -> None:
    inputs = await store.read_for_rank(USER, np.empty(0, dtype=np.int64), time_ms=T0_MS + 99, timeout_s=5)
    assert inputs.item_columns["tag"].shape == (0, 2)


async def test_features_put_again_are_replaced(store: FeatureStore) -> None:
    for price in (1.0, 2.0):
        columns = make_columns(SHOP.item, {"price": [price]}, length=1)
        await store.put_entities("item", np.array([1]), columns, timeout_s=5)
        inputs = await store.read_for_rank(USER, np.array([1]), time_ms=T0_MS + 99, timeout_s=5)
        assert inputs.item_columns["price"].tolist() == [price]


async def test_a_key_out_of_range_is_refused(store: FeatureStore) -> None:
    columns = make_columns(SHOP.item, {}, length=1)
    with pytest.raises(InvalidInputError, match=r"key is -1; allowed: 0 to 2\^62 - 1"):
        await store.put_entities("item", np.array([-1]), columns, timeout_s=5)
    with pytest.raises(InvalidInputError, match="key is 4611686018427387904; allowed"):
        await store.append(1 << 62, events_of([]), timeout_s=5)
    with pytest.raises(InvalidInputError, match="key is -1"):
        await store.history(-1, limit=1, timeout_s=5)


async def test_columns_that_do_not_fit_the_keys_are_refused(store: FeatureStore) -> None:
    columns = make_columns(SHOP.item, {}, length=2)
    with pytest.raises(InvalidInputError, match="feature 'tag': 2 values for 1 items"):
        await store.put_entities("item", np.array([1]), columns, timeout_s=5)
    with pytest.raises(InvalidInputError, match="feature 'city': no values for 1 users"):
        await store.put_entities("user", np.array([1]), {}, timeout_s=5)


async def test_events_of_another_record_are_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidInputError, match="events have dtype .* declares .*make_events"):
        await store.append(USER, np.zeros(1, dtype=[("item", "<i8")]), timeout_s=5)


async def test_a_negative_limit_is_refused(store: FeatureStore) -> None:
    with pytest.raises(InvalidInputError, match="limit is -1; allowed: 0 or more"):
        await store.history(USER, limit=-1, timeout_s=5)


async def test_a_working_store_answers_a_ping(store: FeatureStore) -> None:
    await store.ping(timeout_s=5)


async def test_items_are_read_as_they_are_stored_now(store: FeatureStore) -> None:
    wanted = np.array([20, 99, 20])
    for price in (1.0, 2.0):
        columns = make_columns(SHOP.item, {"tag": [[2, 3]], "price": [price]}, length=1)
        await store.put_entities("item", np.array([20]), columns, timeout_s=5)
        found = await store.entities("item", wanted, timeout_s=5)
        assert found["tag"].tolist() == [[2, 3], [MISSING, MISSING], [2, 3]]
        assert found["price"].tolist() == [price, 0.0, price]
    assert (await store.entities("item", wanted[:0], timeout_s=5))["tag"].shape == (0, 2)
    with pytest.raises(InvalidInputError, match=r"key is -1; allowed: 0 to 2\^62 - 1"):
        await store.entities("item", np.array([-1]), timeout_s=5)


async def test_texts_come_back_by_their_keys_and_a_key_without_one_is_left_out(store: FeatureStore) -> None:
    texts = {string_key(f"Nº {n}"): f"Nº {n}" for n in range(5_000)}
    await store.put_names({**texts, string_key("七人の侍"): "七人の侍"}, timeout_s=5)
    await store.put_names({string_key("Nº 7"): "Nº 7"}, timeout_s=5)
    await store.put_names({}, timeout_s=5)
    assert await store.names(texts, timeout_s=5) == texts
    seven, samurai = string_key("Nº 7"), string_key("七人の侍")
    asked = [samurai, seven, 99_999, seven]
    assert await store.names(asked, timeout_s=5) == {samurai: "七人の侍", seven: "Nº 7"}
    assert await store.names([], timeout_s=5) == {}
