"""Calibration against its definition, in bins that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InvalidInputError
from recsys.metrics import calibration_error, reliability

samples = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.05, 0.2, 0.21, 0.5, 0.99, 1.0])), min_size=1)


@given(samples, st.integers(1, 12))
def test_bins_of_equal_width_are_those_of_the_definition(rows: list[tuple[int, float]], bins: int) -> None:
    labels, probabilities = np.array([y for y, _ in rows]), np.array([p for _, p in rows])
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        own = [(y, p) for y, p in rows if low <= p < high or (number == bins - 1 and p == 1.0)]
        if own:
            total += len(own) * abs(sum(p for _, p in own) / len(own) - sum(y for y, _ in own) / len(own))
    table = reliability(labels, probabilities, bins=bins, equal_mass=False)
    assert calibration_error(table) == pytest.approx(total / len(rows))


@given(samples, st.integers(1, 12))
def test_equal_probabilities_are_in_one_bin_and_no_sample_is_lost(rows: list[tuple[int, float]], bins: int) -> None:
    labels, probabilities = np.array([y for y, _ in rows]), np.array([p for _, p in rows])
    table = reliability(labels, probabilities, bins=bins)
    assert table.samples_K.sum() == len(rows)
    assert (np.diff(table.predicted_K) > 0).all()
    assert (table.predicted_K * table.samples_K).sum() == pytest.approx(probabilities.sum())
    assert (table.observed_K * table.samples_K).sum() == pytest.approx(labels.sum())


def test_bins_hold_equally_many_samples_where_probabilities_differ() -> None:
    probabilities = np.random.Generator(np.random.PCG64(0)).random(1000)
    assert reliability(np.arange(1000) % 2, probabilities, bins=10).samples_K.tolist() == [100] * 10


def test_labels_drawn_from_the_probabilities_are_calibrated_and_others_are_not() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    probabilities = random.random(100_000)
    labels = (random.random(100_000) < probabilities).astype(int)
    assert calibration_error(reliability(labels, probabilities)) < 0.01
    # p ** 2 lies below p by p - p ** 2, which is 1/6 on average.
    assert calibration_error(reliability(labels, probabilities**2)) == pytest.approx(1 / 6, abs=0.01)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"probabilities are in \[-0.5, 1.0\]; allowed: 0 to 1"):
        reliability(np.array([0, 1]), np.array([-0.5, 1.0]))
    with pytest.raises(InvalidInputError, match="bins is 0; allowed: 1 or more"):
        reliability(np.array([0, 1]), np.array([0.5, 1.0]), bins=0)
    assert np.isnan(calibration_error(reliability(np.zeros(0), np.zeros(0))))
