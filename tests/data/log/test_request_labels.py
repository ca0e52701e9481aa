"""Labels of shown items: the newest impression before a click, within the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.log.requests.join import JoinedRequests, label_shown, log_span
from recsys.data.log.written_events import WrittenEvents

Row = tuple[int, int, int]
"""(user, item, time)."""


def log_of(events: list[Row]) -> WrittenEvents:
    """A log of users 0 to 4 and items 0 to 4."""
    ordered = sorted(events, key=lambda row: (row[0], row[2], row[1]))
    user, item, time = (np.array([row[n] for row in ordered], dtype=np.int64) for n in range(3))
    return WrittenEvents(
        user_keys=np.arange(5, dtype=np.int64),
        item_keys=np.arange(5, dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user, minlength=5))]).astype(np.int64),
        item=item.astype(np.int32),
        time_ms=time,
        context={},
    )


def labels(events: WrittenEvents, shown: list[Row], window: int, positives: list[int] | None = None) -> list[int]:
    user, item, time = (np.array([row[n] for row in shown], dtype=np.int64) for n in range(3))
    chosen = None if positives is None else np.array(positives, dtype=np.int64)
    return label_shown(events, chosen, user=user, item=item, time_ms=time, window_ms=window).tolist()


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 12)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(
    events=rows,
    shown=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 12))),
    window=st.integers(1, 8),
)
def test_a_click_is_of_the_newest_impression_before_it_within_the_window(
    events: list[Row], shown: set[Row], window: int
) -> None:
    ordered = sorted(shown, key=lambda row: (row[0], row[2], row[1]))
    expected = dict.fromkeys(ordered, 0)
    for user, item, time in events:
        before = [row for row in ordered if row[:2] == (user, item) and row[2] <= time]
        if before and time - max(before)[2] < window:
            expected[max(before)] = 1
    assert labels(log_of(events), ordered, window) == list(expected.values())


@pytest.mark.parametrize(("time", "label"), [(99, 0), (100, 1), (129, 1), (130, 0)])
def test_the_window_begins_with_the_request_and_ends_before_its_end(time: int, label: int) -> None:
    assert labels(log_of([(1, 2, time)]), [(1, 2, 100)], 30) == [label]


def test_another_user_another_item_and_an_event_that_is_not_positive_are_no_click() -> None:
    log = log_of([(1, 2, 101), (2, 3, 101), (1, 3, 105)])
    shown = [(1, 2, 100), (1, 3, 100), (2, 2, 100)]
    assert labels(log, shown, 30) == [1, 1, 0]
    assert labels(log, shown, 30, positives=[1]) == [0, 1, 0]


def test_the_span_of_a_log_is_that_of_all_users() -> None:
    assert log_span(log_of([(0, 1, 50), (3, 1, 10), (4, 1, 70), (4, 1, 20)])) == (10, 70)


def test_what_is_left_out_is_said() -> None:
    counts = JoinedRequests(window_ms=30, requests=9, unranked=2, shown=70, open=3, before=4)
    unranked, unended, before = counts.warnings()
    assert "2 of 9 logged requests had no top_k" in unranked
    assert "3 of 70 shown items are left out, because the log ends before their window does" in unended
    assert "4 shown items are older than the log's first event" in before
    assert JoinedRequests(window_ms=30, requests=9).warnings() == []
