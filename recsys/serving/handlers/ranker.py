"""Ranking requests: read the store, encode, run the model, pick the best.

Knows nothing of gRPC. Calls block, on the store and on the lock of the model: for handler threads, never for an event
loop. Shapes use ``C`` candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import InvalidInputError
from recsys.feature_store.base import RankInputs, RankRead, UserInputs
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.history.records import Events
from recsys.serving.deadline import Deadline
from recsys.serving.filters.language import Filter
from recsys.serving.filters.selection import FilterReport, candidates_pass
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.candidates import best_of, first_positions, spread
from recsys.serving.handlers.given_values import RequestNames, request_names, values_of
from recsys.serving.handlers.recorder import Recorder
from recsys.serving.handlers.request_log import RequestLog
from recsys.serving.inference.fair_lock import FairLock, ModelLock
from recsys.serving.inference.pace import Work, together
from recsys.serving.inference.ranking_session import RankingSession, Scores
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.long_history.inputs import StateInputs
from recsys.serving.long_history.states import LongStates
from recsys.serving.rules.language import Rules
from recsys.serving.rules.listing import Listing, make_list
from recsys.serving.rules.pins import PinOutcome
from recsys.serving.rules.report import RulesReport
from recsys.serving.rules.vectors import VectorSource
from recsys.serving.telemetry.label_counts import LabelCounts
from recsys.serving.telemetry.stage_timer import StageTimer


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """A request to score candidates.

    Attributes:
        user_key: key of the user's id.
        candidate_keys: keys of the candidates, shape [C], C >= 1; may hold duplicates.
        features: raw values of user and context features that override stored ones.
        top_k: 0 for all scores in the candidates' order.
        time_ms: events with an earlier timestamp count; default: the first millisecond after now.
        timer: the request's clock.
        timings: say in the answer how long each stage took.
        filter: only candidates that pass are scored; None: all are.
        rules: by which the list is made of them; None: the best by their scores.
    """

    user_key: int
    candidate_keys: Int64Array
    features: Mapping[str, Sequence[Any]]
    top_k: int = 0
    time_ms: int | None = None
    timer: StageTimer = field(default_factory=StageTimer)
    timings: bool = False
    filter: Filter | None = None
    rules: Rules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The candidates of a request that was ranked, each once, whatever part of them was asked for.

    Attributes:
        request: it.
        keys: of the candidates, distinct; [C].
        logits, scores: of each; [C].
        time_ms: events with an earlier timestamp counted.
        inputs: that the store gave for it.
        listed: places among them of the list that rules made; None: there were none.
    """

    request: RankRequest
    keys: Int64Array
    logits: Float32Array
    scores: Float32Array
    time_ms: int
    inputs: RankInputs | None = None
    listed: Int64Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankResult:
    """Scores of a request's candidates.

    Attributes:
        scores: [C], or [min(top_k, distinct candidates)], best first.
        positions: with top_k or a filter, where each score's candidate first stood in the request; else None.
        model, model_version, release: which model answered, and the release that it belongs to.
        history_events: past events the model looked at.
        ranked: all candidates with their scores; a :class:`Ranker` sets it.
        user_degraded, items_degraded: that part of the store could not be read.
        history_degraded: only the newest part of a long history was looked at.
        attributes_degraded: the filter, or a rule, read values that may not be what the store has.
        filter: what became of the filter; None: there was none.
        filtered_out: places of the candidates that do not pass.
        rules: what became of the rules; None: there were none, or no candidates.
    """

    scores: Float32Array
    positions: Int64Array | None
    model: str
    model_version: str
    release: str
    history_events: int
    ranked: Ranked | None = None
    user_degraded: bool = False
    items_degraded: bool = False
    history_degraded: bool = False
    attributes_degraded: bool = False
    filter: FilterReport | None = None
    filtered_out: Int64Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    rules: RulesReport | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request with what was worked out before the store was read, the lock that its model takes, the values that this
    release reads, and what rules need beside."""

    request: RankRequest
    keys: Int64Array
    positions: Int64Array | None
    time_ms: int
    model_lock: ModelLock
    values: Mapping[str, Sequence[Any]]
    logged: bool = True
    report: FilterReport | None = None
    filtered_out: Int64Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    vectors: VectorSource | None = None
    pins: Mapping[int, PinOutcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankReading:
    """Inputs of the model for a request, and what they were made of.

    Attributes:
        encoded: the graphs' inputs.
        inputs: that the store gave.
        events: that count, oldest first; with a state at least those that it lacks.
        state: of a long history; None: the model has none.
        time_ms: events with an earlier timestamp count.
    """

    encoded: EncodedRequest
    inputs: RankInputs
    events: Events
    state: StateInputs | None
    time_ms: int


class Ranker:
    """Scores candidates with one model and one feature store. Safe to use from several threads; one runs the model.

    Args:
        session: the model.
        release: name of the release that it belongs to.
        store: read for each request; not closed here.
        admission: the places of requests.
        model_lock: held while the model runs.
        store_timeout_s: longest wait for the store in one request.
        states: keeps the sums of long histories, if the model has them; not closed here.
        request_log: gets a share of the requests; not closed here.
        recorder: gets some of the requests, for releases to come.
        names: of what requests may give to any release; None: there is no other.
        columns: values of items, for filters and rules; None: there are none.
        rule_counts: what rules did.
        vectors: of items, for rules; None: the release has no retrieval model.
    """

    def __init__(
        self,
        session: RankingSession,
        *,
        release: str,
        store: BlockingFeatureStore,
        admission: Admission,
        model_lock: FairLock,
        store_timeout_s: float,
        states: LongStates | None = None,
        request_log: RequestLog | None = None,
        recorder: Recorder | None = None,
        names: RequestNames | None = None,
        columns: ItemColumns | None = None,
        rule_counts: LabelCounts | None = None,
        vectors: VectorSource | None = None,
    ) -> None:
        assert (states is None) == (session.state is None), "states are kept of models that have them"
        self.features = session.features
        self.session = session
        self.release = release
        self.store_timeout_s = store_timeout_s
        self.admission = admission
        self.model_lock = model_lock
        self.store = store
        self.states = states
        self._state_read = None if states is None else states.read
        self._request_log = request_log
        self._recorder = recorder
        self.columns = columns
        self._rule_counts = LabelCounts() if rule_counts is None else rule_counts
        self._vectors = vectors
        self._own_names = request_names(self.features)
        self._names = RequestNames() if names is None else names

    def rank(self, request: RankRequest, *, deadline: Deadline) -> RankResult:
        """Rank a request's candidates. Trouble with the store degrades the answer and never fails it.

        Raises:
            OverloadedError: there is no room, or not enough time.
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
            InvalidInputError: a feature's name or value is not what the FeatureSet declares.
        """
        with self.admission.enter(self.work(request), left_s=deadline.remaining_s()):
            return self.rank_admitted(request, deadline=deadline)

    def work(self, request: RankRequest) -> Work:
        """Expected work of a request."""
        return self.session.work(len(request.candidate_keys))

    def rank_many(
        self, requests: Sequence[RankRequest], *, places: Sequence[int], deadline: Deadline
    ) -> list[RankResult]:
        """As :meth:`rank` for several requests, which are read in one round trip, for a caller that holds a place.

        Errors of one request begin with its place in the call, as ``requests[3]``.
        """
        asked = []
        for place, request in zip(places, requests, strict=True):
            with _of_request(place):
                asked.append(self._asked(request))
        reads = [RankRead(a.request.user_key, a.keys, a.time_ms) for a in asked if len(a.keys)]
        timeout_s = self._store_time_s(deadline)
        found = iter(self.store.read_many_for_rank(reads, timeout_s=timeout_s, state=self._state_read))
        results = []
        for place, a in zip(places, asked, strict=True):
            with _of_request(place):
                results.append(self._rank_read(a, next(found), deadline) if len(a.keys) else self._nothing(a))
        return results

    def read_user(self, user_key: int, *, deadline: Deadline) -> UserInputs:
        """Read a user's part of :meth:`rank_admitted`, and the whole history, before there are candidates."""
        return self.store.read_user(user_key, timeout_s=self._store_time_s(deadline), state=self._state_read)

    def rank_admitted(
        self,
        request: RankRequest,
        *,
        deadline: Deadline,
        user: UserInputs | None = None,
        vectors: VectorSource | None = None,
        pins: Mapping[int, PinOutcome] | None = None,
        logged: bool = True,
    ) -> RankResult:
        """As :meth:`rank`, for a caller that holds a place in ``admission``.

        Args:
            request: it.
            deadline: of this work.
            user: as it was read before.
            vectors: of items, in place of the release's own.
            pins: why a pinned item is no candidate, by its rule's place.
            logged: False: nothing of it is kept.
        """
        asked = replace(self._asked(request), vectors=vectors or self._vectors, pins=pins or {}, logged=logged)
        return self._rank_asked(asked, user, deadline)

    def _rank_asked(self, asked: _Asked, user: UserInputs | None, deadline: Deadline) -> RankResult:
        if not len(asked.keys):
            return self._nothing(asked)
        return self._rank_read(asked, self._read(asked, user, deadline), deadline)

    def _read(self, asked: _Asked, user: UserInputs | None, deadline: Deadline) -> RankInputs:
        reads = [RankRead(asked.request.user_key, asked.keys, asked.time_ms, user)]
        timeout_s = self._store_time_s(deadline)
        (inputs,) = self.store.read_many_for_rank(reads, timeout_s=timeout_s, state=self._state_read)
        return inputs

    def rank_unseen(self, request: RankRequest, *, deadline: Deadline, model_lock: ModelLock) -> RankResult:
        """As :meth:`rank`, of a request that something else answers: it holds no place, and nothing of it is kept.

        Args:
            request: with its time.
            deadline: of this work.
            model_lock: in place of the one that calls take.
        """
        return self._rank_asked(replace(self._asked(request), model_lock=model_lock, logged=False), None, deadline)

    def read_unseen(self, request: RankRequest, *, deadline: Deadline) -> RankReading:
        """Read what :meth:`rank` would give the model, for something else than an answer: nothing is written."""
        asked = self._asked(request)
        return self._reading(asked, self._read(asked, None, deadline), deadline, writes=False)

    def _asked(self, request: RankRequest) -> _Asked:
        positions = first_positions(request.candidate_keys)
        keys = request.candidate_keys if positions is None else request.candidate_keys[positions]
        time_ms = request.time_ms if request.time_ms is not None else time.time_ns() // 1_000_000 + 1
        values = values_of(self._own_names, request.features, self._names.known)
        asked = _Asked(request, keys, positions, time_ms, self.model_lock, values, vectors=self._vectors)
        return asked if request.filter is None else self._filtered(asked)

    def _filtered(self, asked: _Asked) -> _Asked:
        """Leave out the candidates that do not pass the request's filter."""
        passes, report = candidates_pass(self.columns, asked.request.filter, asked.keys)
        positions = np.arange(len(asked.keys)) if asked.positions is None else asked.positions
        filtered_out = np.flatnonzero(np.isin(asked.request.candidate_keys, asked.keys[~passes]))
        asked.request.timer.lap("filter")
        return replace(
            asked, keys=asked.keys[passes], positions=positions[passes], report=report, filtered_out=filtered_out
        )

    def _nothing(self, asked: _Asked) -> RankResult:
        """The result of a request without candidates, or none of which passes: nothing is read or run."""
        nothing = np.empty(0, dtype=np.float32)
        return RankResult(
            scores=nothing,
            positions=np.empty(0, dtype=np.int64),
            model=self.session.model,
            model_version=self.session.version,
            release=self.release,
            history_events=0,
            attributes_degraded=asked.report is not None and asked.report.degraded,
            filter=asked.report,
            filtered_out=asked.filtered_out,
            rules=None if asked.request.rules is None else self._listing(asked, nothing).report,
        )

    def _store_time_s(self, deadline: Deadline) -> float:
        """At most half of the time left, so that a slow store costs the history, not the answer."""
        return min(self.store_timeout_s, deadline.remaining_s() / 2)

    def _rank_read(self, asked: _Asked, inputs: RankInputs, deadline: Deadline) -> RankResult:
        request, timer = asked.request, asked.request.timer
        timer.lap("store")
        reading = self._reading(asked, inputs, deadline)
        encoded, state = reading.encoded, reading.state
        answer = self.session.score(
            encoded,
            deadline=deadline,
            sums=None if state is None else state.sums,
            fresh=None if state is None else state.fresh,
            model_lock=asked.model_lock,
            timer=timer,
        )
        if self.states is not None and state is not None and answer.next_sums is not None:
            self.states.offer_write(request.user_key, state, answer.next_sums)
        if asked.logged and self._recorder is not None and self._recorder.wants_request(self.release):
            self._recorder.keep_request(
                self.release,
                user_key=request.user_key,
                user_columns=inputs.user_columns,
                values=request.features,
                events=reading.events,
                item_keys=asked.keys,
                item_columns=inputs.item_columns,
                degraded=inputs.user_degraded or inputs.items_degraded,
            )
        return self._result(asked, inputs, encoded, state, answer)

    def _reading(self, asked: _Asked, inputs: RankInputs, deadline: Deadline, *, writes: bool = True) -> RankReading:
        request, timer = asked.request, asked.request.timer
        deadline.remaining_s()
        events, state = inputs.events, None
        if self.states is not None:
            state = self.states.for_request(
                request.user_key, inputs, time_ms=asked.time_ms, deadline=deadline, writes=writes
            )
            events = state.events
            timer.lap("state")
        encoded = encode_request(
            self.features,
            user_key=request.user_key,
            user_columns=inputs.user_columns,
            request_values=asked.values,
            events=events,
            item_keys=asked.keys,
            item_columns=inputs.item_columns,
        )
        timer.lap("encode")
        return RankReading(encoded, inputs, events, state, asked.time_ms)

    def _result(
        self,
        asked: _Asked,
        inputs: RankInputs,
        encoded: EncodedRequest,
        state: StateInputs | None,
        answer: Scores,
    ) -> RankResult:
        request, positions = asked.request, asked.positions
        scores, best = answer.scores, None
        ranked = Ranked(
            request=request,
            keys=asked.keys,
            logits=answer.logits,
            scores=scores,
            time_ms=asked.time_ms,
            inputs=inputs,
        )
        history_events = encoded.history_events if state is None else state.history_events
        partial = state is not None and state.partial
        listing = self._listing(asked, answer.logits) if request.rules is not None and request.top_k else None
        order = best_of(answer.logits, request.top_k) if request.top_k and listing is None else None
        if listing is not None:
            order, ranked = listing.positions, replace(ranked, listed=listing.positions)
        if asked.logged and self._request_log is not None and self._request_log.wanted():
            self._request_log.offer(
                encoded,
                features=self.features,
                history_events=history_events,
                time_ms=asked.time_ms,
                sent=sorted(asked.values),
                degraded=inputs.user_degraded or inputs.items_degraded or partial,
                model=self.session.model,
                model_version=self.session.version,
                release=self.release,
                scores=scores,
                best=order,
                filter_text="" if request.filter is None else request.filter.described(),
                rules_text="" if request.rules is None else request.rules.described(),
            )
        if order is not None:
            scores, best = scores[order], order if positions is None else positions[order]
        elif asked.report is not None:
            best = positions
        elif positions is not None:
            scores = spread(scores, keys=asked.keys, onto=request.candidate_keys)
        request.timer.lap("select")
        rules = None if listing is None else listing.report
        return RankResult(
            scores=scores,
            positions=best,
            model=self.session.model,
            model_version=self.session.version,
            release=self.release,
            history_events=history_events,
            ranked=ranked,
            user_degraded=inputs.user_degraded,
            items_degraded=inputs.items_degraded,
            history_degraded=partial,
            attributes_degraded=any(each is not None and each.degraded for each in (asked.report, rules)),
            filter=asked.report,
            filtered_out=asked.filtered_out,
            rules=rules,
        )

    def _listing(self, asked: _Asked, logits: Float32Array) -> Listing:
        """The list that a request's rules make of its candidates."""
        request = asked.request
        assert request.rules is not None
        return make_list(
            logits,
            request.rules,
            top_k=request.top_k,
            keys=asked.keys,
            columns=self.columns,
            vectors=asked.vectors,
            pins=asked.pins or self._missing_pins(asked),
            counts=self._rule_counts if asked.logged else None,
        )

    def _missing_pins(self, asked: _Asked) -> Mapping[int, PinOutcome]:
        """Say of pinned items that were sent, and do not pass the filter, that they do not."""
        if asked.request.rules is None or not len(asked.filtered_out):
            return {}
        left_out = asked.request.candidate_keys[asked.filtered_out]
        return {at: "filtered_out" for at, pin in asked.request.rules.pins.items() if (left_out == pin.key).any()}


