"""Recommendations from a user's id alone: read what was seen, retrieve the best of all other items, rank these.

Knows nothing of gRPC. Calls block, as those of ``ranker.py`` do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import BundleError, InvalidInputError, NotFoundError, StoreError
from recsys.feature_store.base import UserInputs
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.columns import Column
from recsys.features.encode import request_column
from recsys.features.extension import ids_problem
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events
from recsys.features.history.rules import visible
from recsys.serving.deadline import Deadline
from recsys.serving.filters.selection import IndexFilter, candidates_pass, found_nothing
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.given_values import RequestNames, check_values
from recsys.serving.handlers.queries import RecommendQuery, RecommendResult, RetrieveQuery, RetrieveResult
from recsys.serving.handlers.ranker import Ranker, RankRequest
from recsys.serving.handlers.recorder import Recorder
from recsys.serving.handlers.related.trending import TrendingFinder
from recsys.serving.inference.candidate_index import AddedItems, CandidateIndex
from recsys.serving.inference.fair_lock import FairLock, ModelLock
from recsys.serving.inference.pace import Pace, Work, together
from recsys.serving.inference.shard_rows import ShardRows
from recsys.serving.rules.language import Rules
from recsys.serving.rules.pins import PinOutcome, pin_outcomes
from recsys.serving.rules.vectors import VectorSource

MOST_EVENTS = 10_000
"""Most events, the newest, that a user is known by: bounds the time of a search."""

_FEW = 1_000
"""Trending items that are looked at together, or twice those that are wanted."""

_SEARCH_S = 0.01
"""Guess of the time that a search takes, until it is measured."""


@dataclass(frozen=True, slots=True)
class _UserRead:
    """A user as the store has it.

    Attributes:
        events: all that are stored, however old: seen is seen; None: not read.
        columns: features, N = 1; None: not read.
        degraded: something could not be read.
    """

    events: Events | None = None
    columns: Mapping[str, Column] | None = None
    degraded: bool = False

    @classmethod
    def of(cls, inputs: UserInputs) -> _UserRead:
        """All that was read."""
        return cls(inputs.events, inputs.columns, inputs.degraded)


class Recommender:
    """Retrieves with one model, ranks with another, on one feature store. Safe to use from several threads.

    Args:
        index: finds candidates.
        release: name of the release that it belongs to.
        ranker: orders them; None: :meth:`retrieve` is all there is.
        store: read for each request; not closed here.
        admission: the places of requests; those of the ranker, too.
        model_lock: held while a model runs; that of the ranker, too.
        recorder: gets some of the searches, for releases to come.
        pace: of searches; None: it is not known yet.
        added: gives the items that came after training and take part in a search.
        items: finds what a filter lets pass; None: there are no values of items.
        names: of features that requests may give, of all releases.
        trending: counts of events; None: nothing is counted.
        shard: part of the items that :meth:`retrieve` searches; None: all.

    Raises:
        BundleError: the two models take users or items by different kinds of ids.
    """

    def __init__(
        self,
        index: CandidateIndex,
        *,
        release: str,
        ranker: Ranker | None,
        store: BlockingFeatureStore,
        admission: Admission,
        model_lock: FairLock,
        store_timeout_s: float,
        recorder: Recorder | None = None,
        pace: Pace | None = None,
        added: Callable[[], AddedItems | None] = lambda: None,
        items: IndexFilter | None = None,
        names: RequestNames | None = None,
        trending: TrendingFinder | None = None,
        shard: ShardRows | None = None,
    ) -> None:
        if ranker is not None:
            check_pair(index, ranker.features, ranker.session.model)
        self.features = index.features if ranker is None else ranker.features
        self.index = index
        self.release = release
        self._ranker = ranker
        self._store = store
        self._admission = admission
        self.model_lock = model_lock
        self._store_timeout_s = store_timeout_s
        self._recorder = recorder
        self._pace = Pace(_SEARCH_S) if pace is None else pace
        self.items = IndexFilter(None, index.keys) if items is None else items
        """Finds what a filter lets pass."""
        self._names = RequestNames() if names is None else names
        self._trending = trending
        self._shard = shard
        self.added = added
        """Gives the items that came after training and take part in a search now."""

    def ranked_by(self, ranker: Ranker) -> Recommender:
        """The same index with another ranking model, of any release; raises BundleError."""
        return Recommender(
            self.index,
            release=self.release,
            ranker=ranker,
            store=self._store,
            admission=self._admission,
            model_lock=self.model_lock,
            store_timeout_s=self._store_timeout_s,
            recorder=self._recorder,
            pace=self._pace,
            added=self.added,
            items=self.items,
            names=self._names,
            trending=self._trending,
            shard=self._shard,
        )

    def retrieve(self, query: RetrieveQuery, *, deadline: Deadline) -> RetrieveResult:
        """Find the best items of all, without those that were seen or are excluded. Trouble with the store degrades it.

        Raises:
            OverloadedError: there is no room, or not enough time.
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
            InvalidInputError: top_k is out of range, or a feature is not as declared.
        """
        check_values(self.features, query.features, self._names.known)
        with self._admission.enter(self._search(), left_s=deadline.remaining_s()):
            return self._retrieve(query, deadline, self.model_lock)

    def retrieve_unseen(self, query: RetrieveQuery, *, deadline: Deadline, model_lock: ModelLock) -> RetrieveResult:
        """As :meth:`retrieve`, of a query that something else answers: it holds no place, and is not recorded.

        Args:
            query: it.
            deadline: of this work.
            model_lock: in place of the one that calls take.
        """
        return self._retrieve(query, deadline, model_lock)

    def _retrieve(self, query: RetrieveQuery, deadline: Deadline, model_lock: ModelLock) -> RetrieveResult:
        read = _UserRead()
        if self._reads_user(query):
            timeout_s = min(self._store_timeout_s, deadline.remaining_s() / 2)
            try:
                if self.index.user_inputs:
                    read = _UserRead.of(self._store.read_user(query.user_key, timeout_s=timeout_s))
                else:
                    _, events = self._store.history(query.user_key, timeout_s=timeout_s)
                    read = _UserRead(events)
            except StoreError:
                read = _UserRead(degraded=True)
            query.timer.lap("store")
        return self._found(query, read, deadline, model_lock)

    def recommend(self, query: RecommendQuery, *, deadline: Deadline) -> RecommendResult:
        """Rank what :meth:`retrieve` finds, by the ranking model. The user is read once for both.

        Raises:
            NotFoundError: there is no ranking model, or only a shard of the items is searched here.
            OverloadedError, TimeoutError: as :meth:`retrieve`.
            InvalidInputError: candidates is out of range, or a feature is not as declared, as in ``Ranker.rank``.
        """
        ranker = self._own_ranker()
        work = together([self._search(), ranker.session.work(query.candidates)])
        with self._admission.enter(work, left_s=deadline.remaining_s()):
            return self._recommend(query, ranker, deadline)

    def recommend_unseen(self, query: RecommendQuery, *, deadline: Deadline) -> RecommendResult:
        """As :meth:`recommend`, of a query that nobody is answered by: it holds no place, and nothing of it is kept."""
        return self._recommend(query, self._own_ranker(), deadline, kept=False)

    def _own_ranker(self) -> Ranker:
        if self._ranker is None:
            raise NotFoundError("no ranking model is served here, only a retrieval model; ask it by Retrieve")
        if self._shard is not None:
            raise NotFoundError(
                f"this server searches shard {self._shard.shard} of the items, and recommends none: ask Retrieve of "
                "all shards (recsys.client.ShardedRetriever), then Rank"
            )
        return self._ranker

    def _recommend(
        self, query: RecommendQuery, ranker: Ranker, deadline: Deadline, *, kept: bool = True
    ) -> RecommendResult:
        wanted = RetrieveQuery(
            user_key=query.user_key,
            top_k=query.candidates,
            exclude=query.exclude,
            include_seen=query.include_seen,
            time_ms=query.time_ms,
            timer=query.timer,
            features=query.features,
            filter=query.filter,
            trending=query.trending,
        )
        user, read = None, _UserRead()
        if self._reads_user(wanted):
            user = ranker.read_user(query.user_key, deadline=deadline)
            read = _UserRead.of(user)
            query.timer.lap("store")
        found = self._found(wanted, read, deadline, self.model_lock, kept=kept)
        pins: Mapping[int, PinOutcome] = {}
        candidates = found.items
        if query.rules is not None:
            pins = self._pins(query, query.rules, found)
            placed = [pin.key for at, pin in query.rules.pins.items() if pins[at] == "placed"]
            pinned = np.array(placed, dtype=np.int64)
            candidates = np.concatenate([candidates, pinned[~np.isin(pinned, candidates)]])
        request = RankRequest(
            user_key=query.user_key,
            candidate_keys=candidates,
            features=query.features,
            top_k=query.top_k,
            time_ms=query.time_ms,
            timer=query.timer,
            rules=query.rules,
        )
        ranked = ranker.rank_admitted(
            request, deadline=deadline, user=user, vectors=self._vectors(found.added), pins=pins, logged=kept
        )
        assert ranked.positions is not None and found.selection is not None
        items, scores, late, rules = candidates[ranked.positions], ranked.scores, 0, ranked.rules
        still = self.items.passing_still(found.selection, query.filter, items)
        if still is not None:
            items, scores, late = items[still], scores[still], int(np.count_nonzero(~still))
            rules = None if rules is None else rules.of_items(still)
        return RecommendResult(
            items=items,
            scores=scores,
            filter=None if query.filter is None else found.selection.report,
            withdrawn_late=late,
            rules=rules,
            attributes_degraded=found.attributes_degraded or ranked.attributes_degraded,
            model=ranked.model,
            model_version=ranked.model_version,
            release=ranked.release,
            retrieval_model=found.model,
            retrieval_model_version=found.model_version,
            retrieval_release=found.release,
            user_known=found.user_known,
            history_events=ranked.history_events,
            candidates=len(candidates),
            history_known=found.history_known,
            history_unknown=found.history_unknown,
            added=found.added,
            segment=found.segment,
            trending=found.trending,
            ranked=ranked.ranked,
            user_degraded=found.user_degraded or ranked.user_degraded,
            items_degraded=ranked.items_degraded,
            history_degraded=ranked.history_degraded,
        )

    def _pins(self, query: RecommendQuery, rules: Rules, found: RetrieveResult) -> Mapping[int, PinOutcome]:
        """Say of each pin if the list can have its item."""
        keys = np.array([pin.key for pin in rules.pins.values()], dtype=np.int64)
        known = self.index.has_items(keys)
        if found.added is not None:
            known |= found.added.places(keys) >= 0
        columns = self.items.columns
        return pin_outcomes(
            rules, query.filter, excluded=query.exclude, taken=found.taken, known=known, columns=columns
        )

    def _vectors(self, added: AddedItems | None) -> VectorSource:
        return lambda keys: self.index.vectors(keys, added)

    def _search(self) -> Work:
        return Work(self._pace.seconds(1), self._pace.seconds(1))

    def _reads_user(self, query: RetrieveQuery) -> bool:
        by_index = self.index.history_fields or self.index.user_inputs
        return bool(by_index) or (not query.include_seen and self.features.history is not None)

    def _found(
        self, query: RetrieveQuery, user: _UserRead, deadline: Deadline, model_lock: ModelLock, *, kept: bool = True
    ) -> RetrieveResult:
        """Search the index, and put what is trending first where that is asked for.

        Raises:
            NotFoundError: it is asked for, and nothing is counted.
        """
        if query.trending and self._shard is not None:
            raise InvalidInputError(
                f"fallback is FALLBACK_TRENDING; this server searches shard {self._shard.shard} of the items: ask "
                "Trending, which answers of all"
            )
        if query.trending:
            self._counted().declared()
        events, taken, read = user.events, query.exclude, None
        columns = _columns(self.index, user.columns, query.features) if self.index.user_inputs else None
        if events is not None and self.index.history_fields:
            time_ms = time.time_ns() // 1_000_000 + 1 if query.time_ms is None else query.time_ms
            read = visible(self.index.features, events, time_ms)[-MOST_EVENTS:]
        if query.include_seen:
            events = None
        if events is not None:
            if query.time_ms is not None:
                events = events[(events["timestamp"] < query.time_ms) & (events["arrival"] <= query.time_ms)]
            # A graph's lookup of an item costs 256 bytes; users come back to what they know.
            taken = np.unique(np.concatenate([taken, events["item"]]))
        added = self.added()
        selection = self.items.select(query.filter, added)
        allowed = selection.allowed if self._shard is None else self._shard.narrow(selection.allowed, added)
        query.timer.lap("filter")
        with model_lock.acquire(deadline, pace=self._pace, units=1):
            query.timer.lap("wait")
            deadline.remaining_s()
            found = self.index.retrieve(query.user_key, taken, query.top_k, read, added, columns, allowed=allowed)
            query.timer.lap("retrieve")
        kept = kept and model_lock is self.model_lock
        if self._recorder is not None and kept and self._recorder.wants_query(self.release):
            self._recorder.keep_query(
                self.release,
                user_key=query.user_key,
                taken=taken,
                top_k=query.top_k,
                events=read,
                user=columns,
                filter=query.filter,
            )
        trending, stale = np.empty(0, dtype=np.int64), False
        if query.trending and not found.known and not found.segment:
            trending, stale = self._trending_items(query, taken, added, deadline)
            items = np.concatenate([trending, found.items[~np.isin(found.items, trending)]])[: query.top_k]
            if len(trending):
                found = replace(found, items=items, scores=(1 / np.arange(1, len(items) + 1)).astype(np.float32))
            query.timer.lap("store")
        if query.filter is not None and selection.report.passed and not len(found.items):
            elsewhere = "" if self._shard is None else f", or are not in shard {self._shard.shard}"
            left_out = found_nothing(selection.report, f"all items that pass were seen, or excluded{elsewhere}")
            selection = replace(selection, report=left_out)
        return RetrieveResult(
            items=found.items,
            scores=found.scores,
            model=self.index.model,
            model_version=self.index.version,
            release=self.release,
            user_known=found.known,
            history_events=0 if events is None else len(events),
            history_known=found.history_known,
            history_unknown=found.history_unknown,
            user_degraded=user.degraded or stale,
            added=added,
            segment=found.segment,
            trending=bool(len(trending)),
            attributes_degraded=selection.report.degraded,
            selection=selection,
            taken=taken,
            shard=None if self._shard is None else self._shard.shard,
        )

    def _counted(self) -> TrendingFinder:
        if self._trending is None:
            raise NotFoundError("fallback: nothing that is trending is counted here")
        return self._trending

    def _trending_items(
        self, query: RetrieveQuery, taken: Int64Array, added: AddedItems | None, deadline: Deadline
    ) -> tuple[Int64Array, bool]:
        """Items with most events that a search could find, up to top_k; and if the store could not be read for it."""
        counts, stale = self._counted().counts(deadline)
        found: list[Int64Array] = [np.empty(0, dtype=np.int64)]
        left, step = query.top_k, max(_FEW, 2 * query.top_k)
        for start in range(0, len(counts.items), step):
            items = counts.items[start : start + step]
            has = self.index.has_items(items)
            if added is not None:
                has |= added.places(items) >= 0
            items = items[has & ~np.isin(items, taken)]
            items = items[candidates_pass(self.items.columns, query.filter, items)[0]][:left]
            found.append(items)
            left -= len(items)
            if not left:
                break
        return np.concatenate(found), stale


def _columns(
    index: CandidateIndex, stored: Mapping[str, Column] | None, given: Mapping[str, Sequence[Any]]
) -> Mapping[str, Column]:
    """A user's stored features with those given in their place that the index reads."""
    own = {
        each.name: request_column(each, given[each.name])
        for each in index.features.user
        if each.name in given and each.name in index.user_inputs
    }
    return {**(stored or {}), **own}


