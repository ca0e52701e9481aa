"""Retrieve and Recommend: messages to queries, results to messages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.features.names import Names
from recsys.proto import ranker_pb2 as pb
from recsys.serving.handlers.queries import CANDIDATES, RecommendQuery, RecommendResult, RetrieveQuery, RetrieveResult
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.inference.retrieval_session import MAX_ITEMS
from recsys.serving.rpc.convert.answers import degradations, timings
from recsys.serving.rpc.convert.filters import filter_of, report_message
from recsys.serving.rpc.convert.ids import entity_keys, user_key
from recsys.serving.rpc.convert.rank import feature_values
from recsys.serving.rpc.convert.rules import rules_message, rules_of
from recsys.serving.rpc.convert.times import moment_ms
from recsys.serving.telemetry.stage_timer import StageTimer

MAX_EXCLUDED = 10_000
"""Most items that a caller may leave out."""


def retrieve_query(message: pb.RetrieveRequest, features: FeatureSet) -> RetrieveQuery:
    """Check and convert a Retrieve call.

    Raises:
        InvalidInputError: see the message.
    """
    timer = StageTimer()
    query = RetrieveQuery(
        user_key=user_key(message, features),
        top_k=checked_count("top_k", message.top_k, 1, MAX_ITEMS),
        features=feature_values(message.features),
        exclude=excluded_keys(message.exclude, features),
        include_seen=message.include_seen,
        time_ms=moment_ms("time_ms", message.time_ms),
        timer=timer,
        filter=filter_of(message, features),
        trending=_trending(message.fallback),
    )
    timer.lap("convert")
    return query


def recommend_query(message: pb.RecommendRequest, features: FeatureSet, *, max_candidates: int) -> RecommendQuery:
    """Check and convert a Recommend call.

    Raises:
        InvalidInputError: see the message.
    """
    timer = StageTimer()
    most = min(MAX_ITEMS, max_candidates)
    top_k = checked_count("top_k", message.top_k, 1, most)
    candidates = checked_count("candidates", message.candidates or min(max(CANDIDATES, top_k), most), top_k, most)
    query = RecommendQuery(
        user_key=user_key(message, features),
        top_k=top_k,
        candidates=candidates,
        features=feature_values(message.features),
        exclude=excluded_keys(message.exclude, features),
        include_seen=message.include_seen,
        time_ms=moment_ms("time_ms", message.time_ms),
        timer=timer,
        filter=filter_of(message, features),
        rules=rules_of(message, features, top_k=top_k, candidates=candidates),
        trending=_trending(message.fallback),
    )
    timer.lap("convert")
    return query


def retrieve_response(
    result: RetrieveResult, query: RetrieveQuery, *, names: Names | None, include_timings: bool
) -> pb.RetrieveResponse:
    """Convert a result to the answer of a Retrieve call.

    Args:
        result: the items found.
        query: asked for them.
        names: of the items, where they have any.
        include_timings: say how long each stage took.
    """
    return pb.RetrieveResponse(
        items=item_ids(result.items, names, result.added),
        scores=result.scores.tolist(),
        model=result.model,
        model_version=result.model_version,
        release=result.release,
        user_known=result.user_known,
        fallback=_fallback(result),
        history_events=result.history_events,
        degraded=degradations(result),
        timings=timings(query.timer) if include_timings else None,
        filter=None if query.filter is None or result.selection is None else report_message(result.selection.report),
        items_shard=0 if result.shard is None else result.shard.number,
        items_shards=0 if result.shard is None else result.shard.of,
    )


def recommend_response(
    result: RecommendResult, query: RecommendQuery, *, names: Names | None, include_timings: bool
) -> pb.RecommendResponse:
    """Convert a result to the answer of a Recommend call; arguments as of :func:`retrieve_response`."""
    return pb.RecommendResponse(
        items=item_ids(result.items, names, result.added, {} if query.rules is None else query.rules.texts),
        scores=result.scores.tolist(),
        model=result.model,
        model_version=result.model_version,
        release=result.release,
        retrieval_model=result.retrieval_model,
        retrieval_model_version=result.retrieval_model_version,
        retrieval_release=result.retrieval_release,
        user_known=result.user_known,
        fallback=_fallback(result),
        history_events=result.history_events,
        candidates=result.candidates,
        degraded=degradations(result),
        timings=timings(query.timer) if include_timings else None,
        filter=report_message(result.filter, late=result.withdrawn_late),
        rules=rules_message(result.rules, query.rules),
    )


def _fallback(result: RetrieveResult | RecommendResult) -> pb.Fallback:
    if result.user_known:
        return pb.FALLBACK_UNSPECIFIED
    if result.trending:
        return pb.FALLBACK_TRENDING
    return pb.FALLBACK_SEGMENT if result.segment else pb.FALLBACK_POPULARITY


def _trending(fallback: pb.Fallback) -> bool:
    """Say if a request asks for what is trending."""
    if fallback not in (pb.FALLBACK_UNSPECIFIED, pb.FALLBACK_POPULARITY, pb.FALLBACK_TRENDING):
        raise InvalidInputError(
            f"fallback is {fallback}; allowed: FALLBACK_POPULARITY or unset, and FALLBACK_TRENDING; a segment is the "
            "bundle's to have"
        )
    return fallback == pb.FALLBACK_TRENDING


def item_ids(
    items: Int64Array, names: Names | None, added: AddedItems | None, texts: Mapping[int, str] | None = None
) -> pb.Ids:
    """Convert keys of items to ids: of strings where items have names, in the bundle, among the added ones, or here."""
    if names is None:
        return pb.Ids(integers=items.tolist())
    if not texts and (added is None or added.names is None):
        return pb.Ids(texts=names.of(items))
    found: list[str | None] = list(names.find(items))
    if added is not None and added.names is not None:
        places = added.places(items).tolist()
        found = [added.names[at] if text is None and at >= 0 else text for text, at in zip(found, places, strict=True)]
    keys, others = items.tolist(), texts or {}
    return pb.Ids(texts=[others[key] if text is None else text for text, key in zip(found, keys, strict=True)])


def checked_count(field: str, count: int, least: int, most: int) -> int:
    """Return a count in its range; raises InvalidInputError, which names the field."""
    if not least <= count <= most:
        raise InvalidInputError(f"{field} is {count:,}; allowed: {least:,} to {most:,}")
    return count


def excluded_keys(ids: pb.Ids, features: FeatureSet) -> Int64Array:
    """Keys of items to leave out, perhaps none; raises InvalidInputError."""
    if not ids.integers and not ids.texts:
        return np.empty(0, dtype=np.int64)
    return entity_keys("exclude", ids, features.item_id, most=MAX_EXCLUDED)
