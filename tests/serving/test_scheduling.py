"""A server's threads do not push each other off the core."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.serving.scheduling import use_batch_scheduling


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system knows no batch scheduling")
def test_threads_that_are_started_later_are_batch_threads_too() -> None:
    def outer() -> tuple[int, int]:
        use_batch_scheduling()
        with ThreadPoolExecutor(1) as inner:
            return os.sched_getscheduler(0), inner.submit(os.sched_getscheduler, 0).result()

    before = os.sched_getscheduler(0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outer).result() == (os.SCHED_BATCH, os.SCHED_BATCH)
    assert os.sched_getscheduler(0) == before, "not those of other threads"


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system knows no batch scheduling")
def test_a_system_that_forbids_it_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    use_batch_scheduling()
