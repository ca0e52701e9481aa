"""StateInputs: the ``user`` graph's inputs of a user's past, made of sums and the newest events.

``R`` rows, ``D`` width, ``S`` events.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from recsys.arrays import Float32Array
from recsys.features.history.records import Events, HistoryHeader
from recsys.serving.long_history.window import (
    EventSpan,
    PartialSums,
    WindowPolicy,
    counting,
    may_count_later,
    older_may_count,
)

_CLOCK_SLACK_MS = 1_000
"""A state of a time further ahead would be of no use until then: it is not written."""


class StateInputs(NamedTuple):
    """Inputs of the ``user`` graph of a user's past.

    Attributes:
        events: of the ``history.<name>`` inputs, oldest first: those that the sums do not cover, and at least the
            newest that the model reads one by one; shape [S].
        sums: of the events covered, float32 [R, D]; not to be written to.
        fresh: 1 for an event that the sums do not cover, float32 [max(S, 1)].
        partial: True if events that count were left out.
        base: where the sums come from.
        fresh_count: events that the sums do not cover.
        end: number of the first event after those; -1 if sums and fresh events together are no state to store.
        time_ms: the request's.
        replaces: True if a state is stored that is of no use.
    """

    events: Events
    sums: Float32Array
    fresh: Float32Array
    partial: bool
    base: PartialSums
    fresh_count: int
    end: int
    time_ms: int
    replaces: bool = False

    @property
    def covered(self) -> int:
        """Events in the sums."""
        return self.base.covered

    @property
    def history_events(self) -> int:
        """Events that the model looks at."""
        return self.covered + self.fresh_count


def fold(
    policy: WindowPolicy,
    base: PartialSums,
    span: EventSpan,
    header: HistoryHeader,
    time_ms: int,
    *,
    anyway: bool = False,
) -> StateInputs | None:
    """Join sums and the events of a span that they do not cover; None if that is not all that counts, or too much.

    Args:
        policy: of the bundle.
        base: sums of events that end within the span or right before it.
        span: up to the newest event.
        header: of the history.
        time_ms: the request's.
        anyway: never None.
    """
    mask = counting(policy, span.events, time_ms)
    places = np.flatnonzero(mask) if mask is not None else None
    count = len(span.events) if places is None else len(places)
    skip = base.end - span.first
    fresh_count = count - (skip if places is None else int(np.searchsorted(places, skip)))
    if base.covered:
        surplus = base.covered + fresh_count > policy.recent
        fits = not surplus and base.first >= header.trimmed and base.first_ms >= policy.oldest_ms(time_ms)
        wanted = policy.newest
    else:
        fits, wanted = True, policy.recent
        fresh_count = min(fresh_count, policy.recent)
    if not anyway and not (fits and (count >= wanted or not older_may_count(policy, span, header.trimmed, time_ms))):
        return None
    successive = base.complete and base.whole
    if fresh_count:
        place = count - fresh_count if places is None else int(places[count - fresh_count])
        if not base.covered:
            successive &= count >= policy.recent or not may_count_later(policy, span, place, time_ms)
            base = base._replace(
                first=span.first + place, end=span.first + place, first_ms=int(span.events["timestamp"][place])
            )
        successive &= span.first + place == base.end
        successive &= places is None or int(places[-1]) - place == fresh_count - 1
    kept = max(fresh_count, min(count, policy.newest))
    newest = slice(count - kept, count)
    fresh = np.zeros(max(kept, 1), dtype=np.float32)
    fresh[kept - fresh_count : kept] = 1.0
    storable = successive and time_ms <= time.time() * 1000 + _CLOCK_SLACK_MS
    return StateInputs(
        span.events[newest] if places is None else span.events[places[newest]],
        base.sums,
        fresh,
        not base.complete,
        base,
        fresh_count,
        base.end + fresh_count if storable and base.covered + fresh_count else -1,
        time_ms,
    )
