"""Rank and RankBatch: messages to requests, results to messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.proto import ranker_pb2
from recsys.proto.limits import GIVEN_VALUES, REQUESTS
from recsys.serving.handlers.ranker import RankRequest, RankResult
from recsys.serving.rpc.convert.answers import degradations, timings
from recsys.serving.rpc.convert.filters import filter_of, report_message
from recsys.serving.rpc.convert.ids import entity_keys, id_count, user_key
from recsys.serving.rpc.convert.rules import rules_message, rules_of
from recsys.serving.rpc.convert.times import moment_ms
from recsys.serving.telemetry.stage_timer import StageTimer

MAX_BATCH = REQUESTS


def rank_request(
    message: ranker_pb2.RankRequest, features: FeatureSet, *, max_candidates: int, timer: StageTimer | None = None
) -> RankRequest:
    """Check and convert a Rank call, whose clock is ``timer``.

    Raises:
        InvalidInputError: see the message.
    """
    timer = timer or StageTimer()
    candidate_keys = entity_keys("candidates", message.candidates, features.item_id, most=max_candidates)
    request = RankRequest(
        user_key=user_key(message, features),
        candidate_keys=candidate_keys,
        features=feature_values(message.features),
        top_k=message.top_k,
        time_ms=moment_ms("time_ms", message.time_ms),
        timer=timer,
        timings=message.timings,
        filter=filter_of(message, features),
        rules=rules_of(message, features, top_k=message.top_k, candidates=len(candidate_keys)),
    )
    timer.lap("convert")
    return request


def check_batch(message: ranker_pb2.RankBatchRequest) -> None:
    """Raise InvalidInputError if a RankBatch call has no requests, or too many."""
    if not 1 <= len(message.requests) <= MAX_BATCH:
        raise InvalidInputError(f"requests: got {len(message.requests):,}; allowed: 1 to {MAX_BATCH} per call")


def batch_requests(
    message: ranker_pb2.RankBatchRequest, features: Sequence[FeatureSet], *, max_candidates: int
) -> list[RankRequest]:
    """Check and convert a RankBatch call; the requests share a clock.

    Args:
        message: the call.
        features: of each request's model.
        max_candidates: most candidates of all requests together.

    Raises:
        InvalidInputError: see the message; it begins with the request's place.
    """
    # Before any is converted: each alone may have as many.
    if (count := sum(id_count(request.candidates) for request in message.requests)) > max_candidates:
        raise InvalidInputError(f"requests: got {count:,} candidates; allowed: {max_candidates:,} in all of a call")
    timer, requests = StageTimer(), []
    for place, (request, own) in enumerate(zip(message.requests, features, strict=True)):
        try:
            requests.append(rank_request(request, own, max_candidates=max_candidates, timer=timer))
        except InvalidInputError as error:
            raise InvalidInputError(f"requests[{place}].{error}") from None
    return requests


def rank_response(result: RankResult, request: RankRequest) -> ranker_pb2.RankResponse:
    """Convert a result to the answer of a Rank call."""
    # tolist(): protobuf takes 6 us for 200 Python floats, 36 us for an array of them.
    return ranker_pb2.RankResponse(
        scores=result.scores.tolist(),
        positions=None if result.positions is None else result.positions.tolist(),
        model=result.model,
        model_version=result.model_version,
        release=result.release,
        history_events=result.history_events,
        degraded=degradations(result),
        timings=timings(request.timer) if request.timings else None,
        filter=report_message(result.filter, filtered_out=result.filtered_out),
        rules=rules_message(result.rules, request.rules),
    )


def feature_values(values: Mapping[str, ranker_pb2.FeatureValue]) -> dict[str, list[Any]]:
    """Read the raw values of overriding features; whether they fit is the encoder's business.

    Raises:
        InvalidInputError: one is of several kinds, or they have too many values.
    """
    counts = (len(v.integers) + len(v.texts) + len(v.numbers) for v in values.values())
    if (count := sum(counts)) > GIVEN_VALUES:
        raise InvalidInputError(f"features: got {count:,} values; allowed: up to {GIVEN_VALUES:,} in all of them")
    return {name: _feature_values(name, value) for name, value in values.items()}


def _feature_values(name: str, value: ranker_pb2.FeatureValue) -> list[Any]:
    filled = [field for field in ("integers", "texts", "numbers") if len(getattr(value, field))]
    if len(filled) > 1:
        raise InvalidInputError(f"features[{name!r}]: {' and '.join(filled)} are filled; allowed: one of them")
    return list(getattr(value, filled[0])) if filled else []
