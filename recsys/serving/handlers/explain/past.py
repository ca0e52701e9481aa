"""Pasts: a user's history as the ``user`` graph reads it, whole, without some of its events, or empty.

Leaving out an event changes nothing else: no event from before those that the model looks at takes its place. Of a
model with a state (SDIM) older events are there as sums alone; one of them is taken out of the sums.

Shapes use ``S`` events, ``R`` rows and ``D`` width of a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.arrays import Float32Array
from recsys.features.columns import Column
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, encode_history
from recsys.serving.inference.ranking_session import RankingSession
from recsys.serving.long_history.inputs import StateInputs
from recsys.serving.long_history.window import without_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Inputs of the ``user`` graph that are of past events.

    Attributes:
        columns: ``history.<name>``, [max(S, 1)]; empty for a FeatureSet without a history.
        events: S.
        sums, fresh: as of ``RankingSession.score``.
    """

    columns: Mapping[str, Column]
    events: int = 0
    sums: Float32Array | None = None
    fresh: Float32Array | None = None


class Pasts(Protocol):
    """Variants of a user's history."""

    @property
    def seen(self) -> Events:
        """Events that can be left out one by one, oldest first."""
        ...

    @property
    def count(self) -> int:
        """Number of events that the model looks at; those before ``seen`` among them."""
        ...

    def whole(self) -> Past:
        """The history as it is served."""
        ...

    def nothing(self) -> Past:
        """No history."""
        ...

    def without(self, place: int) -> Past:
        """All but one event of ``seen``."""
        ...

    def newest(self, count: int) -> Past:
        """Only so many of the newest of ``seen``."""
        ...


class PlainPasts:
    """Pasts of a model that reads its events one by one.

    Args:
        features: of the model; may declare no history.
        events: that count, oldest first; the newest ``recent`` are read.
    """

    def __init__(self, features: FeatureSet, events: Events) -> None:
        self._features = features
        self.seen: Events = events[:0] if features.history is None else events[-features.history.recent :]

    @property
    def count(self) -> int:
        """See :class:`Pasts`."""
        return len(self.seen)

    def whole(self) -> Past:
        """See :class:`Pasts`."""
        return self._past(self.seen)

    def nothing(self) -> Past:
        """See :class:`Pasts`."""
        return self._past(self.seen[:0])

    def without(self, place: int) -> Past:
        """See :class:`Pasts`."""
        return self._past(np.delete(self.seen, place))

    def newest(self, count: int) -> Past:
        """See :class:`Pasts`."""
        return self._past(self.seen[len(self.seen) - count :])

    def _past(self, events: Events) -> Past:
        if self._features.history is None:
            return Past(columns={})
        return Past(columns=encode_history(self._features, events), events=len(events))


class SummedPasts:
    """Pasts of a model with a state.

    Args:
        session: the model.
        inputs: its inputs of the past, as they are served.
        stored: newest events of the history that count, at least those of ``inputs``.
    """

    def __init__(self, session: RankingSession, inputs: StateInputs, stored: Events) -> None:
        assert session.state is not None
        self.session = session
        self._features = session.features
        self._inputs = inputs
        self._newest = session.state.newest
        self._no_sums = np.zeros((session.state.rows, session.state.width), dtype=np.float32)
        own = inputs.events
        # The history may have been written anew between two reads: then only the later one counts.
        same = len(stored) >= len(own) and np.array_equal(stored[len(stored) - len(own) :], own)
        events = stored if same else own
        self.seen: Events = events[max(0, len(events) - inputs.history_events) :]

    @property
    def count(self) -> int:
        """See :class:`Pasts`."""
        return self._inputs.history_events

    def whole(self) -> Past:
        """See :class:`Pasts`."""
        events, inputs = self._inputs.events, self._inputs
        columns = encode_history(self._features, events)
        return Past(columns=columns, events=len(events), sums=inputs.sums, fresh=inputs.fresh)

    def nothing(self) -> Past:
        """See :class:`Pasts`."""
        return self._past(self.seen[:0], self._no_sums, 0)

    def without(self, place: int) -> Past:
        """See :class:`Pasts`."""
        events, fresh_count = np.delete(self.seen, place), self._inputs.fresh_count
        if place >= len(self.seen) - fresh_count:
            return self._past(events, self._inputs.sums, fresh_count - 1)
        before = self._inputs.sums
        sums = before - self.sums(self.seen[place : place + 1])
        roundings = self._inputs.base.roundings + 1
        return self._past(events, without_noise(sums, before, roundings=roundings), fresh_count)

    def newest(self, count: int) -> Past:
        """See :class:`Pasts`."""
        events = self.seen[len(self.seen) - count :]
        fresh_count = min(self._inputs.fresh_count, count)
        summed = events[: count - fresh_count]
        return self._past(events, self.sums(summed) if len(summed) else self._no_sums, fresh_count)

    def sums(self, events: Events) -> Float32Array:
        """Sums of events, [R, D], by the ``encode`` graph."""
        return self.session.encode(encode_history(self._features, events))

    def _past(self, events: Events, sums: Float32Array, fresh_count: int) -> Past:
        kept = max(fresh_count, min(len(events), self._newest))
        fresh = np.zeros(max(kept, 1), dtype=np.float32)
        fresh[kept - fresh_count : kept] = 1.0
        read = events[len(events) - kept :]
        return Past(columns=encode_history(self._features, read), events=kept, sums=sums, fresh=fresh)
