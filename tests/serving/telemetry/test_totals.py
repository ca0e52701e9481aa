"""Totals of a counter file: histograms and their quantiles."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.stage_timer import STAGES
from recsys.serving.telemetry.totals import Histogram, read_totals


def every_stage(us: int) -> list[int]:
    return [us] * len(STAGES)


@given(st.lists(st.integers(0, 40_000_000), max_size=50))
def test_a_histogram_counts_how_many_took_at_most_each_bound(times_us: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = create_counter_file(Path(folder) / "telemetry", workers=1, methods=["Rank"])
        telemetry = Telemetry(path)
        for us in times_us:
            telemetry.observe("Rank", every_stage(us))
        histograms = read_totals(path).stages("Rank").values()
    for histogram in histograms:
        assert histogram.at_most == tuple(sum(us <= bound for us in times_us) for bound in BOUNDS_US)
        assert (histogram.count, histogram.sum_us) == (len(times_us), sum(times_us))


def test_each_stage_of_each_method_has_its_own_histogram(tmp_path: Path) -> None:
    file = create_counter_file(tmp_path / "counts", workers=1, methods=["Rank", "AppendEvents", "Retrieve"])
    for place, method in enumerate(("Rank", "Retrieve")):
        Telemetry(file).observe(method, [10 * (number + 1) + place for number in range(len(STAGES))])
    for place, method in enumerate(("Rank", "Retrieve")):
        found = read_totals(file).stages(method)
        assert {s: h.sum_us for s, h in found.items()} == {s: 10 * (n + 1) + place for n, s in enumerate(STAGES)}
    assert not read_totals(file).stages("AppendEvents"), "it has no stages"


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_lies_in_the_bucket_of_the_true_one(share: float, file: Path) -> None:
    times_us = np.random.default_rng(0).lognormal(7, 1, size=2_000).astype(int)
    telemetry = Telemetry(file)
    for us in times_us.tolist():
        telemetry.observe("Rank", every_stage(us))
    true_us = np.quantile(times_us, share, method="inverted_cdf")
    upper = next(number for number, bound in enumerate(BOUNDS_US) if true_us <= bound)
    assert BOUNDS_US[upper - 1] <= read_totals(file).stages("Rank")["total"].quantile_us(share) <= BOUNDS_US[upper]


def test_a_quantile_of_nothing_is_zero_and_of_more_than_all_bounds_the_last() -> None:
    none = (0,) * len(BOUNDS_US)
    assert Histogram(none, 0, 0).quantile_us(0.5) == 0.0
    assert Histogram(none, 3, 60_000_000).quantile_us(0.5) == BOUNDS_US[-1]
