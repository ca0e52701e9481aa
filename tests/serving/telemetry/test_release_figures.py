"""Figures of a release: exact sums over workers, differences of two readings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.errors import InvalidInputError
from recsys.releases.served import MAX_RELEASES
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.release_figures import ReleaseFigures, read_release_figures
from recsys.serving.telemetry.totals import read_totals


def test_each_slot_has_the_sum_of_all_workers_and_nothing_of_the_others(file: Path) -> None:
    for worker in (0, 1):
        telemetry = Telemetry(file, worker=worker)
        for slot in range(MAX_RELEASES):
            telemetry.answered(slot, 100 * (slot + 1), degraded=slot == 2, scores=10, score_sum=slot + 0.25)
            telemetry.failed(slot)
            for _ in range(3):
                telemetry.shadow_offered(slot)
            telemetry.shadow_scored(slot, 50, candidates=4, difference_sum=0.125 * slot, overlap=0.5)
            telemetry.shadow_retrieved(slot, 30, overlap=0.25)
            telemetry.shadow_dropped(slot)
            telemetry.shadow_failed(slot)
    for slot, found in enumerate(read_release_figures(file)):
        assert (found.answered, found.failed, found.degraded) == (2, 2, 2 * (slot == 2))
        assert (found.latency.count, found.latency.sum_us) == (2, 200 * (slot + 1))
        assert (found.scored, found.score_sum) == (20, 2 * (slot + 0.25))
        assert (found.shadow_offered, found.shadow_scored, found.shadow_dropped, found.shadow_failed) == (6, 4, 2, 2)
        assert (found.compared, found.difference_sum, found.overlap_sum) == (8, 0.25 * slot, 1.0)
        assert (found.shadow_latency.count, found.shadow_latency.sum_us) == (4, 160)
        assert found.mean_score == pytest.approx((slot + 0.25) / 10)
        assert found.mean_difference == pytest.approx(0.125 * slot / 4) and found.mean_overlap == 0.5
        assert (found.shadow_retrieved, found.mean_items_overlap) == (2, 0.25)
        assert found.error_share == 0.5 and found.degraded_share == (slot == 2)
    assert not any(read_totals(file).counters.values()), "no other counter is touched"


def test_sums_may_be_negative_and_a_sum_that_is_no_number_is_not_counted(file: Path) -> None:
    telemetry = Telemetry(file)
    telemetry.answered(0, 1, degraded=False, scores=1, score_sum=-2.5)
    telemetry.answered(0, 1, degraded=False, scores=1, score_sum=0.5)
    telemetry.answered(0, 1, degraded=False, scores=1, score_sum=float("nan"))
    found = read_release_figures(file)[0]
    assert (found.answered, found.scored, found.score_sum) == (3, 2, -2.0)


def test_two_readings_give_what_was_between_them(file: Path) -> None:
    telemetry = Telemetry(file)
    telemetry.answered(1, 10_000, degraded=False, scores=1, score_sum=0.9)
    before = read_release_figures(file)[1]
    telemetry.answered(1, 100, degraded=True, scores=3, score_sum=0.75)
    since = read_release_figures(file)[1] - before
    assert (since.answered, since.degraded, since.scored) == (1, 1, 3)
    assert since.score_sum == pytest.approx(0.75)
    assert since.latency.count == 1 and since.latency.quantile_us(0.99) <= 100
    assert since + before == read_release_figures(file)[1]


def test_figures_survive_json_and_those_of_another_program_are_refused(file: Path) -> None:
    Telemetry(file).answered(1, 100, degraded=True, scores=3, score_sum=0.75)
    found = read_release_figures(file)[1]
    values = json.loads(json.dumps(found.as_dict()))
    assert ReleaseFigures.from_dict(values) == found
    assert ReleaseFigures.from_dict({**values, "new": 1}) == found
    assert ReleaseFigures.from_dict({}) == ReleaseFigures()
    values["latency"]["at_most"].pop()
    with pytest.raises(InvalidInputError, match="latency: 36 buckets; this program's histograms have 37"):
        ReleaseFigures.from_dict(values)
