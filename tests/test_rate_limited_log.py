"""Messages that come too often are counted instead of shown."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.rate_limited_log import RateLimitedLog

LOG = logging.getLogger("recsys.tests")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_of_one_kind_one_in_10_s_is_shown_with_the_count_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RateLimitedLog(LOG, clock=clock)
    for now_s in (0.0, 1.0, 9.9, 10.0, 10.1, 20.0):
        clock.now_s = now_s
        log.warning("store", "degraded %s: %d", "store", round(now_s * 10))
    assert [record.getMessage() for record in caplog.records] == [
        "degraded store: 0 (0 more not logged)",
        "degraded store: 100 (2 more not logged)",
        "degraded store: 200 (1 more not logged)",
    ]


def test_one_kind_does_not_hide_another(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(LOG, clock=Clock())
    for kind in ("user", "item", "user"):
        log.warning(kind, "degraded %s", kind)
    assert [record.getMessage() for record in caplog.records] == [
        "degraded user (0 more not logged)",
        "degraded item (0 more not logged)",
    ]


class Kind:
    """Lets other threads go on whenever it is looked up."""

    def __hash__(self) -> int:
        time.sleep(0.001)
        return 1


def test_of_threads_at_a_time_one_shows_its_message_and_none_is_lost() -> None:
    clock, kind = Clock(), Kind()
    log = RateLimitedLog(LOG, clock=clock)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: log.due(kind), range(80)))
    assert found.count(0) == 1 and found.count(None) == 79
    clock.now_s = 10.0
    assert log.due(kind) == 79
