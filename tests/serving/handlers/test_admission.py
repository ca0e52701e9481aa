"""Room and time are bounded: who could not be answered in time is refused at once, and nobody else is."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import OverloadedError
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.inference.pace import Work


def whole(seconds: float) -> Work:
    """Work in one piece."""
    return Work(seconds, seconds)


def test_at_most_the_limit_enter_and_leaving_makes_room() -> None:
    admission = Admission(2)
    with admission.enter(), admission.enter():
        with pytest.raises(OverloadedError, match="2 requests are being served, the limit; retry with backoff"):
            admission.enter().__enter__()
        assert admission.in_flight == 2
    with pytest.raises(KeyError), admission.enter():
        raise KeyError
    assert admission.in_flight == 0


def test_who_would_be_answered_in_time_is_let_in_and_who_would_not_is_refused_at_once() -> None:
    admission = Admission(100)
    with admission.enter(whole(0.5), left_s=1.0), admission.enter(whole(0.2), left_s=1.1):
        with (
            pytest.raises(
                OverloadedError,
                match="2 requests are being served, which takes 700 ms and this one 200 ms; "
                r"1000 ms are left of its deadline, 70% of which may be planned; retry after \d+ ms",
            ),
            admission.enter(whole(0.2), left_s=1.0),
        ):
            pass
        with admission.enter(whole(0.2), left_s=1.4), admission.enter(whole(0.01), left_s=math.inf):
            assert admission.in_flight == 4, "it has more time"
    with admission.enter(whole(0.8), left_s=1.0):
        assert admission.in_flight == 1, "those who have left are not waited for"


def test_a_request_that_is_alone_is_let_in_whatever_is_expected_of_it() -> None:
    admission = Admission(100)
    with admission.enter(whole(60.0), left_s=0.1), pytest.raises(OverloadedError), admission.enter(left_s=0.1):
        pass
    with admission.enter(whole(60.0), left_s=0.1):
        pass


def test_a_small_request_waits_for_a_piece_of_a_large_one_and_a_large_one_for_all_the_others() -> None:
    admission = Admission(100)
    with admission.enter(Work(seconds=10.0, longest_s=0.1)):
        with admission.enter(whole(0.05), left_s=1.0):
            pass
        in_turns = Work(seconds=0.5, longest_s=0.1)  # five turns, before each of which the other has one
        with admission.enter(in_turns, left_s=1.5):
            assert admission.refusal(in_turns, left_s=1.5) is not None
    with admission.enter(whole(0.1)), admission.enter(in_turns, left_s=0.9):
        pass  # one who has a single turn is waited for once


def test_work_that_is_not_known_is_taken_to_be_like_the_others() -> None:
    admission = Admission(100)
    with admission.enter(whole(0.1)), admission.enter(whole(0.3)):
        assert admission.refusal(left_s=0.9) is None
        refused = str(admission.refusal(left_s=0.8))
        assert "which takes 400 ms and this one 200 ms; 800 ms are left" in refused


def test_the_hint_is_the_time_until_those_before_are_gone_and_not_the_same_for_all() -> None:
    admission, hints = Admission(1), set()
    with admission.enter(whole(2.0)):
        for _ in range(50):
            with pytest.raises(OverloadedError) as refused, admission.enter():
                pass
            assert refused.value.retry_after_s is not None and 2.0 <= refused.value.retry_after_s <= 3.0
            hints.add(refused.value.retry_after_s)
    assert len(hints) > 40


def test_who_is_refused_later_is_told_when_to_retry_too() -> None:
    admission = Admission(2)
    with pytest.raises(OverloadedError) as refused, admission.enter(whole(1.0)), admission.enter(whole(1.0)):
        raise OverloadedError("its time was too short after all")
    assert refused.value.retry_after_s is not None and 2.0 <= refused.value.retry_after_s <= 3.0


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


SECONDS = st.floats(0.0, 1e3)
REQUESTS = st.lists(
    st.tuples(SECONDS, SECONDS, SECONDS, st.sampled_from([None, KeyError, OverloadedError, TimeoutError]))
)


@given(REQUESTS)
def test_whatever_comes_and_however_it_ends_no_place_and_no_work_is_left_behind(
    requests: Sequence[tuple[float, float, float, type[Exception] | None]],
) -> None:
    admission, open_ones = Admission(4), []
    for place, (seconds, longest_s, left_s, ends) in enumerate(requests):
        stack = contextlib.ExitStack()
        with contextlib.suppress(OverloadedError):
            stack.enter_context(admission.enter(Work(seconds, longest_s), left_s=left_s))
            open_ones.append((stack, ends))
        if place % 3 == 2 and open_ones:
            _end(*open_ones.pop(place % len(open_ones)))
        assert admission.in_flight == len(open_ones) <= 4
    for each in open_ones:
        _end(*each)
    assert admission.in_flight == 0
    with admission.enter(), admission.enter(whole(0.6), left_s=1.0):
        pass  # nobody's work is still waited for


def _end(stack: contextlib.ExitStack, error: type[Exception] | None) -> None:
    with contextlib.suppress(KeyError, OverloadedError, TimeoutError), stack:
        if error is not None:
            raise error("of the request")


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
