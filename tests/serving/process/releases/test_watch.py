"""The watch after a switch: a release that is worse is noticed, soon where it is plain, and an equal one never."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from support.release_traffic import Simulation, Traffic

from recsys.serving.process.releases.verdicts import share_above, surely_beyond, verdict
from recsys.serving.process.releases.watch import RecentFigures
from recsys.serving.settings import Settings
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.release_figures import ReleaseFigures
from recsys.serving.telemetry.totals import Histogram

SETTINGS = Settings()
USUAL = Traffic()


def of_times(times_us: list[int]) -> Histogram:
    """The histogram of these times, by its definition."""
    return Histogram(tuple(sum(t <= bound for t in times_us) for bound in BOUNDS_US), len(times_us), sum(times_us))


@pytest.mark.parametrize(
    ("change", "within_s", "why"),
    [
        ({"failed": 1.0}, 2, "100 % of .* calls failed, before 0[.][01].* %"),
        ({"failed": 0.05}, 30, "RECSYS_RELEASE_MAX_ERRORS"),
        ({"median_ms": 10.0}, 60, "p99 of .* allowed: 1.5 times as much .RECSYS_RELEASE_MAX_SLOWDOWN"),
        ({"degraded": 0.3}, 60, "answers are degraded, before .* allowed: 10 % more .RECSYS_RELEASE_MAX_DEGRADED"),
        (
            {"score": 0.6},
            60,
            "mean score .* is 0[.](59|60)., before 0[.](29|30).; .* 0.2 .RECSYS_RELEASE_MAX_DRIFT",
        ),
    ],
    ids=["all calls fail", "5 % fail", "twice the time", "30 % degraded", "scores drift"],
)
def test_a_release_that_is_worse_is_noticed(change: dict[str, float], within_s: int, why: str) -> None:
    worse = dataclasses.replace(USUAL, **change)
    for seed in range(3):
        took_s, reason = Simulation(before=USUAL, since=lambda _: worse, settings=SETTINGS, seed=seed).run()
        assert took_s <= within_s, reason
        assert reason.startswith("release 'new' for 'feed' is worse than 'old' before it, in the last ")
        assert re.search(why, reason), reason


def test_what_begins_late_is_noticed_too() -> None:
    def since(second: float) -> Traffic:
        return USUAL if second <= 200 else dataclasses.replace(USUAL, failed=1.0)

    took_s, reason = Simulation(before=USUAL, since=since, settings=SETTINGS).run()
    assert 200 < took_s <= 204 and "calls failed" in reason


@pytest.mark.parametrize(
    "usual",
    [
        Traffic(rate=50.0),
        Traffic(rate=50.0, spread=1.0),
        Traffic(rate=200.0, failed=0.01, degraded=0.05, slow_times=0.02),
    ],
    ids=["few calls", "times that scatter", "a busy machine"],
)
def test_an_equal_release_is_never_taken_back(usual: Traffic) -> None:
    for seed in range(4):
        assert Simulation(before=usual, since=lambda _: usual, settings=SETTINGS, seed=seed).run() == (300.0, "")


def test_what_lasts_some_seconds_is_no_reason_to_go_back() -> None:
    """The machine is slow for 8 s, the store away for 10 s."""

    def since(second: float) -> Traffic:
        slow, away = 60 < second <= 68, 100 < second <= 110
        return dataclasses.replace(USUAL, median_ms=15.0 if slow else 5.0, degraded=1.0 if away else 0.01)

    assert Simulation(before=USUAL, since=since, settings=SETTINGS).run() == (300.0, "")


def test_a_few_calls_are_no_verdict_and_twenty_that_fail_are() -> None:
    before = ReleaseFigures(answered=10_000)
    assert verdict(before, ReleaseFigures(failed=19), SETTINGS) == ""
    assert "100 % of 20 calls failed, before 0 % of 10,000" in verdict(before, ReleaseFigures(failed=20), SETTINGS)
    unknown = ReleaseFigures(answered=3)
    reason = verdict(unknown, ReleaseFigures(failed=20), SETTINGS)
    assert "before there were only 3 calls, and it counts as none" in reason


def test_a_share_that_was_as_bad_before_is_no_reason() -> None:
    before, since = ReleaseFigures(answered=9_000, failed=1_000), ReleaseFigures(answered=1_800, failed=200)
    assert verdict(before, since, SETTINGS) == ""


def test_a_growth_is_sure_from_the_number_of_calls_on_that_newcombe_gives() -> None:
    """3 % after 1 % with a bound of 1 %: the interval's lower end, at four deviations, by its formula."""

    def low(count: int) -> float:
        square, share, earlier, earlier_count = 16.0, 0.03, 0.01, 100 * count

        def wilson(p: float, n: int, sign: int) -> float:
            middle = p + square / (2 * n)
            return (middle + sign * 4 * math.sqrt(p * (1 - p) / n + square / (4 * n * n))) / (1 + square / n)

        reach = math.hypot(share - wilson(share, count, -1), wilson(earlier, earlier_count, 1) - earlier)
        return share - earlier - reach

    for count in (1_000, 5_000, 10_000, 100_000):
        assert surely_beyond((count, 100 * count), (3 * count // 100, count), 0.01) == (low(count) > 0.01)
    assert not surely_beyond((10, 1_000), (30, 1_000), 0.01) and surely_beyond((1_000, 100_000), (3_000, 100_000), 0.01)


def test_the_share_of_slower_calls_is_that_of_the_histogram() -> None:
    histogram = of_times([15] * 60 + [40] * 40)
    assert share_above(histogram, 30) == pytest.approx(0.4)
    assert share_above(histogram, 40) == pytest.approx(0.2), "linear within the bucket from 30 to 50"
    assert share_above(histogram, 50) == 0.0
    assert share_above(Histogram((0,) * len(BOUNDS_US), 0, 0), 50) == 0.0


def test_figures_of_another_release_in_the_same_slot_do_not_count() -> None:
    recent = RecentFigures(keep_s=100)
    for second in range(200):
        recent.add([ReleaseFigures(answered=10 * second)], float(second))
    assert recent.between(0, 150, 160).answered == 100
    assert recent.between(0, 0, 110).answered == 110, "1,100 less the 990 that were counted 100 s ago"
    recent.began(0, 155)
    assert recent.between(0, 150, 160).answered == 50
    assert recent.between(0, 300, 400).answered == 0


def test_the_watch_says_how_far_it_is_and_ends() -> None:
    simulation = Simulation(before=USUAL, since=lambda _: USUAL, settings=Settings(release_watch_s=20))
    seconds = [second for second, _ in simulation.seconds()]
    assert seconds == list(np.arange(1.0, 21.0))
    progress = simulation.watch.progress()
    assert "release 'new' for 'feed' is watched for 20 of 20 s" in progress and "mean score 0.3" in progress
