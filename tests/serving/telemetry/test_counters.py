"""Counting: nothing is lost between threads."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.stage_timer import STAGES
from recsys.serving.telemetry.totals import read_totals


def every_stage(us: int) -> list[int]:
    return [us] * len(STAGES)


def test_threads_lose_no_count(file: Path) -> None:
    telemetry = Telemetry(file)

    def work() -> None:
        for _ in range(2_000):
            telemetry.observe("Rank", every_stage(7))
            telemetry.count("degraded", "user")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    totals = read_totals(file)
    assert totals.stages("Rank")["store"].count == 8_000
    assert totals.counters["degraded", "user"] == 8_000


def test_what_others_count_is_taken_over_once_and_to_the_end(file: Path) -> None:
    so_far = {"used": 2, "written": 0}
    asked = threading.Event()

    def counts() -> dict[str, int]:
        asked.set()
        return so_far.copy()

    telemetry = Telemetry(file)
    with telemetry.polling({"states": counts}, every_s=0.001):
        assert asked.wait(10)
        so_far["used"] += 3
        asked.clear()
        assert asked.wait(10)
        so_far["written"] += 1
    assert read_totals(file).counters["states", "used"] == 5
    assert read_totals(file).counters["states", "written"] == 1


def test_a_gauge_of_others_is_what_it_is_now(file: Path) -> None:
    now, telemetry = [3], Telemetry(file)
    with telemetry.polling({}, gauges={"added_items": lambda: now[0]}, every_s=60.0):
        now = [2]
    assert read_totals(file).counters["added_items",] == 2


def test_an_unknown_counter_is_a_bug_that_shows(file: Path) -> None:
    with pytest.raises(KeyError):
        Telemetry(file).count("requests", "Rank", "FINE")


def test_a_file_without_the_workers_row_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"has rows for 2 workers; worker 2 has none"):
        Telemetry(file, worker=2)


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"odd"])
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match="does not hold this program's counts"):
        Telemetry(tmp_path / "file")


def test_a_worker_that_ended_leaves_its_counts_and_no_gauge(file: Path) -> None:
    first, other = Telemetry(file, worker=0), Telemetry(file, worker=1)
    for telemetry in (first, other):
        telemetry.set("workers_serving", to=1)
        telemetry.call_began("Rank")
    other.call_ended("Rank", 7)
    other.clear_gauges()
    counters = read_totals(file).counters
    assert (counters["workers_serving",], counters["calls_in_flight", "Rank"]) == (1, 1)
    assert read_totals(file).times["call_seconds", "Rank"].count == 1
    other.call_ended("Rank", 7)  # one that outlasted the drain
    assert read_totals(file).counters["calls_in_flight", "Rank"] == 1


def test_the_first_of_every_32_requests_is_looked_into(file: Path) -> None:
    telemetry = Telemetry(file)
    assert [telemetry.looks() for _ in range(65)] == [number % 32 == 0 for number in range(65)]
