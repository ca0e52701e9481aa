"""Room and time are bounded."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.errors import OverloadedError
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission


def test_at_most_the_limit_enter_and_leaving_makes_room() -> None:
    admission = Admission(2)
    with admission.enter(), admission.enter():
        with pytest.raises(OverloadedError, match="2 requests are being served, the limit"), admission.enter():
            pass
        assert admission.in_flight == 2
    with pytest.raises(KeyError), admission.enter():
        raise KeyError
    assert admission.in_flight == 0


def test_threads_never_hold_more_places_than_there_are() -> None:
    admission, most = Admission(3), 0

    def visit(_: int) -> int:
        nonlocal most
        for _ in range(2_000):
            with contextlib.suppress(OverloadedError), admission.enter():
                most = max(most, admission.in_flight)
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(visit, range(8))) == 8
    assert most <= 3 and admission.in_flight == 0


def test_time_runs_out() -> None:
    deadline = Deadline.after(0.05)
    assert 0 < deadline.remaining_s() <= 0.05
    time.sleep(0.05)
    with pytest.raises(TimeoutError, match="the request's deadline has passed"):
        deadline.remaining_s()


def test_a_caller_that_has_left_is_noticed_before_the_deadline() -> None:
    left = threading.Event()
    deadline = Deadline.after(60, abandoned=left.is_set)
    assert deadline.remaining_s() > 50
    left.set()
    with pytest.raises(TimeoutError, match="the caller has left"):
        deadline.remaining_s()