def rank_together(
    rankers: Sequence[Ranker],
    requests: Sequence[RankRequest],
    *,
    deadline: Deadline,
    on_failed: Callable[[Sequence[int]], None] = lambda places: None,
) -> list[RankResult]:
    """Rank the requests of one call, each by the ranker in its place. All together take one place in ``admission``.

    Args:
        rankers, requests: of each place.
        deadline: of all.
        on_failed: told the places of the ranker that raises.

    Raises:
        OverloadedError, TimeoutError, InvalidInputError: as :meth:`Ranker.rank`; the last begins with the place.
    """
    results: dict[int, RankResult] = {}
    work = together(ranker.work(request) for ranker, request in zip(rankers, requests, strict=True))
    with rankers[0].admission.enter(work, left_s=deadline.remaining_s()):
        for ranker in dict.fromkeys(rankers):
            places = [place for place, other in enumerate(rankers) if other is ranker]
            try:
                found = ranker.rank_many([requests[place] for place in places], places=places, deadline=deadline)
            except Exception:
                on_failed(places)
                raise
            results.update(zip(places, found, strict=True))
    return [results[place] for place in range(len(requests))]


@contextmanager
def _of_request(place: int) -> Iterator[None]:
    """Say of which request of a batch an error is."""
    try:
        yield
    except InvalidInputError as error:
        raise type(error)(f"requests[{place}]: {error}") from None
