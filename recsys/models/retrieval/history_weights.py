"""Weights of the events of a history, for models that know a user by them.

An event's weight is that of its action, halved for every so many events, or days, that lie between it and the newest
event. An item that comes several times has the largest of its weights.

Legend: ``S`` events of a history, oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import Float32Array, Int64Array

DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class HistoryWeights:
    """Weights by action and by recency. The default: 1 for every event.

    Attributes:
        attribute: of the history, whose values are actions; empty: none counts.
        actions: key of an action -> its weight.
        other: weight of an action that is not among these, and of a missing one.
        half_life_events: events after which a weight is halved; 0: never.
        half_life_days: days before the newest event after which it is halved; 0: never.
    """

    attribute: str = ""
    actions: tuple[tuple[int, float], ...] = ()
    other: float = 1.0
    half_life_events: float = 0.0
    half_life_days: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.attribute} {dict(self.actions)}, other {self.other:g}"] if self.attribute else []
        parts += [f"halved every {self.half_life_events:g} events"] if self.half_life_events else []
        parts += [f"halved every {self.half_life_days:g} days"] if self.half_life_days else []
        return "events weigh by " + ", ".join(parts) if parts else "all events weigh the same"

    @property
    def reads_time(self) -> bool:
        """True if the weights depend on the events' times."""
        return self.half_life_days > 0

    def of(
        self,
        *,
        newer_S: Int64Array,
        age_ms_S: Int64Array | None = None,
        action_S: Int64Array | None = None,
    ) -> Float32Array:
        """Weights of events, [S].

        Args:
            newer_S: events of the history that come after each.
            age_ms_S: time from each to the newest event of its history; None: unknown, as if there were none.
            action_S: the attribute's keys; None: unknown, so that each has the weight 1.

        >>> HistoryWeights(half_life_events=1).of(newer_S=np.array([2, 1, 0])).tolist()
        [0.25, 0.5, 1.0]
        """
        weight_S = np.ones(len(newer_S), dtype=np.float32)
        if self.attribute and action_S is not None:
            weight_S = np.full(len(newer_S), self.other, dtype=np.float32)
            for key, weight in self.actions:
                weight_S[action_S == key] = weight
        if self.half_life_events:
            weight_S *= np.exp2(-newer_S / self.half_life_events).astype(np.float32)
        if self.half_life_days and age_ms_S is not None:
            weight_S *= np.exp2(-age_ms_S / (self.half_life_days * DAY_MS)).astype(np.float32)
        return weight_S
