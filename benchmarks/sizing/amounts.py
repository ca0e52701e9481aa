"""Amount: a number to plan with, and the range in which it is expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """``low`` <= ``value`` <= ``high``, finite and not negative; sums and products keep the range's ends.

    >>> Amount(2.0, 1.0, 4.0) * 10 + Amount(1.0)
    Amount(value=21.0, low=11.0, high=41.0)
    >>> Amount(8.0) / Amount(2.0, 1.0, 4.0)
    Amount(value=4.0, low=2.0, high=8.0)
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __post_init__(self) -> None:
        for end in ("low", "high"):
            if math.isnan(getattr(self, end)):
                object.__setattr__(self, end, self.value)
        if not 0 <= self.low <= self.value <= self.high < math.inf:
            raise ValueError(f"amount {self.value} from {self.low} to {self.high}; allowed: 0 <= low <= value <= high")

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, other: Amount | float) -> Amount:
        by = other if isinstance(other, Amount) else Amount(other)
        return Amount(self.value * by.value, self.low * by.low, self.high * by.high)

    def __truediv__(self, other: Amount | float) -> Amount:
        by = other if isinstance(other, Amount) else Amount(other)
        return Amount(self.value / by.value, self.low / by.high, self.high / by.low)

    def whole(self) -> Amount:
        """Machines: rounded up, at least one. A sum that is a whole number but for rounding stays that."""
        return Amount(*(max(1.0, math.ceil(round(n, 6))) for n in (self.value, self.low, self.high)))

    def or_more(self, other: Amount) -> Amount:
        """The larger, end by end."""
        return Amount(max(self.value, other.value), max(self.low, other.low), max(self.high, other.high))


def total(amounts: Sequence[Amount]) -> Amount:
    """Their sum."""
    return sum(amounts, Amount(0.0))
