"""Two readings of a page to rates and percentiles."""

from __future__ import annotations

import pytest

from recsys.top.figures import figures_between
from recsys.top.page import Page, PageAwayError, parse_page

BEFORE = """
recsys_workers 2
recsys_workers_serving 2
recsys_requests_total{method="Rank",code="OK"} 100
recsys_requests_total{method="Rank",code="INTERNAL"} 5
recsys_call_seconds_bucket{method="Rank",le="0.01"} 100
recsys_call_seconds_bucket{method="Rank",le="0.1"} 105
recsys_call_seconds_bucket{method="Rank",le="+Inf"} 105
recsys_release_score_sum{release="r",model="m"} -3
recsys_release_score_count{release="r",model="m"} 10
recsys_model_info{model="m",version="v",release="r",role="live"} 1
recsys_restarts_total{reason="died"} 1
"""
NOW = """
recsys_workers 2
recsys_workers_serving 1
recsys_calls_in_flight{method="Rank"} 3
recsys_requests_total{method="Rank",code="OK"} 300
recsys_requests_total{method="Rank",code="INTERNAL"} 15
recsys_requests_total{method="Rank",code="INVALID_ARGUMENT"} 4
recsys_call_seconds_bucket{method="Rank",le="0.01"} 200
recsys_call_seconds_bucket{method="Rank",le="0.1"} 305
recsys_call_seconds_bucket{method="Rank",le="+Inf"} 305
recsys_release_calls_total{release="r",model="m",outcome="answered"} 50
recsys_release_calls_total{release="r",model="m",outcome="failed"} 50
recsys_release_score_sum{release="r",model="m"} -4
recsys_release_score_count{release="r",model="m"} 14
recsys_model_info{model="m",version="v",release="r",role="live"} 1
recsys_restarts_total{reason="died"} 3
recsys_degraded_total{part="user"} 6
"""


def page(text: str, at_s: float) -> Page:
    return parse_page(text.lstrip(), at_s=at_s)


def test_rates_are_differences_over_the_time_between_and_faults_are_not_the_callers() -> None:
    found = figures_between(page(BEFORE, 10.0), page(NOW, 12.0))
    (rank,) = found.methods
    assert (rank.calls_per_s, rank.failed_per_s, rank.rejected_per_s) == (107.0, 5.0, 2.0)
    assert (rank.in_flight, found.workers_serving, found.workers) == (3, 1, 2)
    assert (found.restarts, found.new_restarts) == (3, 2)
    assert found.degraded_per_s == {"user": 3.0}
    (release,) = found.releases
    assert release.failed_share == 0.5 and release.calls_per_s == 50.0
    assert release.mean_score == -0.25, "sums of scores may fall"


def test_percentiles_are_of_the_calls_between_the_readings() -> None:
    (rank,) = figures_between(page(BEFORE, 0.0), page(NOW, 1.0)).methods
    # 100 of 200 within 10 ms, the others evenly up to 100 ms.
    assert rank.p50_s == pytest.approx(0.01) and rank.p99_s == pytest.approx(0.01 + 0.09 * 0.98)
    (idle,) = figures_between(page(NOW, 0.0), page(NOW, 1.0)).methods
    assert (idle.p50_s, idle.p99_s, idle.calls_per_s) == (None, None, 0.0)


def test_a_counter_that_fell_began_anew() -> None:
    restarted = 'recsys_requests_total{method="Rank",code="OK"} 40\n'
    (rank,) = figures_between(page(BEFORE, 0.0), page(restarted, 1.0)).methods
    assert rank.calls_per_s == 40.0


@pytest.mark.parametrize("text", ["<html>no</html>", "process_cpu_seconds_total 1\n", ""])
def test_what_is_no_page_of_a_server_is_refused(text: str) -> None:
    with pytest.raises(PageAwayError, match="what answers is"):
        parse_page(text, at_s=0.0)
