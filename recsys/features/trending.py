"""Trending: counts of events by item in which an event is worth half as much after each half-life.

The counts are kept in parts, one for each half-life of time. In a part an event counts 2^((t - begin) / half-life):
what it is worth grows with its time, so that no stored number ever has to be made smaller (forward decay: Cormode,
Shkapenyuk, Srivastava and Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009). A reader
multiplies each part by 2^((begin - now) / half-life), and the sum is exact. An old part goes as a whole, so the numbers
stay small and the memory bounded.

Legend: ``E`` events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recsys.arrays import Float64Array, Int64Array
from recsys.errors import InvalidInputError

PARTS = 9
"""Parts that are kept: the running one and eight before. Of an event that goes 1/256 or less is left."""

_LEAST_S, _MOST_S = 60, 10 * 366 * 86_400
_LARGEST = 1e6


@dataclass(frozen=True, kw_only=True)
class Trending:
    """Counts of events that a store keeps.

    Args:
        half_life_s: seconds after which an event counts half; 60 to ten years.
        attribute: of the history, by whose value an event weighs; empty: every event weighs 1.
        weights: value of the attribute, as it is in a log, and the weight of such an event; 0 for no count.
        other: weight of an event of another value, or of none.

    Raises:
        InvalidInputError: a number is out of range, or there are weights and no attribute.
    """

    half_life_s: int = 86_400
    attribute: str = ""
    weights: tuple[tuple[int | str, float], ...] = ()
    other: float = 1.0

    def __post_init__(self) -> None:
        if not _LEAST_S <= self.half_life_s <= _MOST_S:
            raise InvalidInputError(
                f"trending: half_life_s is {self.half_life_s}; allowed: {_LEAST_S} to {_MOST_S:,} seconds"
            )
        if self.weights and not self.attribute:
            raise InvalidInputError(
                "trending: there are weights and no attribute; name the one whose values they are of"
            )
        for value, weight in (*self.weights, ("other", self.other)):
            if not (math.isfinite(weight) and 0 <= weight <= _LARGEST):
                raise InvalidInputError(f"trending: the weight of {value!r} is {weight}; allowed: 0 to {_LARGEST:,.0f}")

    @property
    def half_life_ms(self) -> int:
        """Milliseconds of a half-life, and of a part."""
        return 1000 * self.half_life_s

    @property
    def window_s(self) -> int:
        """Seconds for which every event counts: the parts before the running one. One that is older may, or may not."""
        return (PARTS - 1) * self.half_life_s

    def begins_ms(self, now_ms: int) -> list[int]:
        """Begins of the parts that are kept, newest first, ms since 1970."""
        newest = now_ms // self.half_life_ms * self.half_life_ms
        return [newest - place * self.half_life_ms for place in range(PARTS)]

    def counted(self, time_ms_E: Int64Array, weight_E: Float64Array) -> tuple[Int64Array, Float64Array]:
        """Begin of the part that each event belongs to, ms since 1970, and what it counts there.

        >>> begin_E, count_E = Trending(half_life_s=60).counted(np.array([60_000, 90_000]), np.ones(2))
        >>> begin_E.tolist(), count_E.round(3).tolist()
        ([60000, 60000], [1.0, 1.414])
        """
        begin_E: Int64Array = time_ms_E // self.half_life_ms * self.half_life_ms
        count_E: Float64Array = weight_E * np.exp2((time_ms_E - begin_E) / self.half_life_ms)
        return begin_E, count_E

    def worth(self, begin_ms: int, now_ms: int) -> float:
        """Factor of a part's counts at a moment.

        >>> Trending(half_life_s=60).worth(60_000, 180_000)
        0.25
        """
        return float(2.0 ** ((begin_ms - now_ms) / self.half_life_ms))
