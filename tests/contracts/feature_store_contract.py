"""What every FeatureStore must do: import all of this into a module that has a ``store`` fixture.

The store must be empty and made for ``SHOP``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.feature_store.base import FeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import MISSING
from recsys.features.history import Events, HistoryHeader, event_dtype, make_events

MAX_EVENTS = 6
SLACK = 64  # max(64, MAX_EVENTS / 4)
SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"), Numeric(name="age", default=-1.0)),
    item=(Categorical(name="tag", max_values=2), Numeric(name="price")),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), max_events=MAX_EVENTS, recent=4),
)
USER = 7
T0_MS = 1_700_000_000_000

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


class Reference:
    """Histories as docs/specs/redis_format.md describes them, as plain Python lists."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.appended = self.trimmed = 0

    def append(self, batch: Sequence[Row]) -> int:
        oldest = self.rows[0][0] if self.trimmed else -1
        before = len(self.rows)
        for row in sorted(batch, key=lambda r: r[0]):
            known = {r[:3] for r in self.rows}
            if row[0] >= oldest and row[:3] not in known:
                # Python's sort is stable: the new row comes after stored ones of its timestamp.
                self.rows = sorted([*self.rows, row], key=lambda r: r[0])
        added = len(self.rows) - before
        self.appended += added
        limit = MAX_EVENTS + SLACK
        if added and len(self.rows) > limit:
            newest = len(self.rows) - MAX_EVENTS
            cuts = [c for c in range(1, newest + 1) if self.rows[c - 1][0] != self.rows[c][0]]
            cut = max(cuts, default=newest if len(self.rows) > 2 * limit else 0)
            self.rows, self.trimmed = self.rows[cut:], self.trimmed + cut
        return added


async def test_an_unknown_user_has_an_empty_history(store: FeatureStore) -> None:
    header, events = await store.history(USER, limit=10, timeout_s=5)
    assert header == HistoryHeader(appended=0, trimmed=0)
    assert events.dtype == event_dtype(SHOP) and len(events) == 0


async def test_appended_events_come_back_oldest_first(store: FeatureStore) -> None:
    result = await store.append(USER, events_of([(5, 1, 3, 5), (2, 2, 4, 6)]), timeout_s=5)
    assert (result.added, result.stored) == (2, 2)
    header, events = await store.history(USER, limit=10, timeout_s=5)
    assert rows_of(events) == [(2, 2, 4, 6), (5, 1, 3, 5)]
    assert header == HistoryHeader(appended=2, trimmed=0)


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
    assert events["item"].tolist() == [key, key - 1]


async def test_equal_timestamps_keep_the_order_they_came_in(store: FeatureStore) -> None:
    for item in (3, 1, 2):
        await store.append(USER, events_of([(10, item, 1, 0)]), timeout_s=5)
    await store.append(USER, events_of([(11, 9, 1, 0)]), timeout_s=5)
    await store.append(USER, events_of([(10, 8, 1, 0), (10, 5, 1, 0)]), timeout_s=5)
    _, events = await store.history(USER, limit=10, timeout_s=5)
    assert events["item"].tolist() == [3, 1, 2, 8, 5, 9]


async def test_users_do_not_share_a_history(store: FeatureStore) -> None:
    batches = [(u, events_of([(u, u, 1, 1)] * 2 + [(u + 1, u, 1, 1)])) for u in range(5)]
    results = await store.append_many(batches, timeout_s=5)
    assert [(r.added, r.stored) for r in results] == [(2, 2)] * 5
    _, events = await store.history(3, limit=10, timeout_s=5)
    assert rows_of(events) == [(3, 3, 1, 1), (4, 3, 1, 1)]


async def test_a_long_history_keeps_the_newest_events_and_counts_the_others(store: FeatureStore) -> None:
    count = MAX_EVENTS + SLACK + 1
    rows = [(t, 1, 1, 0) for t in range(count)]
    await store.append(USER, events_of(rows[:-1]), timeout_s=5)
    assert (await store.history(USER, limit=999, timeout_s=5))[0].trimmed == 0
    result = await store.append(USER, events_of(rows[-1:]), timeout_s=5)
    assert (result.added, result.stored) == (1, MAX_EVENTS)
    header, events = await store.history(USER, limit=999, timeout_s=5)
    assert rows_of(events) == rows[-MAX_EVENTS:]
    assert header == HistoryHeader(appended=count, trimmed=count - MAX_EVENTS)


