"""The sums of a user's long history: from a stored state where it fits, else from the events, some at a time.

Every function reads what it needs over a :class:`Reader`, which stops in time. Events have numbers
(``FeatureStore.span``). ``R`` rows, ``D`` width, ``L`` events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.arrays import BoolArray, Float32Array
from recsys.errors import StoreUnavailableError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.redis.values.state import StoredState, record_hash
from recsys.features.columns import Column
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, HistoryHeader, encode_history, require_history

Encode = Callable[[dict[str, Column]], Float32Array]
"""The ``encode`` graph: columns ``history.<name>``, [L], to sums, [R, D]."""

BLOCK = 1_024
"""Events read and encoded at a time: some 0.7 ms, after which the time is looked at again."""

_MORE = 8
"""Factor by which more events are read where the newest ones did not do."""


class OutOfTime(Exception):
    """The time is over before everything is read."""


class Rewritten(Exception):
    """The history was rewritten: numbers no longer mean the events that they meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPolicy:
    """The events of a history that a model with a state sees, and the graph that sums them.

    Attributes:
        features: declares the history.
        encode: makes sums of events.
        shape: of the sums.
        newest: events that the model reads one by one.
        record_bytes: size of an event that the FeatureSet declares; new attributes are stored behind it.
    """

    features: FeatureSet
    encode: Encode
    shape: tuple[int, int]
    newest: int
    record_bytes: int

    @property
    def recent(self) -> int:
        """Number of the newest events that count."""
        return require_history(self.features).recent

    def oldest_ms(self, time_ms: int) -> int:
        """Events before this time do not count at ``time_ms``."""
        max_age_s = require_history(self.features).max_age_s
        return time_ms - 1000 * max_age_s if max_age_s else 0

    def record_hash(self, events: Events, index: int) -> int:
        """Hash of one event as the model knows it: a store that has more attributes by now tells the same."""
        return record_hash(events, index, size_bytes=self.record_bytes)

    def sums(self, events: Events) -> Float32Array:
        """The sums of some events, [R, D]."""
        return self.encode(encode_history(self.features, events))


class EventSpan(NamedTuple):
    """Events with successive numbers: that of the first, and the events."""

    first: int
    events: Events


class PartialSums(NamedTuple):
    """Sums of events before the ones that a request looks at.

    Attributes:
        sums: float32, [R, D].
        covered: events in them.
        first, end: numbers of the first event and of the first after the last one.
        first_ms: timestamp of the first.
        last_hash: ``record_hash`` of the last.
        complete: True if they are all events that should be in them.
        whole: True if every number from first to end is in them, so that they can be stored.
        roundings: of the state that they come from.
        changed: events added to, and taken from, that state.
        stored: True if they come from a state.
    """

    sums: Float32Array
    covered: int
    first: int
    end: int
    first_ms: int = -1
    last_hash: int = 0
    complete: bool = True
    whole: bool = True
    roundings: int = 0
    changed: int = 0
    stored: bool = False


class Reader:
    """Reads a user's events by number until it is too late.

    Args:
        store: where they are.
        user_key: whose.
        header: the counters that go with the numbers.
        until_s: ``time.monotonic`` seconds.
    """

    def __init__(self, store: BlockingFeatureStore, user_key: int, header: HistoryHeader, until_s: float) -> None:
        self.header = header
        self._store = store
        self._user_key = user_key
        self._until_s = until_s

    def read(self, first: int, end: int) -> EventSpan:
        """The events first:end that are still stored.

        Raises:
            OutOfTime: it is too late.
            Rewritten: the history was changed elsewhere than at its end.
            StoreError: it cannot be read.
        """
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise OutOfTime
        try:
            span = self._store.span(self._user_key, first, end, header=self.header, timeout_s=left_s)
        except StoreUnavailableError:
            if time.monotonic() >= self._until_s:
                raise OutOfTime from None
            raise
        if span.header.rewritten != self.header.rewritten or span.header.appended < self.header.appended:
            raise Rewritten
        self.header = span.header
        return EventSpan(span.first, span.events)


