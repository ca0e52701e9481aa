"""A FairLock is acquired in the order in which it was asked for, and no release is lost."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import OverloadedError
from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.pace import Pace


def waiter(model_lock: FairLock, number: int, order: list[int], timeout_s: float = 30.0) -> threading.Thread:
    """A thread that waits for the lock, and is waiting already."""

    def work() -> None:
        with model_lock.acquire(Deadline.after(timeout_s)):
            order.append(number)

    before = model_lock.waiting
    thread = threading.Thread(target=work)
    thread.start()
    while model_lock.waiting == before:
        time.sleep(0.001)
    return thread


def test_who_came_first_goes_first() -> None:
    model_lock, order = FairLock(1), list[int]()
    with model_lock.acquire(Deadline.after(30.0)):
        threads = [waiter(model_lock, number, order) for number in range(8)]
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_as_many_hold_a_place_as_there_are() -> None:
    model_lock, most, holding, lock = FairLock(3), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal most, holding
        for _ in range(50):
            with model_lock.acquire(Deadline.after(30.0)):
                with lock:
                    holding += 1
                    most = max(most, holding)
                time.sleep(0.0002)
                with lock:
                    holding -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3


def test_who_gives_up_leaves_the_queue_and_takes_no_place() -> None:
    model_lock, order = FairLock(1), list[int]()
    with model_lock.acquire(Deadline.after(30.0)):
        first = waiter(model_lock, 0, order)
        with pytest.raises(TimeoutError, match="deadline has passed"), model_lock.acquire(Deadline.after(0.01)):
            raise AssertionError("it is not its turn")
        last = waiter(model_lock, 1, order)
    first.join()
    last.join()
    assert order == [0, 1]
    assert model_lock.waiting == 0
    with model_lock.acquire(Deadline.after(0.0001)):
        pass


def test_a_place_comes_back_after_an_error() -> None:
    model_lock = FairLock(1)
    with pytest.raises(ValueError, match="of the caller"), model_lock.acquire(Deadline.after(30.0)):
        raise ValueError("of the caller")
    with model_lock.acquire(Deadline.after(0.01)):
        assert model_lock.waiting == 0


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_pace_learns_how_long_the_lock_was_held() -> None:
    clock, pace = Clock(), Pace(1.0)
    model_lock = FairLock(1, clock=clock)
    with model_lock.acquire(Deadline.after(30.0), pace=pace, units=4):
        clock.now_s += 8.0
    assert pace.seconds(1) == pytest.approx(1.1), "a tenth of the way from 1 to 2"


def test_a_pace_learns_nothing_of_work_that_was_broken_off() -> None:
    clock, pace = Clock(), Pace(1.0)
    model_lock = FairLock(1, clock=clock)
    with pytest.raises(TimeoutError), model_lock.acquire(Deadline.after(30.0), pace=pace, units=4):
        raise TimeoutError
    assert pace.seconds(1) == 1.0


def test_the_time_in_which_a_waiter_was_called_and_did_not_run_yet_counts_as_held() -> None:
    clock, pace, called = Clock(), Pace(1.0), threading.Event()
    model_lock = FairLock(1, clock=clock)

    def work() -> None:
        with model_lock.acquire(Deadline.after(30.0), pace=pace, units=1):
            called.wait(20)

    with model_lock.acquire(Deadline.after(30.0)):
        thread = threading.Thread(target=work)
        thread.start()
        while not model_lock.waiting:
            time.sleep(0.001)
    clock.now_s += 2.0  # from the release, whenever the thread wakes up
    called.set()
    thread.join()
    assert pace.seconds(1) == pytest.approx(1.1)


def test_who_has_too_little_time_left_for_its_work_does_not_wait_for_the_deadline() -> None:
    model_lock, pace = FairLock(1), Pace(0.5)
    with model_lock.acquire(Deadline.after(60.0)):
        with (
            pytest.raises(OverloadedError, match="ms are left of the deadline, the model needs 60000 ms"),
            model_lock.acquire(Deadline.after(59.0), pace=pace, units=20, more=100),
        ):
            raise AssertionError("it is not its turn")
        assert model_lock.waiting == 0
    with model_lock.acquire(Deadline.after(0.1), pace=pace, units=20):
        pass  # nobody is before it: it may try


def test_who_leaves_gives_its_place_in_the_queue_back_at_once() -> None:
    model_lock, errors, callbacks = FairLock(1), [], []
    deadline = Deadline.after(60.0, when_left=lambda callback: callbacks.append(callback) is None)

    def work() -> None:
        try:
            with model_lock.acquire(deadline):
                raise AssertionError("it is not its turn")
        except TimeoutError as error:
            errors.append(str(error))

    with model_lock.acquire(Deadline.after(60.0)):
        thread = threading.Thread(target=work)
        thread.start()
        while not callbacks:
            time.sleep(0.001)
        callbacks[0]()
        thread.join(20)
        assert errors == ["the caller has left"] and model_lock.waiting == 0
        gone = Deadline.after(60.0, when_left=lambda callback: False)
        with pytest.raises(TimeoutError, match="the caller has left"), model_lock.acquire(gone):
            raise AssertionError("it had left before")
    callbacks[0]()  # a call that ends says so again
    with model_lock.acquire(Deadline.after(0.1)):
        pass


@given(st.lists(st.sampled_from(["stays", "leaves", "has no time", "fails"]), min_size=1, max_size=12))
@settings(max_examples=30)
def test_however_those_who_wait_end_the_lock_is_free_after(ends: list[str]) -> None:
    model_lock, ran = FairLock(1), []
    callbacks: list[Any] = []

    def work(how: str) -> None:
        when_left = (lambda callback: callbacks.append(callback) is None) if how == "leaves" else None
        deadline = Deadline.after(30.0, when_left=when_left)
        pace = Pace(1.0) if how == "has no time" else None
        with (
            contextlib.suppress(TimeoutError, OverloadedError, KeyError),
            model_lock.acquire(deadline, pace=pace, units=60),
        ):
            ran.append(how)
            if how == "fails":
                raise KeyError

    with model_lock.acquire(Deadline.after(30.0)):
        threads = [threading.Thread(target=work, args=(how,)) for how in ends]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + 20
        while model_lock.waiting < sum(how != "has no time" for how in ends) or len(callbacks) < ends.count("leaves"):
            assert time.monotonic() < deadline_s
            time.sleep(0.0005)
        for callback in callbacks:
            callback()
    for thread in threads:
        thread.join(20)
    assert sorted(ran) == sorted(how for how in ends if how in ("stays", "fails"))
    assert model_lock.waiting == 0
    with model_lock.acquire(Deadline.after(0.1)):
        pass
