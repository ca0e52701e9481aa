"""A handler that waits for a coroutine on a loop in another thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError
from typing import Any

import pytest

from recsys.feature_store.loop_thread import loop_in_thread
from recsys.serving.deadline import CallerLeftError, Deadline
from recsys.serving.rpc.calls import run_on_loop


class Call:
    """A call whose caller stays, or has left already."""

    def __init__(self, *, active: bool) -> None:
        self.active = active

    def add_callback(self, callback: Any) -> bool:
        return self.active


def test_a_coroutine_that_finds_the_caller_gone_ends_as_one_whose_caller_left() -> None:
    async def leaves() -> None:
        raise CancelledError("the sender has left")

    call: Any = Call(active=True)
    with loop_in_thread("test") as loop, pytest.raises(CallerLeftError):
        run_on_loop(call, loop, leaves(), Deadline.after(3600.0))


def test_a_caller_that_left_before_is_not_waited_for() -> None:
    call: Any = Call(active=False)
    with loop_in_thread("test") as loop, pytest.raises(CallerLeftError):
        run_on_loop(call, loop, asyncio.sleep(3600), Deadline.after(3600.0))


def test_a_caller_that_is_gone_at_its_deadline_did_not_leave_before_it() -> None:
    call: Any = Call(active=False)
    with loop_in_thread("test") as loop, pytest.raises(TimeoutError, match="deadline has passed") as caught:
        run_on_loop(call, loop, asyncio.sleep(3600), Deadline.after(0.0))
    assert not isinstance(caught.value, CallerLeftError)
