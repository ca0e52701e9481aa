"""Recommendations from a user's id alone: read what was seen, retrieve the best of all other items, rank these.

Knows nothing of gRPC. Coroutines here await the store and the ranker alone, as those of ``ranker.py`` do. Shapes use
``K`` items in an answer, ``N`` items to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import BundleError, NotFoundError, StoreError, nearest
from recsys.feature_store.base import FeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import Int64Array
from recsys.serving.admission import Admission, Deadline
from recsys.serving.ranker import Ranker, RankRequest
from recsys.serving.retrieval import RetrievalSession, Retrieved
from recsys.serving.session import Float32Array
from recsys.serving.stages import StageTimes
from recsys.serving.turns import Turns

CANDIDATES = 500
"""Items that are retrieved for the ranker, unless a request asks for others or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveQuery:
    """What to retrieve.

    Attributes:
        user_key: key of the user's id.
        top_k: how many items.
        exclude: keys of items to leave out, shape [N], N >= 0; may hold duplicates and unknown ones.
        include_seen: do not leave out the items of the user's history.
        model: the retrieval model asked for; empty for the one there is.
        time_ms: only events before this time, and arrived by then, count as seen; None: all that are stored.
        times: the request's clock.
    """

    user_key: int
    top_k: int
    exclude: Int64Array
    include_seen: bool = False
    model: str = ""
    time_ms: int | None = None
    times: StageTimes = field(default_factory=StageTimes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveResult:
    """What was retrieved.

    Attributes:
        items: keys, best first; [K], K <= top_k.
        scores: of any size, higher is better; [K].
        user_known: whether the model knows the user; if not, the items are the most popular ones.
        history_events: past events whose items were left out.
        user_degraded: the history could not be read, so that seen items may be among these.
        items_degraded, history_partial: never so.
    """

    items: Int64Array
    scores: Float32Array
    model: str
    model_version: str
    user_known: bool
    history_events: int
    user_degraded: bool
    items_degraded: bool = False
    history_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendQuery:
    """What to recommend.

    Attributes:
        user_key, exclude, include_seen, time_ms, times: as in :class:`RetrieveQuery`.
        top_k: how many items.
        candidates: how many are retrieved and ranked, at least top_k.
        features, model: as in ``RankRequest``.
        retrieval_model: the retrieval model asked for; empty for the one there is.
    """

    user_key: int
    top_k: int
    candidates: int
    exclude: Int64Array
    features: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    include_seen: bool = False
    model: str = ""
    retrieval_model: str = ""
    time_ms: int | None = None
    times: StageTimes = field(default_factory=StageTimes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendResult:
    """What was recommended.

    Attributes:
        items: keys, best first; [K], K <= top_k.
        scores: the ranking model's, in [0, 1]; [K].
        user_known: whether the retrieval model knows the user.
        history_events: past events the ranking model looked at.
        candidates: how many items were retrieved and ranked.
        user_degraded, items_degraded, history_partial: as in ``RankResult``.
    """

    items: Int64Array
    scores: Float32Array
    model: str
    model_version: str
    retrieval_model: str
    retrieval_model_version: str
    user_known: bool
    history_events: int
    candidates: int
    user_degraded: bool = False
    items_degraded: bool = False
    history_partial: bool = False


class Recommender:
    """Retrieves with one model, ranks with another, on one feature store. Safe to use from several threads.

    Args:
        retrieval: finds candidates.
        ranker: orders them; None: :meth:`retrieve` is all there is.
        store: read for each request; not closed here.
        admission: the places of requests; those of the ranker, if there is one.
        turns: whose turn it is to run a model; likewise.

    Raises:
        BundleError: the two models take users or items by different kinds of ids.
    """

    def __init__(
        self,
        retrieval: RetrievalSession,
        *,
        ranker: Ranker | None,
        store: FeatureStore,
        admission: Admission,
        turns: Turns,
        store_timeout_s: float,
    ) -> None:
        if ranker is not None:
            check_same_ids(retrieval, ranker.features, ranker.session.model)
        self.features = retrieval.features if ranker is None else ranker.features
        self.retrieval = retrieval
        self._ranker = ranker
        self._store = store
        self._admission = admission
        self._turns = turns
        self._store_timeout_s = store_timeout_s

    async def retrieve(self, query: RetrieveQuery, *, deadline: Deadline) -> RetrieveResult:
        """The best items of all, without those that were seen or are excluded. Trouble with the store degrades it.

        Raises:
            NotFoundError: another model was asked for.
            OverloadedError: there is no room.
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
            InvalidInputError: top_k is out of range.
        """
        with self._admission.enter():
            return await self._retrieve(query, deadline)

    async def recommend(self, query: RecommendQuery, *, deadline: Deadline) -> RecommendResult:
        """The best of what :meth:`retrieve` finds, by the ranking model.

        Raises:
            NotFoundError: another model was asked for, or there is no ranking model.
            OverloadedError, TimeoutError: as :meth:`retrieve`.
            InvalidInputError: candidates is out of range, or as ``Ranker.rank``.
        """
        if self._ranker is None:
            raise NotFoundError("no ranking model is served here, only a retrieval model; ask it by Retrieve")
        with self._admission.enter():
            found = await self._retrieve(
                RetrieveQuery(
                    user_key=query.user_key,
                    top_k=query.candidates,
                    exclude=query.exclude,
                    include_seen=query.include_seen,
                    model=query.retrieval_model,
                    time_ms=query.time_ms,
                    times=query.times,
                ),
                deadline,
            )
            request = RankRequest(
                user_key=query.user_key,
                candidate_keys=found.items,
                features=query.features,
                top_k=query.top_k,
                model=query.model,
                time_ms=query.time_ms,
                times=query.times,
            )
            if not len(found.items):
                return _nothing(found, self._ranker)
            ranked = await self._ranker.rank_admitted(request, deadline=deadline)
        assert ranked.positions is not None
        return RecommendResult(
            items=found.items[ranked.positions],
            scores=ranked.scores,
            model=ranked.model,
            model_version=ranked.model_version,
            retrieval_model=found.model,
            retrieval_model_version=found.model_version,
            user_known=found.user_known,
            history_events=ranked.history_events,
            candidates=len(found.items),
            user_degraded=found.user_degraded or ranked.user_degraded,
            items_degraded=ranked.items_degraded,
            history_partial=ranked.history_partial,
        )

    async def _retrieve(self, query: RetrieveQuery, deadline: Deadline) -> RetrieveResult:
        model = self.retrieval.model
        if query.model not in ("", model):
            raise NotFoundError(f"retrieval model {query.model!r} is not served here: {nearest(query.model, [model])}")
        taken, events, degraded = query.exclude, 0, False
        if not query.include_seen and self.features.history is not None:
            try:
                seen = await self._seen(query, deadline)
            except StoreError:
                degraded = True
            else:
                # A graph's lookup of an item costs 256 bytes; users come back to what they know.
                taken, events = np.unique(np.concatenate([taken, seen])), len(seen)
            query.times.lap("store")
        with self._turns.taken(deadline):
            query.times.lap("wait")
            deadline.remaining_s()
            found: Retrieved = self.retrieval.retrieve(query.user_key, taken, query.top_k)
            query.times.lap("retrieve")
        return RetrieveResult(
            items=found.items,
            scores=found.scores,
            model=model,
            model_version=self.retrieval.version,
            user_known=found.known,
            history_events=events,
            user_degraded=degraded,
        )

    async def _seen(self, query: RetrieveQuery, deadline: Deadline) -> Int64Array:
        """Items of the stored events of the user, however old: seen is seen."""
        timeout_s = min(self._store_timeout_s, deadline.remaining_s() / 2)
        _, events = await self._store.history(query.user_key, until_ms=query.time_ms, timeout_s=timeout_s)
        if query.time_ms is not None:
            events = events[events["arrival"] <= query.time_ms]
        items: Int64Array = events["item"]
        return items


def check_same_ids(retrieval: RetrievalSession, features: FeatureSet, ranking_model: str) -> None:
    """Refuse two models whose ids cannot be the same.

    Raises:
        BundleError: one takes integers where the other takes strings.
    """
    own = retrieval.features
    for side, ours, theirs in (
        ("users", own.user_id, features.user_id),
        ("items", own.item_id, features.item_id),
    ):
        if ours.id_type != theirs.id_type:
            raise BundleError(
                f"retrieval model {retrieval.model!r} names {side} by {ours.id_type} ids ({ours.name!r}), ranking "
                f"model {ranking_model!r} by {theirs.id_type} ids ({theirs.name!r}); serve two models of the same ids"
            )


def _nothing(found: RetrieveResult, ranker: Ranker) -> RecommendResult:
    """The answer for a user who has seen everything."""
    return RecommendResult(
        items=found.items,
        scores=found.scores,
        model=ranker.session.model,
        model_version=ranker.session.version,
        retrieval_model=found.model,
        retrieval_model_version=found.model_version,
        user_known=found.user_known,
        history_events=0,
        candidates=0,
        user_degraded=found.user_degraded,
    )
