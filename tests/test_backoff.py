"""Waits between tries."""

from __future__ import annotations

import pytest

from recsys.backoff import backoff_s


@pytest.mark.parametrize("failures", [1, 2, 5, 8, 9, 2_000])
def test_a_wait_is_the_first_doubled_by_each_further_failure_up_to_the_longest(failures: int) -> None:
    longest = min(5.0, 0.05 * 2 ** min(failures - 1, 100))
    assert backoff_s(failures, first_s=0.05, longest_s=5.0) == pytest.approx(longest)
    waits = [backoff_s(failures, first_s=0.05, longest_s=5.0, jitter=0.5) for _ in range(500)]
    assert longest * 0.5 <= min(waits) < longest * 0.6 and longest * 0.9 < max(waits) <= longest


def test_without_a_failure_there_is_no_wait() -> None:
    assert backoff_s(0, first_s=0.05, longest_s=5.0, jitter=0.5) == 0.0 == backoff_s(-1, first_s=0.05, longest_s=5.0)
