"""Explanations give way to calls that are being answered, and are made all the same."""

from __future__ import annotations

import pytest

from recsys.serving.handlers.explain import parts


class Clock:
    """Time that passes by sleeping alone; others are being answered until a moment."""

    def __init__(self, others_until_s: float) -> None:
        self.now_s, self.others_until_s, self.slept = 0.0, others_until_s, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def give_way(self) -> None:
        parts.give_way(lambda: self.now_s < self.others_until_s, sleep=self.sleep, clock=lambda: self.now_s)


@pytest.mark.parametrize(
    ("others_until_s", "ends_s"),
    [(0.0, parts._STEP_S), (0.0031, 0.0035), (1e9, parts._LONGEST_PAUSE_S)],
    ids=["alone", "until they are answered", "no longer than that"],
)
def test_a_pause_ends_with_the_last_of_the_others_or_when_it_was_long_enough(
    others_until_s: float, ends_s: float
) -> None:
    clock = Clock(others_until_s)
    clock.give_way()
    assert ends_s - 1e-9 <= clock.now_s < ends_s + 1.5 * parts._STEP_S
    assert set(clock.slept) == {parts._STEP_S}