def counting(policy: WindowPolicy, events: Events, time_ms: int) -> BoolArray | None:
    """Mask of the events that count at a time, [L]; None if all do, as they do as a rule."""
    times, arrivals, oldest_ms = events["timestamp"], events["arrival"], policy.oldest_ms(time_ms)
    if not len(events) or (times[-1] < time_ms and times[0] >= oldest_ms and arrivals.max() <= time_ms):
        return None
    mask: BoolArray = (times < time_ms) & (times >= oldest_ms) & (arrivals <= time_ms)
    return mask


def older_may_count(policy: WindowPolicy, span: EventSpan, trimmed: int, time_ms: int) -> bool:
    """True if there are events before a span that may count."""
    if span.first <= trimmed:
        return False
    return not len(span.events) or int(span.events["timestamp"][0]) >= policy.oldest_ms(time_ms)


def may_count_later(policy: WindowPolicy, span: EventSpan, before: int | None, time_ms: int) -> bool:
    """True if events of a span before the first that counts do not count because they had not arrived by then.

    A state of the events after them would lack them later.
    """
    times = span.events["timestamp"][:before]
    return len(times) > 0 and int(times[-1]) >= policy.oldest_ms(time_ms)


def enough_events(policy: WindowPolicy, reader: Reader, span: EventSpan, time_ms: int) -> EventSpan:
    """The span, or a longer one with as many events that count as the model reads one by one, or all there are."""
    while older_may_count(policy, span, reader.header.trimmed, time_ms):
        mask = counting(policy, span.events, time_ms)
        if (len(span.events) if mask is None else int(mask.sum())) >= policy.newest:
            break
        end = span.first + len(span.events)
        span = reader.read(max(reader.header.trimmed, end - _MORE * max(len(span.events), 1)), end)
    return span


