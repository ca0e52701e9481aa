"""Drift of scores: the index, and what is compared with what."""

from __future__ import annotations

import math

import pytest

from recsys.serving.telemetry.drift import FIRST, Drift, stability_index


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_index_is_the_sum_over_buckets_that_its_definition_says() -> None:
    before, lately = [3_000, 1_000], [2_000, 2_000]
    q = [3_000.5 / 4_001, 1_000.5 / 4_001]
    p = [0.5, 0.5]
    expected = sum((mine - other) * math.log(mine / other) for mine, other in zip(p, q, strict=True))
    assert stability_index(before, lately) == pytest.approx(expected, abs=1e-6)


def test_an_empty_bucket_makes_no_infinity_and_few_scores_say_nothing() -> None:
    assert 1 < (stability_index([2_000, 0], [0, 2_000]) or 0) < 100
    assert stability_index([999, 0], [500, 500]) is None and stability_index([500, 500], [999, 0]) is None


def test_a_release_is_compared_with_the_one_it_took_over_from() -> None:
    clock = Clock()
    drift = Drift(clock=clock)
    drift.came("new", (5_000, 5_000))
    assert drift.read("new", (10, 10)) is None, "too few yet"
    clock.now_s = 120.0
    assert drift.read("new", (2_000, 2_000)) == pytest.approx(0.0, abs=1e-3)
    assert (drift.read("new", (20_000, 2_000)) or 0) > 0.25


def test_a_predecessor_with_few_scores_is_none() -> None:
    drift = Drift(clock=Clock())
    drift.came("new", (5, 5))
    assert drift.read("new", (5_000, 5_000)) is None, "its own first ones are not all there"


def test_the_first_release_is_compared_with_its_own_first_scores() -> None:
    clock = Clock()
    drift = Drift(clock=clock)
    drift.came("only", None)
    half = FIRST // 2
    assert drift.read("only", (half, half)) is None
    clock.now_s += 700
    assert drift.read("only", (half + 5_000, half)) == pytest.approx(
        stability_index((half, half), (5_000, 0)) or -1, abs=1e-6
    )


def test_what_is_older_than_ten_minutes_does_not_count() -> None:
    clock = Clock()
    drift = Drift(clock=clock)
    drift.came("new", (5_000, 5_000))
    scores = [0, 0]
    for _ in range(10):  # ten minutes in which all lie in the first bucket
        scores[0] += 1_000
        drift.read("new", (scores[0], scores[1]))
        clock.now_s += 60
    assert (drift.read("new", (scores[0], scores[1])) or 0) > 0.25
    for _ in range(11):
        scores = [scores[0] + 500, scores[1] + 500]
        drift.read("new", (scores[0], scores[1]))
        clock.now_s += 60
    assert drift.read("new", (scores[0], scores[1])) == pytest.approx(0.0, abs=1e-3)


def test_a_release_that_went_is_forgotten() -> None:
    drift = Drift(clock=Clock())
    drift.came("a", (5_000, 5_000))
    drift.went("a")
    assert drift.read("a", (5_000, 5_000)) is None
