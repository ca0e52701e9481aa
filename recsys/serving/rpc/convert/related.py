"""Related: messages to queries, results to messages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.features.names import Names
from recsys.proto import related_pb2 as pb
from recsys.proto.limits import SEEDS
from recsys.proto.ranker_pb2 import DEGRADATION_ATTRIBUTES_STALE, Ids
from recsys.serving.handlers.related.audience import AudienceQuery, AudienceResult
from recsys.serving.handlers.related.similar import By, SimilarQuery, SimilarResult
from recsys.serving.handlers.related.trending import TrendingQuery, TrendingResult
from recsys.serving.inference.retrieval_session import MAX_ITEMS
from recsys.serving.rpc.convert.answers import degradations, timings
from recsys.serving.rpc.convert.filters import filter_of, report_message
from recsys.serving.rpc.convert.ids import entity_keys
from recsys.serving.rpc.convert.retrieval import checked_count, excluded_keys, item_ids
from recsys.serving.telemetry.stage_timer import StageTimer

_BY: dict[pb.SimilarBy, By | None] = {
    pb.SIMILAR_BY_UNSPECIFIED: None,
    pb.SIMILAR_BY_VECTORS: "vectors",
    pb.SIMILAR_BY_USERS: "users",
}
_BY_MESSAGE = {by: number for number, by in _BY.items()}


def similar_query(message: pb.SimilarRequest, features: FeatureSet) -> SimilarQuery:
    """Check and convert a Similar call.

    Raises:
        InvalidInputError: see the message.
    """
    timer = StageTimer()
    if message.by not in _BY:
        raise InvalidInputError(f"by is {message.by}; allowed: {', '.join(map(str, _BY))} (SimilarBy)")
    query = SimilarQuery(
        seeds=entity_keys("items", message.items, features.item_id, most=SEEDS),
        top_k=checked_count("top_k", message.top_k, 1, MAX_ITEMS),
        exclude=excluded_keys(message.exclude, features),
        timer=timer,
        filter=filter_of(message, features),
        by=_BY[message.by],
    )
    timer.lap("convert")
    return query


def similar_response(
    result: SimilarResult, query: SimilarQuery, *, names: Names | None, include_timings: bool
) -> pb.SimilarResponse:
    """Convert a result to the answer of a Similar call.

    Args:
        result: the items found.
        query: asked for them.
        names: of the items, where they have any.
        include_timings: say how long each stage took.
    """
    return pb.SimilarResponse(
        items=item_ids(result.items, names, result.added),
        scores=result.scores.tolist(),
        unknown=np.flatnonzero(~result.known).tolist(),
        model=result.model,
        model_version=result.model_version,
        release=result.release,
        timings=timings(query.timer) if include_timings else None,
        filter=report_message(result.filter),
        degraded=degradations(result),
        by=_BY_MESSAGE[result.by],
    )


def audience_query(message: pb.AudienceRequest, features: FeatureSet) -> AudienceQuery:
    """Check and convert an Audience call.

    Raises:
        InvalidInputError: see the message.
    """
    timer = StageTimer()
    seeds = entity_keys("items", message.items, features.item_id, most=SEEDS)
    query = AudienceQuery(
        seeds=seeds,
        top_k=checked_count("top_k", message.top_k, 1, MAX_ITEMS),
        at_least=max(1, checked_count("at_least", message.at_least, 0, len(np.unique(seeds)))),
        timer=timer,
    )
    timer.lap("convert")
    return query


def audience_response(
    result: AudienceResult, query: AudienceQuery, *, features: FeatureSet, include_timings: bool
) -> pb.AudienceResponse:
    """Convert a result to the answer of an Audience call.

    Args:
        result: the users found.
        query: asked for them.
        features: declare what users are named by.
        include_timings: say how long each stage took.
    """
    return pb.AudienceResponse(
        users=Ids(integers=result.users.tolist(), are_keys=features.user_id.id_type == "string"),
        shared=result.shared.tolist(),
        of=result.of.tolist(),
        total=result.total,
        unknown=np.flatnonzero(~result.known).tolist(),
        model=result.model,
        model_version=result.model_version,
        release=result.release,
        timings=timings(query.timer) if include_timings else None,
    )


def trending_query(message: pb.TrendingRequest, features: FeatureSet) -> TrendingQuery:
    """Check and convert a Trending call.

    Raises:
        InvalidInputError: see the message.
    """
    timer = StageTimer()
    query = TrendingQuery(
        top_k=checked_count("top_k", message.top_k, 1, MAX_ITEMS),
        exclude=excluded_keys(message.exclude, features),
        timer=timer,
        filter=filter_of(message, features),
    )
    timer.lap("convert")
    return query


def trending_response(
    result: TrendingResult, query: TrendingQuery, *, texts: Mapping[int, str] | None, include_timings: bool
) -> pb.TrendingResponse:
    """Convert a result to the answer of a Trending call.

    Args:
        result: the items found.
        query: asked for them.
        texts: of items by key, where they are named by strings; those that lack one are left out.
        include_timings: say how long each stage took.
    """
    items, scores = result.items.tolist(), result.scores.tolist()
    if texts is None:
        ids = Ids(integers=items)
    else:
        scores = [score for item, score in zip(items, scores, strict=True) if item in texts]
        ids = Ids(texts=[texts[item] for item in items if item in texts])
    return pb.TrendingResponse(
        items=ids,
        scores=scores,
        as_of_ms=result.as_of_ms,
        half_life_s=result.declared.half_life_s,
        window_s=result.declared.window_s,
        stale=result.stale,
        timings=timings(query.timer) if include_timings else None,
        filter=report_message(result.filter),
        degraded=[DEGRADATION_ATTRIBUTES_STALE] if result.attributes_degraded else [],
    )
