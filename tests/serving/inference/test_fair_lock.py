"""A FairLock is acquired in the order in which it was asked for, and no release is lost."""

from __future__ import annotations

import threading
import time

import pytest

from recsys.serving.deadline import Deadline
from recsys.serving.inference.fair_lock import FairLock


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