def check_pair(index: CandidateIndex, features: FeatureSet, ranking_model: str) -> None:
    """Refuse an index that cannot be served beside a ranking model of that FeatureSet, by which the store is read.

    Raises:
        BundleError: their ids are not the same, or the store lacks what the index reads of users or of items.
    """
    check_same_ids(index, features, ranking_model)
    check_history(index, features, ranking_model)
    check_attributes(index, features, ranking_model)


def check_same_ids(index: CandidateIndex, features: FeatureSet, ranking_model: str) -> None:
    """Refuse two models whose ids cannot be the same.

    Raises:
        BundleError: one takes integers where the other takes strings.
    """
    problem = ids_problem(index.features, features, retrieval_model=index.model, ranking_model=ranking_model)
    if problem:
        raise BundleError(f"{problem}; serve two models of the same ids")


def check_history(index: CandidateIndex, features: FeatureSet, ranking_model: str) -> None:
    """Refuse an index that knows users by a history that the ranking model's FeatureSet, and so the store, has not.

    Raises:
        BundleError: none is declared, or an attribute that it reads is not there or of another kind.
    """
    if not index.history_fields:
        return
    problem = "" if features.history is not None else "no history"
    stored = {} if features.history is None else {each.name: each for each in features.history.attributes}
    for attribute in () if index.features.history is None else index.features.history.attributes:
        ours = stored.get(attribute.name)
        kind = (attribute.id_type, attribute.storage)
        if attribute.name in index.history_fields and (ours is None or (ours.id_type, ours.storage) != kind):
            problem = problem or f"no attribute {attribute.name!r} of the history, {kind[0]} ids stored as {kind[1]}"
    if problem:
        raise BundleError(
            f"retrieval model {index.model!r} knows users by their history, but the FeatureSet of ranking model "
            f"{ranking_model!r} has {problem}; serve two models of the same log"
        )


def check_attributes(index: CandidateIndex, features: FeatureSet, ranking_model: str) -> None:
    """Refuse an index that reads features of items or users which the ranking model's FeatureSet, and so the store, has
    not: without them each row would be of another item, each search for another user.

    Raises:
        BundleError: a feature is not there, or is another one.
    """
    for what, declared, stored, read in (
        ("new items by their attribute", index.features.item, features.item, index.item_inputs),
        ("users by their feature", index.features.user, features.user, index.user_inputs),
    ):
        by_name = {each.name: each for each in stored}
        for feature in declared:
            ours = by_name.get(feature.name)
            same = ours is not None and replace(ours, filterable=feature.filterable) == feature
            if feature.name in read and not same:
                raise BundleError(
                    f"retrieval model {index.model!r} knows {what} {feature.name!r}, {feature}, but the FeatureSet of "
                    f"ranking model {ranking_model!r} has {ours or 'none of that name'}; serve two models of the same "
                    "log"
                )
