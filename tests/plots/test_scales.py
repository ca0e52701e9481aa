"""Ticks and labels of axes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.plots.scales import label_text, ticks


@given(st.floats(1e-6, 1e9), st.floats(1.001, 1e6), st.booleans())
def test_ticks_are_round_rising_and_within_the_axis(low: float, factor: float, log: bool) -> None:
    high = low * factor
    found = ticks(low, high, log=log)
    assert found == sorted(set(found))
    assert len(found) <= 20
    for tick in found:
        assert low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.7305, "0.7305"), (40, "40"), (12_500, "12.5k"), (3e6, "3M"), (-2e9, "-2G")]
)
def test_labels_are_short(value: float, text: str) -> None:
    assert label_text(value) == text
