"""Histories: appended, trimmed, sent again, replaced."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.feature_store_contract.shop import (
    MAX_EVENTS,
    OTHER,
    SHOP,
    T0_MS,
    USER,
    Row,
    events_of,
    history_of,
    rows_of,
    user_keys,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.feature_store.base import AppendResult, FeatureStore
from recsys.features.entities import make_columns
from recsys.features.history.records import event_dtype


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
    user, sent, appended = next(user_keys), list[Row](), 0
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
