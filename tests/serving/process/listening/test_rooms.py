"""Each kind of call has its own threads; where they last as long as their callers like, one gives way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.tiny_workers import until

from recsys.serving.process.listening.rooms import Room, open_rooms


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_room_takes_as_many_calls_as_it_may_and_refuses_more(go_on: threading.Event) -> None:
    room = Room("test", threads=2, most=3)
    assert [room.start(print, go_on.wait) for _ in range(4)] == [True, True, True, False]
    go_on.set()
    until(lambda: room.completed == 3)
    assert room.start(print, go_on.wait)
    room.close()


def test_the_oldest_call_is_cancelled_for_a_new_one_where_it_gives_way() -> None:
    room, ends, cancelled = Room("test", threads=2, endless=True), [threading.Event() for _ in range(4)], []

    def cancel(place: int) -> None:
        cancelled.append(place)
        ends[place].set()

    for place, end in enumerate(ends):
        assert room.start(lambda place=place: cancel(place), end.wait)  # type: ignore[misc]
    until(lambda: room.completed == 2)
    assert cancelled == [0, 1]
    for end in ends:
        end.set()
    room.close()


def test_one_of_the_caller_that_has_most_gives_way_and_others_keep_theirs() -> None:
    room, ends, cancelled = Room("test", threads=3, endless=True), [threading.Event() for _ in range(6)], []

    def cancel(place: int) -> None:
        cancelled.append(place)
        ends[place].set()

    peers = ("ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1", "ipv4:10.0.0.2:2", "ipv4:10.0.0.2:3", "ipv4:10.0.0.2:4")
    for place, peer in enumerate((*peers, "ipv4:10.0.0.1:2")):
        assert room.start(lambda place=place: cancel(place), ends[place].wait, peer=lambda peer=peer: peer)  # type: ignore[misc]
    # The third of the second caller ends its own oldest, and so on; the first one's second ends nobody else's.
    assert cancelled == [1, 2, 0]
    for end in ends:
        end.set()
    room.close()


def test_a_drain_cancels_calls_that_would_last_for_ever_and_no_others(go_on: threading.Event) -> None:
    endless, other, cancelled = Room("test", threads=2, endless=True), Room("other", threads=2), []
    endless.start(lambda: cancelled.append("endless") or go_on.set(), go_on.wait)  # type: ignore[func-returns-value]
    other.start(lambda: cancelled.append("other"), go_on.wait)
    endless.cancel_endless()
    other.cancel_endless()
    assert cancelled == ["endless"]
    endless.close()
    other.close()


def test_a_call_that_no_thread_can_be_had_for_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room("test", threads=1)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="no more"):
        patched.setattr(room.threads, "submit", _no_more)
        room.start(print, print)
    assert room.start(print, int)
    room.close()


def _no_more(*arguments: object) -> None:
    raise RuntimeError("no more")


def test_methods_have_the_room_of_their_kind() -> None:
    with open_rooms(3) as rooms:
        assert rooms.of("/grpc.health.v1.Health/Check") is rooms.checks
        assert rooms.of("/grpc.health.v1.Health/Watch") is rooms.watches
        assert rooms.of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") is rooms.reflection
        assert rooms.of("/recsys.v1.Ranker/Rank") is rooms.of("") is rooms.calls
