"""Messages of the ranking service: arguments to requests, responses to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.client.filters import Where
from recsys.client.messages.fields import feature_values, found_ids, id_field, ids_field, set_fields, timings_us
from recsys.client.messages.filters import filter_message, filter_report
from recsys.client.messages.rules import rule_messages, rules_report
from recsys.client.rules import Rule
from recsys.client.types import Id, Ids, Ranking, RankQuery, Recommendation, Retrieval
from recsys.errors import InvalidInputError, nearest
from recsys.proto import ranker_pb2

_DEGRADATIONS = {
    ranker_pb2.DEGRADATION_USER_UNAVAILABLE: "user",
    ranker_pb2.DEGRADATION_ITEMS_UNAVAILABLE: "items",
    ranker_pb2.DEGRADATION_HISTORY_PARTIAL: "history",
    ranker_pb2.DEGRADATION_ATTRIBUTES_STALE: "attributes",
}


def rank_request(query: RankQuery, *, timings: bool = False) -> ranker_pb2.RankRequest:
    """The message of ``Client.rank``."""
    request = ranker_pb2.RankRequest(
        user=id_field(query.user),
        candidates=ids_field("candidates", query.candidates),
        features=feature_values(query.features),
        timings=timings,
        filter=filter_message(query.filter),
        rules=rule_messages(query.rules),
        reasons=query.reasons,
    )
    set_fields(request, top_k=query.top_k, model=query.model, time_ms=query.time_ms)
    return request


def rank_batch_request(queries: Sequence[RankQuery], *, timings: bool) -> ranker_pb2.RankBatchRequest:
    """The message of ``Client.rank_batch``."""
    requests = []
    for index, query in enumerate(queries):
        try:
            requests.append(rank_request(query, timings=timings))
        except InvalidInputError as error:
            raise InvalidInputError(f"requests[{index}].{error}") from None
    return ranker_pb2.RankBatchRequest(requests=requests)


def retrieve_request(
    user: Id,
    top_k: int,
    features: Mapping[str, Any] | None,
    exclude: Ids | None,
    include_seen: bool,
    model: str,
    time_ms: int | None,
    timings: bool,
    where: Where | None = None,
    fallback: str = "",
) -> ranker_pb2.RetrieveRequest:
    """The message of ``Client.retrieve``."""
    request = ranker_pb2.RetrieveRequest(
        user=id_field(user),
        features=feature_values(features),
        exclude=excluded(exclude),
        include_seen=include_seen,
        timings=timings,
        filter=filter_message(where),
        fallback=_wanted_fallback(fallback),
    )
    set_fields(request, top_k=top_k, model=model, time_ms=time_ms)
    return request


def recommend_request(
    user: Id,
    top_k: int,
    candidates: int,
    features: Mapping[str, Any] | None,
    exclude: Ids | None,
    include_seen: bool,
    model: str,
    retrieval_model: str,
    time_ms: int | None,
    timings: bool,
    where: Where | None = None,
    rules: Sequence[Rule] = (),
    reasons: bool = False,
    fallback: str = "",
) -> ranker_pb2.RecommendRequest:
    """The message of ``Client.recommend``."""
    request = ranker_pb2.RecommendRequest(
        user=id_field(user),
        features=feature_values(features),
        exclude=excluded(exclude),
        include_seen=include_seen,
        timings=timings,
        filter=filter_message(where),
        rules=rule_messages(rules),
        reasons=reasons,
        fallback=_wanted_fallback(fallback),
    )
    set_fields(
        request, top_k=top_k, candidates=candidates, model=model, retrieval_model=retrieval_model, time_ms=time_ms
    )
    return request


def ranking(response: ranker_pb2.RankResponse, candidates: Ids) -> Ranking:
    """The result of ``Client.rank``."""
    items = list(candidates)
    positions = np.array(response.positions, dtype=np.int64)
    if len(positions) or response.HasField("filter"):
        items = [items[i] for i in positions]
    else:
        positions = np.arange(len(items))
    return Ranking(
        items=items,
        scores=np.array(response.scores, dtype=np.float32),
        positions=positions,
        model=response.model,
        model_version=response.model_version,
        release=response.release,
        history_events=response.history_events,
        degraded=degraded_parts(response),
        timings_us=timings_us(response),
        filter=filter_report(response),
        rules=rules_report(response),
    )


def rankings(response: ranker_pb2.RankBatchResponse, queries: Sequence[RankQuery]) -> list[Ranking]:
    """The results of ``Client.rank_batch``."""
    return [ranking(answer, query.candidates) for answer, query in zip(response.responses, queries, strict=True)]


def retrieval(response: ranker_pb2.RetrieveResponse) -> Retrieval:
    """The result of ``Client.retrieve``."""
    return Retrieval(
        items=found_ids(response.items),
        scores=np.array(response.scores, dtype=np.float32),
        model=response.model,
        model_version=response.model_version,
        release=response.release,
        user_known=response.user_known,
        fallback=_FALLBACKS.get(response.fallback, ""),
        history_events=response.history_events,
        degraded=degraded_parts(response),
        timings_us=timings_us(response),
        filter=filter_report(response),
        shard=(response.items_shard, response.items_shards) if response.items_shards else None,
    )


def recommendation(response: ranker_pb2.RecommendResponse) -> Recommendation:
    """The result of ``Client.recommend``."""
    return Recommendation(
        items=found_ids(response.items),
        scores=np.array(response.scores, dtype=np.float32),
        model=response.model,
        model_version=response.model_version,
        release=response.release,
        retrieval_model=response.retrieval_model,
        retrieval_model_version=response.retrieval_model_version,
        retrieval_release=response.retrieval_release,
        user_known=response.user_known,
        fallback=_FALLBACKS.get(response.fallback, ""),
        history_events=response.history_events,
        candidates=response.candidates,
        degraded=degraded_parts(response),
        timings_us=timings_us(response),
        filter=filter_report(response),
        rules=rules_report(response),
    )


_FALLBACKS = {
    ranker_pb2.FALLBACK_POPULARITY: "popularity",
    ranker_pb2.FALLBACK_SEGMENT: "segment",
    ranker_pb2.FALLBACK_TRENDING: "trending",
}
_WANTED = {
    "": ranker_pb2.FALLBACK_UNSPECIFIED,
    "popularity": ranker_pb2.FALLBACK_POPULARITY,
    "trending": ranker_pb2.FALLBACK_TRENDING,
}


def _wanted_fallback(name: str) -> ranker_pb2.Fallback:
    """The fallback that a request asks for; raises InvalidInputError for a name that is none."""
    if name not in _WANTED:
        raise InvalidInputError(f"fallback is {name!r}: {nearest(str(name), filter(None, _WANTED))}")
    return _WANTED[name]


def degraded_parts(response: Any) -> tuple[str, ...]:
    """Names of the parts that an answer lacks."""
    return tuple(_DEGRADATIONS[d] for d in response.degraded if d in _DEGRADATIONS)


def excluded(exclude: Ids | None) -> ranker_pb2.Ids | None:
    """The items to leave out; None: none are named."""
    return None if exclude is None else ids_field("exclude", exclude)
