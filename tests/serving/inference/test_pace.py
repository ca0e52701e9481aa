"""A pace is what was measured lately, whatever it was before, and one slow moment hardly moves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.inference.pace import Pace, Work, together


def test_a_guess_holds_until_it_is_measured() -> None:
    assert Pace(0.002).seconds(50) == pytest.approx(0.1)


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_it_comes_to_what_is_measured_from_any_guess(guess_s: float, unit_s: float) -> None:
    pace = Pace(guess_s)
    for _ in range(200):
        pace.measured(7, took_s=7 * unit_s)
    assert pace.seconds(1) == pytest.approx(unit_s, rel=1e-3)


@given(st.floats(1.0, 1e9))
def test_one_slow_moment_moves_it_by_a_fifth_at_most(times_slower: float) -> None:
    pace = Pace(0.001)
    pace.measured(1, took_s=0.001 * times_slower)
    assert 0.001 <= pace.seconds(1) <= 0.0012 + 1e-9


def test_a_machine_that_stays_ten_times_slower_is_known_after_fifteen_measurements() -> None:
    pace = Pace(0.001)
    for _ in range(15):
        pace.measured(1, took_s=0.01)
    assert pace.seconds(1) > 0.005


@pytest.mark.parametrize(("small", "large"), [(9, 1), (1, 1), (1, 9)])
def test_requests_of_one_size_do_not_change_what_those_of_another_are_expected_to_take(small: int, large: int) -> None:
    fixed_s, unit_s, pace = 0.9e-3, 7e-6, Pace(1e-6)
    for _ in range(30):
        for units in [51] * small + [2_050] * large:
            pace.measured(units, took_s=fixed_s + units * unit_s)
    for units in (51, 250, 1_050, 2_050, 10_050):
        assert pace.seconds(units) == pytest.approx(fixed_s + units * unit_s, rel=0.1)


@given(st.lists(st.tuples(st.floats(1.0, 1e4), st.floats(1e-6, 10.0)), min_size=1, max_size=60))
def test_more_work_is_never_expected_to_take_less_and_none_to_take_less_than_nothing(
    measured: list[tuple[float, float]],
) -> None:
    pace = Pace(1e-5)
    for units, took_s in measured:
        pace.measured(units, took_s=took_s)
    assert 0.0 <= pace.seconds(0) + 1e-12
    assert pace.seconds(1) <= pace.seconds(100) <= pace.seconds(20_000)


def test_work_of_several_requests_is_their_sum_and_their_longest_piece() -> None:
    assert together([Work(3.0, 2.0), Work(1.0, 0.5), Work(4.0, 1.0)]) == Work(8.0, 2.0)
    assert together([]) == Work(0.0, 0.0)
