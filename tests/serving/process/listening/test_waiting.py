"""Calls wait for their message for a limited time, and only so many do."""

from __future__ import annotations

import time

import pytest
from support.tiny_workers import until

from recsys.serving.process.listening import waiting
from recsys.serving.process.listening.waiting import WaitingCalls


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_each_is_ended_when_its_time_is_over_and_not_before(clock: Clock) -> None:
    calls, ended = WaitingCalls(10), []
    for name, limit_s in (("slow", 60.0), ("first", 5.0), ("second", 5.0)):
        calls.add(limit_s, lambda reason, waited_s, name=name: ended.append((name, reason, waited_s)))  # type: ignore[misc]
        clock.now_s += 1
    clock.now_s = 5.9
    calls.end_late()
    assert ended == []
    clock.now_s = 6.0
    calls.end_late()
    assert ended == [("first", "late", 5.0)]
    clock.now_s = 100.0
    calls.end_late()
    assert ended[1:] == [("slow", "late", 100.0), ("second", "late", 98.0)] and len(calls) == 0


def test_a_call_that_was_ended_is_not_to_be_taken_and_one_that_was_taken_is_not_ended(clock: Clock) -> None:
    calls, ended = WaitingCalls(10), []
    taken = calls.add(5.0, lambda reason, waited_s: ended.append("taken"))
    late = calls.add(5.0, lambda reason, waited_s: ended.append("late"))
    assert calls.remove(taken)
    clock.now_s = 10.0
    calls.end_late()
    assert ended == ["late"] and not calls.remove(late) and not calls.remove(taken)


def test_one_too_many_ends_the_oldest_whatever_time_it_had(clock: Clock) -> None:
    calls, ended = WaitingCalls(3), []
    for place, limit_s in enumerate((60.0, 5.0, 60.0, 5.0, 5.0)):
        calls.add(limit_s, lambda reason, waited_s, place=place: ended.append((place, reason)))  # type: ignore[misc]
        clock.now_s += 0.1
    assert ended == [(0, "crowded_out"), (1, "crowded_out")] and len(calls) == 3


def test_a_drain_ends_all_after_a_moment_and_those_that_come_later(clock: Clock) -> None:
    calls, ended = WaitingCalls(10), []
    calls.add(60.0, lambda reason, waited_s: ended.append(reason))
    calls.end_all_in(1.0)
    calls.end_late()
    assert ended == []
    clock.now_s = 1.0
    calls.end_late()
    calls.add(60.0, lambda reason, waited_s: ended.append(reason))
    calls.end_late()
    assert ended == ["draining", "draining"]


def test_the_oldest_are_ended_when_too_much_is_kept_for_all(clock: Clock) -> None:
    calls, ended = WaitingCalls(100, most_bytes=100), []
    kept = []
    for size_bytes in (60, 20, 20, 30, 150, 1):
        kept.append(
            calls.add(
                9.0, lambda reason, waited_s, size=size_bytes: ended.append((size, reason)), size_bytes=size_bytes
            )  # type: ignore[misc]
        )
        clock.now_s += 1
    # One that is too large by itself waits alone.
    assert ended == [(size, "crowded_out") for size in (60, 20, 20, 30, 150)] and len(calls) == 1
    assert calls.remove(kept[-1]) and not calls.remove(kept[-2])
    calls.add(9.0, lambda reason, waited_s: ended.append((0, reason)), size_bytes=100)
    assert len(calls) == 1 and len(ended) == 5, "what is removed is kept no more"


def test_in_a_drain_none_waits_as_long_as_before(clock: Clock) -> None:
    calls, ended = WaitingCalls(10), []
    calls.add(30.0, lambda reason, waited_s: ended.append("first"))
    calls.add(1.0, lambda reason, waited_s: ended.append("short"))
    clock.now_s = 0.5
    calls.shorten(3.0)
    calls.add(30.0, lambda reason, waited_s: ended.append("later"))
    for now_s, expected in ((0.9, []), (1.0, ["short"]), (2.9, ["short"]), (3.0, ["short", "first"])):
        clock.now_s = now_s
        calls.end_late()
        assert ended == expected
    clock.now_s = 3.5
    calls.end_late()
    assert ended == ["short", "first", "later"]


def test_a_thread_ends_them_without_being_asked() -> None:
    calls, ended = WaitingCalls(10), []
    with calls.running():
        calls.add(0.05, lambda reason, waited_s: ended.append(reason))
        until(lambda: ended == ["late"])


def test_after_a_crowd_memory_is_tidied_and_without_one_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_S", 0.01)
    monkeypatch.setattr(waiting, "_TIDY_S", 0.01)
    tidied: list[int] = []
    calls = WaitingCalls(40, after_crowd=lambda: tidied.append(len(calls)))
    with calls.running():
        few = [calls.add(60.0, lambda reason, waited_s: None) for _ in range(10)]
        time.sleep(0.2)
        assert tidied == []
        one_more = calls.add(60.0, lambda reason, waited_s: None)
        until(lambda: tidied)
        for call in (*few, one_more):
            calls.remove(call)
        time.sleep(0.2)
        assert tidied == [11]
        for _ in range(10):
            calls.note_left()
        time.sleep(0.2)
        assert tidied == [11]
        calls.note_left()  # never more than a few at a time, and yet many
        until(lambda: tidied == [11, 0])
