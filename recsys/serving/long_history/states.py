"""LongStates: the sums of users' long histories, read and written for requests.

The usual request finds a state that lacks few events, all of which were read with it: then nothing is read or
computed here but a checksum. ``window.py`` does the rest, and a thread in the background what nobody waits for.
Trouble makes answers partial, it never fails them. ``R`` rows, ``D`` width, ``S`` events.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from recsys.arrays import Float32Array
from recsys.bundle import StateInfo
from recsys.errors import StoreError, StoreFormatError
from recsys.feature_store.base import RankInputs, StateRead
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.redis.values.state import StoredState, pack_state, unpack_state
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import HistoryHeader, event_dtype, require_history
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.deadline import Deadline
from recsys.serving.long_history.coalescing_queue import CoalescingQueue
from recsys.serving.long_history.inputs import StateInputs, fold
from recsys.serving.long_history.window import (
    Encode,
    EventSpan,
    OutOfTime,
    PartialSums,
    Reader,
    Rewritten,
    WindowPolicy,
    base_from_events,
    base_from_state,
    enough_events,
    no_base,
    state_base,
)
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger(__name__)

SLACK = 128
"""Events read beyond those that the model reads one by one: so many may be new since the state was written."""

WRITE_AFTER = 32
"""A state is written anew when it lacks so many events, or has so many too many: each time is another rounding."""

MOST_ROUNDINGS = 64
"""After so many a state is computed from all its events again."""

_TRIES = 3
_WAITING = 1_024
_REFRESH_S = 60.0
_STORE_TIMEOUT_S = 5.0


def tail_of(state: StateInfo) -> int:
    """Count of the newest events that are read with each request."""
    return state.newest + SLACK


@dataclass(slots=True)
class _Computation:
    """A first sight in progress, which others wait for."""

    done: threading.Event = field(default_factory=threading.Event)
    state: StoredState | None = None


class LongStates:
    """States of a bundle's users. Safe to use from several threads.

    Calls block, on the store and on what another thread computes of the same user: they are made by handler threads and
    by the thread in the background, never on an event loop.

    Args:
        features: of the bundle.
        state: the bundle's.
        encode: runs its ``encode`` graph.
        store: not closed here.
        version: of the bundle's states (``Manifest.state_version``), 16 hex digits.
        ttl_s: how long after it was written a state is kept.
        counts: counted in; None: in counts of its own.
    """

    def __init__(
        self,
        features: FeatureSet,
        state: StateInfo,
        encode: Encode,
        store: BlockingFeatureStore,
        version: str,
        ttl_s: int,
        *,
        counts: LabelCounts | None = None,
    ) -> None:
        self.read = StateRead(version, tail_of(state))
        # A history may be shorter than what a model would read one by one: the rest is padding, in its graph
        newest = min(state.newest, require_history(features).recent)
        self._policy = WindowPolicy(
            features=features,
            encode=encode,
            shape=(state.rows, state.width),
            newest=newest,
            record_bytes=event_dtype(features).itemsize,
        )
        self._store = store
        self._ttl_s = ttl_s
        self._computing: dict[int, _Computation] = {}
        self._lock = threading.Lock()
        self._counts = LabelCounts() if counts is None else counts
        self._trouble = RateLimitedLog(_log)
        self._work = CoalescingQueue("states", limit=_WAITING)

    def for_request(
        self, user_key: int, inputs: RankInputs, *, time_ms: int, deadline: Deadline, writes: bool = True
    ) -> StateInputs:
        """Make the ``user`` graph's inputs of a user's past.

        Args:
            user_key: the user.
            inputs: read with ``state=self.read``.
            time_ms: the same as when they were read.
            deadline: at most half of what is left of it is used; then the answer is partial.
            writes: a state that could not be read whole in time is computed and written in the background.

        Raises:
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        """
        header = inputs.header
        span = EventSpan(header.appended - len(inputs.tail), inputs.tail)
        state, historical = self._stored(inputs.state, header, time_ms)
        if state is None:
            ready = fold(self._policy, no_base(self._policy, span), span, header, time_ms)
        elif (
            state.end <= span.first
            or self._policy.record_hash(span.events, state.end - 1 - span.first) != state.last_hash
        ):
            ready = None
        else:
            ready = fold(self._policy, state_base(state), span, header, time_ms)
        if ready is not None:
            self._counts.add("without" if state is None else "used")
            return ready
        until_s = time.monotonic() + deadline.remaining_s() / 2
        found = self._from_store(user_key, state, span, header, time_ms, until_s=until_s, alone=historical)
        if historical:
            return found._replace(end=-1)
        if inputs.state is not None and not found.base.stored:
            found = found._replace(replaces=True)
        if found.partial and writes:
            self._offer_refresh(user_key, time_ms)
        return found

    def offer_write(self, user_key: int, inputs: StateInputs, next_sums: Float32Array) -> None:
        """Offer the state to the writer in the background, if it is time to.

        Args:
            user_key: the user.
            inputs: made by :meth:`for_request`.
            next_sums: ``state.next``: the sums with the fresh events; not to be written to afterwards.
        """
        if not self.due(inputs):
            return
        if inputs.base.roundings >= MOST_ROUNDINGS:
            self._offer_refresh(user_key, inputs.time_ms)
        elif not self._work.offer(user_key, lambda: self._write(user_key, inputs, next_sums)):
            self._counts.add("dropped")

    def due(self, inputs: StateInputs) -> bool:
        """Decide if it is time to write the state that follows from these."""
        base = inputs.base
        if inputs.end < 0:
            return False
        if base.stored:
            return base.changed + inputs.fresh_count >= WRITE_AFTER
        return base.covered > 0 or inputs.replaces

    def next_sums(self, inputs: StateInputs) -> Float32Array:
        """The sums with the fresh events, as the ``user`` graph gives them; [R, D]."""
        if not inputs.fresh_count:
            return inputs.sums
        fresh = inputs.events[len(inputs.events) - inputs.fresh_count :]
        return inputs.sums + self._policy.sums(fresh)

    def packed(self, inputs: StateInputs, next_sums: Float32Array) -> bytes:
        """The bytes of the state that follows, if :meth:`due`; raises InvalidInputError if a sum is not finite."""
        base = inputs.base
        last_hash = self._policy.record_hash(inputs.events, -1) if inputs.fresh_count else base.last_hash
        state = StoredState(
            next_sums, base.first, inputs.end, inputs.time_ms, base.first_ms, last_hash, base.roundings + 1
        )
        return pack_state(state, version=self.read.version)

    def counts(self) -> dict[str, int]:
        """Counts of what happened so far: ``used`` as read, ``without`` a state as none was needed, ``read`` more
        events, ``refused`` a stored value, ``computed`` from all events, ``partial``, ``written``, ``dropped`` for
        want of room, ``failed`` to write."""
        return self._counts.read()

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until everything offered is written; whether that is so."""
        return self._work.flush(timeout_s=timeout_s)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Write what waits, if there is time, and take no more."""
        self._work.close(timeout_s=timeout_s)

    def _stored(self, value: bytes | None, header: HistoryHeader, time_ms: int) -> tuple[StoredState | None, bool]:
        """The stored state, if it can be used; and whether it is of a later time than the request."""
        if value is None or not header.stored:
            return None, False
        rows, width = self._policy.shape
        try:
            state = unpack_state(value, version=self.read.version, rows=rows, width=width)
            if state.end > header.appended:
                raise StoreFormatError(f"state of {state.end} events; its history has {header.appended}")
        except StoreFormatError as error:
            self._counts.add("refused")
            self._trouble.warning(None, "long histories: %s", error)
            return None, False
        return (None, True) if state.as_of_ms > time_ms else (state, False)

    def _from_store(
        self,
        user_key: int,
        state: StoredState | None,
        span: EventSpan,
        header: HistoryHeader,
        time_ms: int,
        *,
        until_s: float,
        alone: bool = False,
    ) -> StateInputs:
        """As :meth:`for_request`, by reading more; ``alone``: what others compute meanwhile is of no use."""
        self._counts.add("read")
        base = no_base(self._policy, span)._replace(complete=False, whole=False)
        for _ in range(_TRIES):
            reader = Reader(self._store, user_key, header, until_s)
            try:
                span = enough_events(self._policy, reader, span, time_ms)
                base = no_base(self._policy, span)._replace(complete=False, whole=False)
                base = self._base(user_key, reader, state, span, time_ms, until_s=until_s, alone=alone)
                header = reader.header
                break
            except (OutOfTime, StoreError) as error:
                if isinstance(error, StoreError):
                    self._trouble.warning(None, "long histories: %s", error)
                break
            except Rewritten:
                try:
                    left_s = until_s - time.monotonic()
                    ((header, tail),) = self._store.histories([user_key], limit=self.read.tail, timeout_s=left_s)
                except StoreError as error:
                    self._trouble.warning(None, "long histories: %s", error)
                    break
                span = EventSpan(header.appended - len(tail), tail)
                base = no_base(self._policy, span)._replace(complete=False, whole=False)
        folded = fold(self._policy, base, span, header, time_ms, anyway=True)
        assert folded is not None
        if folded.partial:
            self._counts.add("partial")
        return folded

    def _base(
        self,
        user_key: int,
        reader: Reader,
        state: StoredState | None,
        span: EventSpan,
        time_ms: int,
        *,
        until_s: float,
        alone: bool,
    ) -> PartialSums:
        if state is not None:
            base = base_from_state(self._policy, reader, state, span, time_ms)
            if base is not None:
                return base
        if alone:
            return base_from_events(self._policy, reader, span, time_ms)
        with self._lock:
            others = self._computing.get(user_key)
            if others is None:
                mine = self._computing[user_key] = _Computation()
        if others is None:
            try:
                return self._computed(mine, reader, span, time_ms)
            finally:
                with self._lock:
                    del self._computing[user_key]
                mine.done.set()
        others.done.wait(max(until_s - time.monotonic(), 0.0))
        made = others.state
        shared = None
        if made is not None and made.as_of_ms <= time_ms:
            shared = base_from_state(self._policy, reader, made, span, time_ms)
        return shared or no_base(self._policy, span)._replace(complete=False, whole=False)

    def _computed(self, mine: _Computation, reader: Reader, span: EventSpan, time_ms: int) -> PartialSums:
        self._counts.add("computed")
        base = base_from_events(self._policy, reader, span, time_ms)
        if base.covered and base.complete and base.whole:
            mine.state = StoredState(base.sums, base.first, base.end, time_ms, base.first_ms, base.last_hash, 0)
        return base

    def _offer_refresh(self, user_key: int, time_ms: int) -> None:
        if not self._work.offer(user_key, lambda: self._refresh(user_key, time_ms)):
            self._counts.add("dropped")

    def _refresh(self, user_key: int, time_ms: int) -> None:
        """Compute a user's state from all events, and write it."""
        until_s = time.monotonic() + _REFRESH_S
        ((header, tail),) = self._store.histories([user_key], limit=self.read.tail, timeout_s=_STORE_TIMEOUT_S)
        span = EventSpan(header.appended - len(tail), tail)
        found = self._from_store(user_key, None, span, header, time_ms, until_s=until_s)
        if found.end >= 0:
            self._write(user_key, found, self.next_sums(found))

    def _write(self, user_key: int, inputs: StateInputs, sums: Float32Array) -> None:
        try:
            states = [(user_key, self.packed(inputs, sums))]
            self._store.put_states(states, version=self.read.version, ttl_s=self._ttl_s, timeout_s=_STORE_TIMEOUT_S)
        except Exception:
            self._counts.add("failed")
            raise
        self._counts.add("written")