def base_from_state(
    policy: WindowPolicy, reader: Reader, state: StoredState, span: EventSpan, time_ms: int
) -> PartialSums | None:
    """A state's sums, with the events between it and the span, and without those that count no longer.

    None if it covers other events than the history has by now, or so many that count no longer that it is better to
    begin anew. If there is no time for the events between, the sums are without them and not complete.
    """
    between = _between(policy, reader, state, span, time_ms)
    if between is None or state.first < reader.header.trimmed:
        return None
    mask = counting(policy, span.events, time_ms)
    fresh_from = max(between.end - span.first, 0)
    fresh = len(span.events) - fresh_from if mask is None else int(mask[fresh_from:].sum())
    surplus = between.covered + fresh - policy.recent
    oldest_ms = policy.oldest_ms(time_ms)
    if not between.complete or (surplus <= 0 and between.first_ms >= oldest_ms):
        return between
    try:
        return _without_oldest(policy, reader, between, surplus, oldest_ms, most=state.covered // 2)
    except OutOfTime:
        return between._replace(complete=False, whole=False)


def _between(
    policy: WindowPolicy, reader: Reader, state: StoredState, span: EventSpan, time_ms: int
) -> PartialSums | None:
    """A state's sums with the events up to the span, if the last event that it covers is still there."""
    at = state.end - 1
    part = span
    if at < span.first:
        part = reader.read(at, min(at + BLOCK, span.first))
    if (
        not 0 <= at - part.first < len(part.events)
        or policy.record_hash(part.events, at - part.first) != state.last_hash
    ):
        return None
    base = state_base(state)
    if span.first - state.end > policy.recent:
        return None
    events, end = part.events[1:], base.end
    while end < span.first:
        mask = counting(policy, events, time_ms)
        added = events if mask is None else events[mask]
        end += len(events)
        if len(added):
            base = base._replace(
                sums=base.sums + policy.sums(added),
                covered=base.covered + len(added),
                changed=base.changed + len(added),
            )
        base = base._replace(
            end=end,
            whole=base.whole and len(added) == len(events),
            last_hash=policy.record_hash(events, len(events) - 1) if len(events) else base.last_hash,
        )
        if end < span.first:
            try:
                block = reader.read(end, min(end + BLOCK, span.first))
            except OutOfTime:
                return base._replace(end=span.first, complete=False, whole=False)
            if block.first != end or not len(block.events):
                return None
            events = block.events
    return base


def _without_oldest(
    policy: WindowPolicy, reader: Reader, base: PartialSums, surplus: int, oldest_ms: int, *, most: int
) -> PartialSums | None:
    """Sums without their oldest events: ``surplus`` of them, and those before ``oldest_ms``; at most ``most``."""
    before, sums, first, gone = base.sums, base.sums, base.first, 0
    ask = max(surplus, 0) + 64
    while True:
        if surplus > most:
            return None
        block = reader.read(first, min(first + min(ask, BLOCK), base.end))
        if block.first != first or not len(block.events):
            return None
        times = block.events["timestamp"]
        leaving = max(surplus - gone, int(np.searchsorted(times, oldest_ms)), 0)
        leaving = min(leaving, len(times))
        if leaving:
            sums = sums - policy.sums(block.events[:leaving])
        first, gone = first + leaving, gone + leaving
        if gone > most or first >= base.end:
            return None
        if leaving < len(times):
            break
        ask *= _MORE
    sums = without_noise(sums, before, roundings=base.roundings)
    return base._replace(
        sums=sums, covered=base.covered - gone, first=first, first_ms=int(times[leaving]), changed=base.changed + gone
    )


def without_noise(sums: Float32Array, before: Float32Array, *, roundings: int) -> Float32Array:
    """Sums after events were taken from them, with zeros in the buckets of which no more is left than rounding makes.

    What is left of a bucket may be smaller than what rounding has done to it; of an empty one it is nothing else.

    Args:
        sums: what is left, [R, D].
        before: the sums before, [R, D].
        roundings: of these.
    """
    noise_R = np.abs(before).max(axis=1) * np.float32(2.0**-11 * max(roundings, 1))
    return np.where((np.abs(sums).max(axis=1) <= noise_R)[:, None], np.float32(0.0), sums)


def base_from_events(policy: WindowPolicy, reader: Reader, span: EventSpan, time_ms: int) -> PartialSums:
    """The sums of all events before the span that count, newest first, until it is too late: then not complete."""
    mask = counting(policy, span.events, time_ms)
    wanted = policy.recent - (len(span.events) if mask is None else int(mask.sum()))
    base = no_base(policy, span)
    at = span
    while wanted > base.covered and older_may_count(policy, at, reader.header.trimmed, time_ms):
        try:
            block = reader.read(max(reader.header.trimmed, at.first - BLOCK), at.first)
        except OutOfTime:
            return base._replace(complete=False, whole=False)
        if block.first + len(block.events) != at.first:
            break  # trimmed a moment ago
        base = _with_older(policy, base, block, time_ms, wanted - base.covered)
        at = block
    return base


def state_base(state: StoredState) -> PartialSums:
    """Partial sums of a stored state."""
    return PartialSums(
        state.sums,
        state.covered,
        state.first,
        state.end,
        state.first_ms,
        state.last_hash,
        roundings=state.roundings,
        stored=True,
    )


def no_base(policy: WindowPolicy, span: EventSpan) -> PartialSums:
    """Partial sums of no events before the span."""
    return PartialSums(np.zeros(policy.shape, dtype=np.float32), 0, span.first, span.first)


def _with_older(policy: WindowPolicy, base: PartialSums, block: EventSpan, time_ms: int, wanted: int) -> PartialSums:
    """The sums with at most ``wanted`` of a block's events, the newest that count."""
    mask = counting(policy, block.events, time_ms)
    places = np.arange(len(block.events)) if mask is None else np.flatnonzero(mask)
    missing = len(places) < wanted and may_count_later(policy, block, int(places[0]) if len(places) else None, time_ms)
    places = places[-wanted:]
    if not len(places):
        return base._replace(whole=base.whole and not missing)
    oldest = int(places[0])
    adjoins = block.first + len(block.events) == base.first and len(places) == len(block.events) - oldest
    return base._replace(
        sums=base.sums + policy.sums(block.events[places]),
        covered=base.covered + len(places),
        first=block.first + oldest,
        first_ms=int(block.events["timestamp"][oldest]),
        last_hash=base.last_hash if base.covered else policy.record_hash(block.events, -1),
        whole=base.whole and adjoins and not missing,
    )
