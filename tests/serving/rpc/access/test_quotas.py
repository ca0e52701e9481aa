"""Token buckets, by their definition."""

from __future__ import annotations

import pytest

from recsys.serving.rpc.access.quotas import Quotas


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_bucket_holds_a_second_and_fills_at_its_rate(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    assert [quotas.take("a", "calls", 4.0) for _ in range(4)] == [0, 0, 0, 0]
    assert quotas.take("a", "calls", 4.0) == pytest.approx(0.25)
    clock.now_s += 0.25
    assert quotas.take("a", "calls", 4.0) == 0
    assert quotas.take("a", "calls", 4.0) == pytest.approx(0.25)
    clock.now_s += 3_600
    assert [quotas.take("a", "calls", 4.0) > 0 for _ in range(5)] == [False, False, False, False, True]


def test_less_than_one_a_second_is_one_now_and_then(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    assert quotas.take("a", "calls", 0.1) == 0
    assert quotas.take("a", "calls", 0.1) == pytest.approx(10.0)
    clock.now_s += 10
    assert quotas.take("a", "calls", 0.1) == 0


def test_what_costs_more_than_a_full_bucket_is_let_through_and_paid_for_afterwards(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    assert quotas.take("a", "events", 10.0, 50) == 0
    assert quotas.take("a", "events", 10.0, 1) == pytest.approx(4.1)
    clock.now_s += 4.1
    assert quotas.take("a", "events", 10.0, 1) == 0


def test_identities_and_kinds_have_buckets_of_their_own(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    taken = [quotas.take(name, kind, 1.0) for name in ("a", "b") for kind in ("calls", "events")]
    assert taken == [0, 0, 0, 0]
    assert quotas.take("a", "calls", 1.0) > 0


def test_without_a_rate_there_is_no_bound_and_nothing_is_remembered(clock: Clock) -> None:
    quotas = Quotas(clock=clock)
    assert all(quotas.take("a", "calls", None) == 0 for _ in range(100)) and len(quotas) == 0


def test_so_many_identities_are_remembered_and_no_more(clock: Clock) -> None:
    quotas = Quotas(most=10, clock=clock)
    for number in range(1_000):
        quotas.take(f"caller {number}", "calls", 1.0)
    assert len(quotas) == 20
    assert quotas.take("caller 999", "calls", 1.0) > 0
    assert quotas.take("caller 0", "calls", 1.0) == 0, "the one that was forgotten begins with a full bucket"
