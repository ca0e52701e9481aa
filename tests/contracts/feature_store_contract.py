"""The contract of every FeatureStore: import all of this into a module that has a ``store`` fixture.

The store must be empty and made for ``SHOP``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.feature_store.base import AppendResult, FeatureStore, RankRead, StateRead
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, Entity, FeatureSet, History, Numeric
from recsys.features.hashing import MISSING, string_key
from recsys.features.history.records import Events, HistoryHeader, event_dtype, make_events

MAX_EVENTS = 6
SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"), Numeric(name="age", default=-1.0)),
    item=(Categorical(name="tag", max_values=2), Numeric(name="price", default=0.0)),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), max_events=MAX_EVENTS, recent=4),
    entities=(Entity(name="shop", id=Categorical(name="shop_id"), features=(Numeric(name="rating", default=0.0),)),),
)
USER, OTHER = 7, 8
T0_MS = 1_700_000_000_000
VERSION = "0123456789abcdef"
"""Of a bundle."""

Row = tuple[int, int, int, int]
"""(timestamp, item, rating, arrival), the timestamp relative to T0_MS."""
_user_keys = itertools.count(1 << 40)


def events_of(rows: Sequence[Row]) -> Events:
    timestamp, item, rating, arrival = (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 4
    times = np.array(timestamp, dtype=np.int64) + T0_MS
    arrivals = np.array(arrival, dtype=np.int64) + T0_MS
    return make_events(SHOP, item=item, timestamp_ms=times, arrival_ms=arrivals, attributes={"rating": rating})


def rows_of(events: Events) -> list[Row]:
    return [(int(e["timestamp"]) - T0_MS, int(e["item"]), int(e["rating"]), int(e["arrival"]) - T0_MS) for e in events]


def history_of(sent: Iterable[Row]) -> list[Row]:
    """A history of these events by definition: each event once, as it arrived first, in order."""
    first: dict[tuple[int, int, int], int] = {}
    for timestamp, item, rating, arrival in sent:
        event = (timestamp, item, rating)
        first[event] = min(arrival, first.get(event, arrival))
    rows = [(*event, arrival) for event, arrival in first.items()]
    return sorted(rows, key=lambda r: (r[0], r[3], r[1].to_bytes(8, "little"), r[2]))


async def test_an_unknown_user_has_an_empty_history(store: FeatureStore) -> None:
    header, events = await store.history(USER, limit=10, timeout_s=5)
    assert (header.appended, header.trimmed, header.newest_ms) == (0, 0, -1)
    assert events.dtype == event_dtype(SHOP) and len(events) == 0


async def test_appended_events_come_back_oldest_first(store: FeatureStore) -> None:
    result = await store.append(USER, events_of([(5, 1, 3, 5), (2, 2, 4, 6)]), timeout_s=5)
    assert (result.added, result.stored) == (2, 2)
    header, events = await store.history(USER, limit=10, timeout_s=5)
    assert rows_of(events) == [(2, 2, 4, 6), (5, 1, 3, 5)]
    assert (header.appended, header.trimmed, header.newest_ms) == (2, 0, T0_MS + 5)


async def test_no_batches_are_no_error(store: FeatureStore) -> None:
    assert await store.append_many([], timeout_s=5) == []


async def test_an_empty_batch_changes_nothing(store: FeatureStore) -> None:
    assert (await store.append(USER, events_of([]), timeout_s=5)).stored == 0
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    result = await store.append(USER, events_of([]), timeout_s=5)
    assert (result.added, result.stored) == (0, 1)


@pytest.mark.parametrize("limit", range(6))
async def test_a_limit_returns_the_newest_events(store: FeatureStore, limit: int) -> None:
    rows = [(t, t, 1, t) for t in range(4)]
    await store.append(USER, events_of(rows), timeout_s=5)
    header, events = await store.history(USER, limit=limit, timeout_s=5)
    assert rows_of(events) == rows[max(0, 4 - limit) :]
    assert header.appended == 4


async def test_an_event_sent_again_with_a_new_arrival_is_not_added(store: FeatureStore) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1), (2, 2, 2, 2)]), timeout_s=5)
    result = await store.append(USER, events_of([(1, 1, 1, 99), (2, 2, 2, 98)]), timeout_s=5)
    assert (result.added, result.stored) == (0, 2)
    _, events = await store.history(USER, limit=10, timeout_s=5)
    assert rows_of(events) == [(1, 1, 1, 1), (2, 2, 2, 2)]


async def test_an_event_that_differs_in_one_attribute_is_added(store: FeatureStore) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    assert (await store.append(USER, events_of([(1, 1, 2, 1)]), timeout_s=5)).added == 1


async def test_item_keys_equal_as_doubles_are_told_apart(store: FeatureStore) -> None:
    key = (1 << 62) - 1
    assert float(key) == float(key - 1)
    result = await store.append(USER, events_of([(1, key, 1, 1), (1, key - 1, 1, 1)]), timeout_s=5)
    assert result.added == 2
    _, events = await store.history(USER, limit=10, timeout_s=5)
    assert sorted(events["item"].tolist()) == [key - 1, key]


async def test_equal_timestamps_are_in_order_of_arrival_however_they_are_sent(store: FeatureStore) -> None:
    sent = [(10, 3, 1, 13), (11, 9, 1, 11), (10, 1, 1, 11), (10, 2, 1, 12), (9, 7, 1, 20)]
    for row in sent:
        await store.append(USER, events_of([row]), timeout_s=5)
    _, events = await store.history(USER, timeout_s=5)
    assert events["item"].tolist() == [7, 1, 2, 3, 9]


async def test_of_two_deliveries_the_earlier_arrival_counts(store: FeatureStore) -> None:
    await store.append(USER, events_of([(1, 1, 1, 9), (1, 2, 1, 5)]), timeout_s=5)
    result = await store.append(USER, events_of([(1, 1, 1, 3)]), timeout_s=5)
    assert (result.added, result.stored) == (0, 2)
    assert rows_of((await store.history(USER, timeout_s=5))[1]) == [(1, 1, 1, 3), (1, 2, 1, 5)]


async def test_users_do_not_share_a_history(store: FeatureStore) -> None:
    batches = [(u, events_of([(u, u, 1, 1)] * 2 + [(u + 1, u, 1, 1)])) for u in range(5)]
    results = await store.append_many(batches, timeout_s=5)
    assert [(r.added, r.stored) for r in results] == [(2, 2)] * 5
    _, events = await store.history(3, limit=10, timeout_s=5)
    assert rows_of(events) == [(3, 3, 1, 1), (4, 3, 1, 1)]


async def test_a_long_history_keeps_the_newest_events_and_counts_the_others(store: FeatureStore) -> None:
    rows = [(t, 1, 1, 0) for t in range(500)]
    for start in range(0, 500, 7):
        await store.append(USER, events_of(rows[start : start + 7]), timeout_s=5)
    header, events = await store.history(USER, timeout_s=5)
    assert header.appended == 500 and header.stored == len(events)
    assert MAX_EVENTS <= len(events) <= MAX_EVENTS + 3 * header.chunk
    assert rows_of(events) == rows[header.trimmed :]
    assert header.trimmed_until_ms == T0_MS + header.trimmed - 1 and header.newest_ms == T0_MS + 499


async def test_what_was_trimmed_is_not_added_again(store: FeatureStore) -> None:
    rows = [(t // 3, t, 1, 0) for t in range(200)]  # three events per timestamp
    first = await store.append(USER, events_of(rows), timeout_s=5)
    again = await store.append(USER, events_of(rows), timeout_s=5)
    assert first.added == 200 and MAX_EVENTS <= first.stored < 200
    assert (again.added, again.stored) == (0, first.stored)


async def test_a_late_event_that_is_newer_than_all_that_was_trimmed_is_added(store: FeatureStore) -> None:
    await store.append(USER, events_of([(2 * t, 1, 1, 0) for t in range(200)]), timeout_s=5)
    header, events = await store.history(USER, timeout_s=5)
    between = header.trimmed_until_ms - T0_MS + 1
    result = await store.append(USER, events_of([(between, 9, 1, 0), (between - 2, 9, 1, 0)]), timeout_s=5)
    assert result.added == 1 and header.trimmed > 0
    assert rows_of((await store.history(USER, timeout_s=5))[1]) == [(between, 9, 1, 0), *rows_of(events)]


async def test_a_history_of_one_timestamp_is_bounded(store: FeatureStore) -> None:
    for item in range(400):
        result = await store.append(USER, events_of([(5, item, 1, 0)]), timeout_s=5)
    header, _ = await store.history(USER, limit=0, timeout_s=5)
    assert result.stored <= 2 * MAX_EVENTS + 8 * header.chunk


def _run(start: int, length: int, per_time: int, arrival: int) -> list[Row]:
    """Many events from few numbers: enough of them to be trimmed, often repeated, often tied."""
    return [(start + i // per_time, i % 30, 1, arrival) for i in range(length)]


_single = st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(1, 2), st.integers(0, 3))
_runs = st.builds(
    _run, st.integers(0, 60), st.integers(1, 90), st.sampled_from([1, 2, 7, 20]), st.sampled_from([0, 3, 200])
)
_batch = st.lists(_single, max_size=12) | st.lists(_runs, max_size=2).map(lambda runs: sum(runs, []))


@given(batches=st.lists(_batch, min_size=1, max_size=7))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_history_is_a_function_of_the_set_of_events_sent(store: FeatureStore, batches: list[list[Row]]) -> None:
    user, sent, appended = next(_user_keys), list[Row](), 0
    for batch in batches:
        result = await store.append(user, events_of(batch), timeout_s=5)
        sent += batch
        appended += result.added
        header, events = await store.history(user, timeout_s=5)
        assert (header.appended, header.stored) == (appended, result.stored) and len(events) == result.stored
        defined = history_of(sent)
        assert rows_of(events)[-MAX_EVENTS:] == defined[-MAX_EVENTS:]
        trimmed_until = header.trimmed_until_ms - T0_MS
        assert [r for r in rows_of(events) if r[0] > trimmed_until] == [r for r in defined if r[0] > trimmed_until]


async def test_what_a_source_sent_before_is_not_applied_again_even_if_it_changed(store: FeatureStore) -> None:
    async def send(rows: list[Row], offsets: list[int], source: str = "clicks/0") -> int:
        given = [np.array(offsets)]
        (result,) = await store.append_many([(USER, events_of(rows))], source=source, offsets=given, timeout_s=5)
        return result.added

    assert await send([(1, 1, 1, 1), (2, 2, 2, 2)], [10, 11]) == 2
    assert await send([(1, 1, 5, 1), (2, 2, 5, 2)], [10, 11]) == 0  # another rating by now
    assert await send([(2, 2, 5, 2), (3, 3, 3, 3)], [11, 12]) == 1
    assert await send([(4, 4, 4, 4)], [12], source="clicks/1") == 1
    expected = [(1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3), (4, 4, 4, 4)]
    assert rows_of((await store.history(USER, timeout_s=5))[1]) == expected


async def test_what_is_skipped_for_its_offset_is_counted_and_a_restart_applies_it(store: FeatureStore) -> None:
    async def send(rows: list[Row], offsets: list[int], **more: bool) -> tuple[int, int]:
        given = [np.array(offsets)]
        batch = [(USER, events_of(rows))]
        (result,) = await store.append_many(batch, source="s", offsets=given, timeout_s=5, **more)
        return result.added, result.skipped

    assert await send([(1, 1, 1, 1)], [10]) == (1, 0)
    assert await send([(2, 2, 1, 2), (3, 3, 1, 3), (4, 4, 1, 4)], [5, 10, 11]) == (1, 2)
    assert await send([(2, 2, 1, 2)], [5], restart_source=True) == (1, 0)
    assert await send([(3, 3, 1, 3)], [6]) == (1, 0), "the source goes on from the restart"


async def test_an_offset_beyond_the_jump_allowed_is_refused_and_nothing_is_changed(store: FeatureStore) -> None:
    async def send(item: int, offset: int, jump: int | None) -> AppendResult:
        given = [np.array([offset])]
        batch = [(USER, events_of([(item, item, 1, item)]))]
        (result,) = await store.append_many(batch, source="s", offsets=given, offset_jump=jump, timeout_s=5)
        return result

    refused = await send(1, 101, 100)
    assert isinstance(refused.refused, InvalidInputError) and refused.added == 0
    assert "offsets: 101 is more than 100 beyond 0, as none of this source was applied yet" in str(refused.refused)
    assert (await send(1, 100, 100)).added == 1
    assert "beyond 100, the last one applied" in str((await send(2, 201, 100)).refused)
    assert (await send(2, 101, 100)).added == 1
    assert (await send(3, (1 << 63) - 1, None)).added == 1, "who sets no bound has none"


async def test_rows_and_histories_one_by_one_are_those_of_all_together(store: FeatureStore) -> None:
    items = np.array([3, 1, 2, 1])
    await store.put_entities("item", items[1:3], make_columns(SHOP.item, {"price": [1, 2]}, length=2), timeout_s=5)
    found = await store.entity_rows("item", items, timeout_s=5)
    together = await store.entities("item", items, timeout_s=5)
    assert not found.damaged and found.columns["price"].tolist() == together["price"].tolist() == [0.0, 1.0, 2.0, 1.0]
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    for limit in (0, 1, 100):
        each = await store.each_history([OTHER, USER], limit=limit, timeout_s=5)
        every = await store.histories([OTHER, USER], limit=limit, timeout_s=5)
        for one, other in zip(each, every, strict=True):
            assert not isinstance(one, Exception)
            assert one[0] == other[0] and rows_of(one[1]) == rows_of(other[1])


async def test_offsets_of_another_count_or_without_a_source_are_refused(store: FeatureStore) -> None:
    batch = [(USER, events_of([(1, 1, 1, 1)]))]
    with pytest.raises(InvalidInputError, match="2 offsets for 1 events"):
        await store.append_many(batch, source="s", offsets=[np.array([1, 2])], timeout_s=5)
    with pytest.raises(InvalidInputError, match="0 arrays of offsets for 1 batches"):
        await store.append_many(batch, source="s", offsets=[], timeout_s=5)
    with pytest.raises(InvalidInputError, match="source and offsets are given together"):
        await store.append_many(batch, offsets=[np.array([1])], timeout_s=5)


async def test_a_replaced_history_keeps_what_arrived_meanwhile(store: FeatureStore) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 30)]), timeout_s=5)
    cutoff = T0_MS + 10
    batch = [(USER, events_of([(t, 5, 5, t) for t in range(2, 5)]))]
    (result,) = await store.replace_many(batch, arrived_until_ms=cutoff, timeout_s=5)
    assert (result.added, result.stored) == (1, 4)
    header, events = await store.history(USER, timeout_s=5)
    assert rows_of(events) == [(2, 5, 5, 2), (3, 5, 5, 3), (3, 3, 3, 30), (4, 5, 5, 4)]
    # Event numbers are not given twice.
    assert (header.trimmed, header.appended) == (3, 7)
    again = await store.append(USER, events_of([(2, 5, 5, 99)]), timeout_s=5)
    assert again.added == 0


async def test_a_history_replaced_by_more_than_it_keeps_is_cut_as_if_appended(store: FeatureStore) -> None:
    rows = [(t, t, 1, 0) for t in range(300)]
    await store.replace_many([(USER, events_of(rows))], arrived_until_ms=0, timeout_s=5)
    header, events = await store.history(USER, timeout_s=5)
    assert rows_of(events) == rows[-MAX_EVENTS:] and header.trimmed_until_ms == T0_MS + 293
    assert (await store.append(USER, events_of(rows), timeout_s=5)).added == 0


async def test_a_history_replaced_by_nothing_is_gone(store: FeatureStore) -> None:
    await store.append(USER, events_of([(t, 1, 1, 1) for t in range(100)]), timeout_s=5)
    await store.replace_many([(USER, events_of([]))], arrived_until_ms=T0_MS + 5, timeout_s=5)
    header, events = await store.history(USER, timeout_s=5)
    assert (header.appended, header.trimmed, len(events)) == (100, 100, 0)
    assert (await store.append(USER, events_of([(7, 1, 1, 1)]), timeout_s=5)).stored == 1
    assert (await store.history(USER, timeout_s=5))[0].appended == 101
    await store.replace_many([(OTHER, events_of([]))], arrived_until_ms=T0_MS, timeout_s=5)
    assert (await store.history(OTHER, timeout_s=5))[0].appended == 0


async def test_a_replaced_history_has_no_gap_before_what_stays(store: FeatureStore) -> None:
    await store.append(USER, events_of([(1, 1, 1, 500), (290, 1, 1, 500)]), timeout_s=5)
    batch = [(USER, events_of([(t, t, 1, t) for t in range(300)]))]
    (result,) = await store.replace_many(batch, arrived_until_ms=T0_MS + 400, timeout_s=5)
    assert result.added == 0
    rows = rows_of((await store.history(USER, timeout_s=5))[1])
    assert [r[0] for r in rows] == list(range(294, 300))


async def test_a_replaced_history_is_cut_between_two_timestamps(store: FeatureStore) -> None:
    batch = [(USER, events_of([(t // 4, t, 1, 0) for t in range(40)]))]
    await store.replace_many(batch, arrived_until_ms=0, timeout_s=5)
    header, events = await store.history(USER, timeout_s=5)
    assert len(events) == 8 and header.trimmed_until_ms == T0_MS + 7


async def test_more_events_than_one_call_takes_are_one_append(store: FeatureStore) -> None:
    rows = [(t % 6_000, t, 1, 0) for t in range(12_000)]
    numbers = [np.arange(12_000)]
    (result,) = await store.append_many([(USER, events_of(rows))], source="s", offsets=numbers, timeout_s=30)
    assert result.refused is None and result.stored >= MAX_EVENTS
    assert rows_of((await store.history(USER, timeout_s=5))[1])[-MAX_EVENTS:] == history_of(rows)[-MAX_EVENTS:]
    (again,) = await store.append_many([(USER, events_of(rows))], source="s", offsets=numbers, timeout_s=30)
    assert (again.added, again.stored) == (0, result.stored)


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
