"""The pulse finds what keeps requests from getting through, and takes a long queue that moves for what it is."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from support.tiny_workers import until

from recsys.feature_store.loop_thread import loop_in_thread
from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.process.watchdog import make_own_address, pulse, request_path

EVERY_S = 0.1


@dataclass
class Server:
    """What a request passes through, and all that the pulse says of it."""

    threads: ThreadPoolExecutor
    loop: asyncio.AbstractEventLoop
    model_lock: FairLock
    said: list[str] = field(default_factory=list)

    def says(self, what: str) -> None:
        """Wait until a beat that began after now says this."""
        place = len(self.said) + 1
        until(lambda: what in self.said[place:])


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
        threads = stack.enter_context(ThreadPoolExecutor(2))
        made = Server(threads, loop, FairLock(1))
        steps = stack.enter_context(request_path(None, threads, made.model_lock, loop))
        stack.enter_context(pulse(steps, every_s=EVERY_S, said=made.said.append))
        stack.callback(blocked.set)
        yield made


def test_a_server_that_serves_has_a_pulse(server: Server) -> None:
    server.says("")
    assert set(server.said) == {""}


def test_a_turn_that_is_never_given_back_is_found(server: Server) -> None:
    with server.model_lock.acquire(Deadline.after(30.0)):
        server.says("the lock of the model")
    server.says("")
    assert server.model_lock.waiting == 0


def test_a_queue_for_the_model_that_is_longer_than_a_beat_is_no_hang_while_it_moves(server: Server) -> None:
    stop, longest = threading.Event(), 0

    def calls() -> None:
        nonlocal longest
        while not stop.is_set():
            with server.model_lock.acquire(Deadline.after(30.0)):
                longest = max(longest, server.model_lock.waiting)
                time.sleep(EVERY_S / 4)

    callers = [threading.Thread(target=calls) for _ in range(16)]
    for caller in callers:
        caller.start()
    until(lambda: longest >= 15)
    for _ in range(5):
        server.says("")
    stop.set()
    for caller in callers:
        caller.join()


def test_an_event_loop_that_is_blocked_is_found(server: Server, blocked: threading.Event) -> None:
    server.loop.call_soon_threadsafe(blocked.wait)
    server.says("the store's event loop")
    blocked.set()
    server.says("")


def test_handler_threads_that_all_wait_are_found(server: Server, blocked: threading.Event) -> None:
    for _ in range(2):
        server.threads.submit(blocked.wait)
    server.says("a thread to handle a call")
    blocked.set()
    server.says("")


def test_what_a_step_raises_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(work: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(server.threads, "submit", submit)
    server.says("a thread to handle a call: can't start new thread")


def test_a_grpc_server_that_does_not_answer_is_found_and_one_that_refuses_answers(server: Server) -> None:
    nobody, silent = make_own_address(), make_own_address()
    if nobody is None or silent is None:
        pytest.skip("this system has no abstract sockets")
    with request_path(nobody, server.threads, server.model_lock, server.loop) as steps:
        steps["gRPC to answer"](5.0)  # refused: so is a beat while a server drains
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind("\0" + silent.removeprefix("unix-abstract:"))
        listens.listen()
        with request_path(silent, server.threads, server.model_lock, server.loop) as steps:
            with pytest.raises(TimeoutError):
                steps["gRPC to answer"](EVERY_S)


def test_a_pulse_that_is_stuck_itself_keeps_nobody_from_ending(blocked: threading.Event) -> None:
    begun = threading.Event()

    def step(timeout_s: float) -> None:
        begun.set()
        blocked.wait()

    with pulse({"a step": step}, every_s=EVERY_S, said=print):
        begun.wait()
    assert not blocked.is_set()
