"""The watchdog finds what keeps requests from getting through, and takes a long queue that moves for what it is."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from support.tiny_workers import until

from recsys.feature_store.loop_thread import loop_in_thread
from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.process.listening.rooms import Room
from recsys.serving.process.watchdog import make_private_address, request_path_probes, run_watchdog

INTERVAL_S = 0.1


@dataclass
class Server:
    """The parts that a request passes through, and all reports of the watchdog."""

    calls: Room
    loop: asyncio.AbstractEventLoop
    model_lock: FairLock
    reports: list[str] = field(default_factory=list)

    def wait_for(self, report: str) -> None:
        """Wait until a round that began after now reports this."""
        start = len(self.reports) + 1
        until(lambda: report in self.reports[start:])


@pytest.fixture
def blocked() -> Iterator[threading.Event]:
    """Things wait for it at most until the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def server(blocked: threading.Event) -> Iterator[Server]:
    with ExitStack() as stack:
        loop = stack.enter_context(loop_in_thread("store"))
        room = Room("call", threads=2, most=100)
        stack.callback(room.close)
        made = Server(room, loop, FairLock(1))
        probes = stack.enter_context(request_path_probes(None, room, made.model_lock, loop))
        stack.enter_context(run_watchdog(probes, interval_s=INTERVAL_S, report=made.reports.append))
        stack.callback(blocked.set)
        yield made


def test_a_server_that_serves_passes_all_probes(server: Server) -> None:
    server.wait_for("")
    assert set(server.reports) == {""}


def test_a_lock_that_is_never_released_is_found(server: Server) -> None:
    with server.model_lock.acquire(Deadline.after(30.0)):
        server.wait_for("the lock of the model")
    server.wait_for("")
    assert server.model_lock.waiting == 0


def test_a_queue_for_the_model_that_is_longer_than_an_interval_is_no_hang_while_it_moves(server: Server) -> None:
    stop, longest = threading.Event(), 0

    def calls() -> None:
        nonlocal longest
        while not stop.is_set():
            with server.model_lock.acquire(Deadline.after(30.0)):
                longest = max(longest, server.model_lock.waiting)
                time.sleep(INTERVAL_S / 4)

    callers = [threading.Thread(target=calls) for _ in range(16)]
    for caller in callers:
        caller.start()
    until(lambda: longest >= 15)
    for _ in range(5):
        server.wait_for("")
    stop.set()
    for caller in callers:
        caller.join()


def test_an_event_loop_that_is_blocked_is_found(server: Server, blocked: threading.Event) -> None:
    server.loop.call_soon_threadsafe(blocked.wait)
    server.wait_for("the store's event loop")
    blocked.set()
    server.wait_for("")


def test_handler_threads_that_all_wait_are_found(server: Server, blocked: threading.Event) -> None:
    for _ in range(2):
        server.calls.submit(blocked.wait)
    server.wait_for("a thread to handle a call")
    blocked.set()
    server.wait_for("")


def test_threads_that_are_all_busy_are_no_hang_while_calls_end(server: Server) -> None:
    for _ in range(60):  # a queue that outlasts many probes
        assert server.calls.start(print, time.sleep, INTERVAL_S / 2)
    for _ in range(5):
        server.wait_for("")
    assert "a thread to handle a call" not in server.reports and server.calls.completed < 60


def test_the_error_of_a_probe_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(work: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(server.calls, "submit", submit)
    server.wait_for("a thread to handle a call: can't start new thread")


def test_a_grpc_server_that_does_not_answer_is_found_and_one_that_refuses_answers(server: Server) -> None:
    nobody, silent = make_private_address(), make_private_address()
    if nobody is None or silent is None:
        pytest.skip("this system has no abstract sockets")
    with request_path_probes(nobody, server.calls, server.model_lock, server.loop) as probes:
        probes["gRPC to answer"](5.0)  # refused: so is a probe while a server drains
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind("\0" + silent.removeprefix("unix-abstract:"))
        listens.listen()
        with request_path_probes(silent, server.calls, server.model_lock, server.loop) as probes:
            with pytest.raises(TimeoutError):
                probes["gRPC to answer"](INTERVAL_S)


def test_a_grpc_server_that_hands_calls_over_is_no_hang_though_it_answers_too_late(server: Server) -> None:
    silent = make_private_address()
    if silent is None:
        pytest.skip("this system has no abstract sockets")
    handed_over = itertools.count()
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind("\0" + silent.removeprefix("unix-abstract:"))
        listens.listen()
        parts = server.calls, server.model_lock, server.loop
        with request_path_probes(silent, *parts, arrived=lambda: next(handed_over)) as probes:
            probes["gRPC to answer"](INTERVAL_S)


def test_a_watchdog_that_is_stuck_itself_keeps_nobody_from_ending(blocked: threading.Event) -> None:
    begun = threading.Event()

    def probe(timeout_s: float) -> None:
        begun.set()
        blocked.wait()

    with run_watchdog({"a probe": probe}, interval_s=INTERVAL_S, report=print):
        begun.wait()
    assert not blocked.is_set()
