"""Token buckets, by their definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recsys.serving.rpc.access import usage
from recsys.serving.rpc.access.quotas import Quotas
from recsys.serving.rpc.access.usage import Usage, quota_hash, usage_file


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


@pytest.fixture
def shared(clock: Clock) -> Iterator[list[Quotas]]:
    """Quotas of three workers of a server."""
    with usage_file(workers=3) as path:
        yield [Quotas(clock=clock, usage=Usage(path, worker=worker)) for worker in range(3)]


def test_workers_take_from_a_bucket_together(shared: list[Quotas], clock: Clock) -> None:
    for idle_s in (0.0, 1.0, 3_600.0):
        clock.now_s += idle_s
        let_through = [quotas.take("a", "calls", 7.0) == 0 for _ in range(4) for quotas in shared]
        assert let_through == [True] * 7 + [False] * 5
    clock.now_s += 2 / 7
    assert [quotas.take("a", "calls", 7.0) for quotas in shared] == [0, 0, pytest.approx(1 / 7)]
    assert shared[0].take("a", "events", 7.0) == shared[0].take("b", "calls", 7.0) == 0, "others have their own"


def test_two_that_take_the_last_at_once_are_both_counted(shared: list[Quotas], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second looks before the first has written."""
    for _ in range(3):
        assert shared[0].take("a", "calls", 4.0) == 0
    second = shared[1]._usage
    assert second is not None
    before = second.by_others(quota_hash("a", "calls"))
    assert shared[0].take("a", "calls", 4.0) == 0
    with monkeypatch.context() as at_once:
        at_once.setattr(second, "by_others", lambda quota: before)
        assert shared[1].take("a", "calls", 4.0) == 0
    assert [quotas.take("a", "calls", 4.0) for quotas in shared[:2]] == pytest.approx([0.5, 0.5]), "one was too many"


def test_over_time_all_workers_together_let_through_the_rate(shared: list[Quotas], clock: Clock) -> None:
    """However a caller spreads its calls."""
    seconds, rate, let_through = 60, 10.0, 0
    for second in range(seconds):
        for part in range(40):
            clock.now_s += 1 / 40
            quotas = shared[part % 3] if second % 2 else shared[second // 2 % 3]
            let_through += quotas.take("a", "calls", rate) == 0
    assert rate * seconds <= let_through <= rate * seconds + rate


def test_one_connection_gets_the_whole_rate_though_there_are_more_workers(shared: list[Quotas], clock: Clock) -> None:
    let_through = 0
    for _ in range(1_000):
        clock.now_s += 0.01
        let_through += shared[1].take("a", "calls", 10.0) == 0
    assert 109 <= let_through <= 110


def test_what_costs_more_than_a_bucket_is_paid_for_by_all_workers(shared: list[Quotas], clock: Clock) -> None:
    assert shared[0].take("a", "events", 10.0, 50) == 0
    assert [quotas.take("a", "events", 10.0, 1) for quotas in shared] == pytest.approx([4.1] * 3)
    clock.now_s += 4.1
    assert shared[1].take("a", "events", 10.0, 1) == 0


def test_a_worker_that_is_started_anew_knows_what_the_others_took(clock: Clock) -> None:
    with usage_file(workers=2) as path:
        first, second = (Quotas(clock=clock, usage=Usage(path, worker=worker)) for worker in range(2))
        assert [quotas.take("a", "calls", 4.0) for quotas in (second, second, first, second)] == [0] * 4
        again = Quotas(clock=clock, usage=Usage(path, worker=1))
        assert again.take("a", "calls", 4.0) == 0, "the first knows of three: its last own look was before the fourth"
        assert first.take("a", "calls", 4.0) == pytest.approx(0.5), "five were taken of four"


def test_of_like_hashes_the_ones_used_last_are_shared() -> None:
    alike = [1 + number * usage._SETS for number in range(12)]
    with usage_file(workers=2) as path:
        one, other = Usage(path, worker=0), Usage(path, worker=1)
        for number in range(1, 10):
            one.add(alike[number], 10 * number, now_s=number, level=-0.5)
        assert [other.by_others(alike[number])[0].amount for number in (1, 2, 9)] == [0, 20, 90]
        one.add(alike[2], 1, now_s=10, level=2.25)
        one.add(alike[11], 5, now_s=11, level=0)
        assert [other.by_others(alike[number]) for number in (2, 3)] == [[(21, 10.0, 2.25)], [usage.NOTHING]]
        assert other.by_others(alike[9]) == [(90, 9.0, -0.5)]
        assert one.by_others(alike[2]) == [usage.NOTHING]
