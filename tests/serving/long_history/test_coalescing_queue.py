"""Work in the background: in order, the newest of each key, bounded, and it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from recsys.serving.long_history.coalescing_queue import CoalescingQueue


@pytest.fixture
def work() -> Iterator[CoalescingQueue]:
    work = CoalescingQueue("chores", limit=2)
    yield work
    work.close()


def blocked(work: CoalescingQueue) -> threading.Event:
    """Let the thread be busy until this is set."""
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(30)

    assert work.offer(0, wait)
    assert begun.wait(30)
    return go_on


def test_work_is_done_in_the_order_of_its_keys_and_the_newest_of_each_key(work: CoalescingQueue) -> None:
    done: list[str] = []
    go_on = blocked(work)
    for key, name in ((1, "a"), (2, "b"), (1, "c")):
        assert work.offer(key, lambda name=name: done.append(name))
    go_on.set()
    assert work.flush(timeout_s=30)
    assert done == ["c", "b"]


def test_more_keys_than_there_is_room_for_are_refused(work: CoalescingQueue) -> None:
    go_on = blocked(work)
    assert [work.offer(key, lambda: None) for key in (1, 2, 3, 1)] == [True, True, False, True]
    assert not work.flush(timeout_s=0.01)
    go_on.set()


def test_work_that_fails_is_logged_once_and_stops_nothing(
    work: CoalescingQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise ValueError("no luck")

    done: list[int] = []
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            work.offer(1, fails)
            assert work.flush(timeout_s=30)
        work.offer(2, lambda: done.append(2))
        assert work.flush(timeout_s=30)
    assert done == [2]
    assert [r.getMessage() for r in caplog.records] == ["chores: ValueError: no luck (0 more not logged)"]


def test_what_waits_is_done_before_it_closes_and_nothing_is_taken_after(work: CoalescingQueue) -> None:
    done: list[int] = []
    go_on = blocked(work)
    work.offer(1, lambda: done.append(1))
    threading.Timer(0.05, go_on.set).start()
    work.close(timeout_s=30)
    assert done == [1]
    assert not work.offer(2, lambda: done.append(2))


def test_closing_does_not_wait_for_ever(work: CoalescingQueue) -> None:
    done: list[int] = []
    go_on = blocked(work)
    work.offer(1, lambda: done.append(1))
    work.close(timeout_s=0.05)
    go_on.set()
    work.close(timeout_s=30)
    assert done == []