async def test_what_was_trimmed_is_not_added_again(store: FeatureStore) -> None:
    rows = [(t // 3, t, 1, 0) for t in range(200)]  # three events per timestamp
    first = await store.append(USER, events_of(rows), timeout_s=5)
    again = await store.append(USER, events_of(rows), timeout_s=5)
    assert first.added == 200 and MAX_EVENTS <= first.stored <= MAX_EVENTS + SLACK
    assert (again.added, again.stored) == (0, first.stored)


async def test_a_history_of_one_timestamp_is_bounded(store: FeatureStore) -> None:
    for item in range(400):
        result = await store.append(USER, events_of([(5, item, 1, 0)]), timeout_s=5)
        assert result.stored <= 2 * (MAX_EVENTS + SLACK)
    _, events = await store.history(USER, limit=MAX_EVENTS, timeout_s=5)
    assert events["item"].tolist() == list(range(400 - MAX_EVENTS, 400))


def _run(start: int, length: int, per_time: int, first_item: int) -> list[Row]:
    """Many events from few numbers: enough of them to be trimmed, often repeated, often tied."""
    return [(start + i // per_time, first_item + i, 1, 0) for i in range(length)]


_single = st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(1, 2), st.integers(0, 3))
_runs = st.builds(
    _run, st.integers(0, 40), st.integers(1, 90), st.sampled_from([1, 2, 7, 90]), st.sampled_from([0, 3, 200])
)
_batch = st.lists(_single, max_size=12) | st.lists(_runs, max_size=2).map(lambda runs: sum(runs, []))


@given(batches=st.lists(_batch, min_size=1, max_size=7))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_appends_equal_the_reference(store: FeatureStore, batches: list[list[Row]]) -> None:
    user, reference = next(_user_keys), Reference()
    for batch in batches:
        result = await store.append(user, events_of(batch), timeout_s=5)
        assert (result.added, result.stored) == (reference.append(batch), len(reference.rows))
        header, events = await store.history(user, limit=10_000, timeout_s=5)
        assert rows_of(events) == reference.rows
        assert header == HistoryHeader(appended=reference.appended, trimmed=reference.trimmed)


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
    await store.put_users(np.array([USER]), users, timeout_s=5)
    items = make_columns(SHOP.item, {"tag": [[1], [2, 3]], "price": [1.5, 2.5]}, length=2)
    await store.put_items(np.array([10, 20]), items, timeout_s=5)
    for _ in range(2):  # the second time from a cache, if there is one
        inputs = await store.read_for_rank(USER, np.array([20, 99, 10, 20]), timeout_s=5)
        assert not inputs.user_degraded and not inputs.items_degraded
        assert inputs.events["item"].tolist() == [2, 3, 4, 5]  # History.recent is 4
        assert inputs.user_columns["city"].tolist() == users["city"].tolist()
        assert inputs.user_columns["age"].tolist() == [30.0]
        assert inputs.item_columns["price"].tolist() == [2.5, 0.0, 1.5, 2.5]
        tags = [[2, 3], [MISSING, MISSING], [1, MISSING], [2, 3]]
        assert inputs.item_columns["tag"].tolist() == tags


async def test_ranking_an_unknown_user_is_not_degraded(store: FeatureStore) -> None:
    inputs = await store.read_for_rank(USER, np.array([1, 2]), timeout_s=5)
    assert not inputs.user_degraded and not inputs.items_degraded
    assert len(inputs.events) == 0
    assert inputs.user_columns["city"].tolist() == [MISSING]
    assert inputs.user_columns["age"].tolist() == [-1.0]
    assert inputs.item_columns["price"].tolist() == [0.0, 0.0]


async def test_ranking_no_candidates_returns_empty_columns(store: FeatureStore) -> None:
    inputs = await store.read_for_rank(USER, np.empty(0, dtype=np.int64), timeout_s=5)
    assert inputs.item_columns["tag"].shape == (0, 2)


async def test_features_put_again_are_replaced(store: FeatureStore) -> None:
    for price in (1.0, 2.0):
        columns = make_columns(SHOP.item, {"price": [price]}, length=1)
        await store.put_items(np.array([1]), columns, timeout_s=5)
        inputs = await store.read_for_rank(USER, np.array([1]), timeout_s=5)
        assert inputs.item_columns["price"].tolist() == [price]


async def test_a_key_out_of_range_is_refused(store: FeatureStore) -> None:
    columns = make_columns(SHOP.item, {}, length=1)
    with pytest.raises(InvalidInputError, match=r"key is -1; allowed: 0 to 2\^62 - 1"):
        await store.put_items(np.array([-1]), columns, timeout_s=5)
    with pytest.raises(InvalidInputError, match="key is 4611686018427387904; allowed"):
        await store.append(1 << 62, events_of([]), timeout_s=5)
    with pytest.raises(InvalidInputError, match="key is -1"):
        await store.history(-1, limit=1, timeout_s=5)


async def test_columns_that_do_not_fit_the_keys_are_refused(store: FeatureStore) -> None:
    columns = make_columns(SHOP.item, {}, length=2)
    with pytest.raises(InvalidInputError, match="feature 'tag': 2 values for 1 items"):
        await store.put_items(np.array([1]), columns, timeout_s=5)
    with pytest.raises(InvalidInputError, match="feature 'city': no values for 1 users"):
        await store.put_users(np.array([1]), {}, timeout_s=5)


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
        await store.put_items(np.array([20]), columns, timeout_s=5)
        found = await store.items(wanted, timeout_s=5)
        assert found["tag"].tolist() == [[2, 3], [MISSING, MISSING], [2, 3]]
        assert found["price"].tolist() == [price, 0.0, price]
    assert (await store.items(wanted[:0], timeout_s=5))["tag"].shape == (0, 2)
    with pytest.raises(InvalidInputError, match=r"key is -1; allowed: 0 to 2\^62 - 1"):
        await store.items(np.array([-1]), timeout_s=5)
