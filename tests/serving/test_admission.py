"""Room and time are bounded."""

from __future__ import annotations

import asyncio

import pytest

from recsys.errors import OverloadedError
from recsys.serving.admission import Admission, Deadline


def test_at_most_the_limit_enter_and_leaving_makes_room() -> None:
    admission = Admission(2)
    with admission.enter(), admission.enter():
        with pytest.raises(OverloadedError, match="2 requests are being served, the limit"), admission.enter():
            pass
        assert admission.in_flight == 2
    with pytest.raises(KeyError), admission.enter():
        raise KeyError
    assert admission.in_flight == 0


async def test_work_ends_with_the_deadline() -> None:
    deadline = Deadline.after(0.05)
    assert 0 < deadline.remaining_s() <= 0.05
    assert await deadline.wait(asyncio.sleep(0, "done")) == "done"
    work = asyncio.ensure_future(asyncio.sleep(10))
    with pytest.raises(TimeoutError, match="the request's deadline has passed"):
        await deadline.wait(work)
    assert work.cancelled()
    with pytest.raises(TimeoutError, match="the request's deadline has passed"):
        deadline.remaining_s()
