"""Protobuf messages to domain values and back: a Rank call, and what all calls share.

The feature store's calls are in ``convert_events.py`` and ``convert_entities.py``.
What a caller may send is checked here, once. Every complaint names the field as the proto file does,
what arrived, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.columns import feature_keys
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING, integer_key, string_key
from recsys.features.history import MAX_TIMESTAMP_MS
from recsys.proto import ranker_pb2
from recsys.serving.handlers.ranker import RankRequest, RankResult
from recsys.serving.telemetry.stage_timer import STAGES, StageTimer

MAX_BATCH = 100
"""Most requests in a RankBatch call."""

MIN_TIMESTAMP_MS = 100_000_000_000
"""1973-03-03; every time in seconds until the year 5138 is below it, so it tells the units apart."""

_FIELDS = {"int": "integer", "string": "text"}
_NO_ID = "-1 or the empty text, which stand for no value; send an id"


def rank_request(
    message: ranker_pb2.RankRequest, features: FeatureSet, *, max_candidates: int, timer: StageTimer | None = None
) -> RankRequest:
    """Check and convert a Rank call, whose clock is ``timer``.

    Raises:
        InvalidInputError: see the message.
    """
    timer = timer or StageTimer()
    request = RankRequest(
        user_key=user_key(message, features),
        candidate_keys=entity_keys("candidates", message.candidates, features.item_id, most=max_candidates),
        features=feature_values(message.features),
        top_k=message.top_k,
        model=message.model,
        time_ms=moment_ms("time_ms", message.time_ms),
        timer=timer,
        timings=message.timings,
    )
    timer.lap("convert")
    return request


def batch_requests(
    message: ranker_pb2.RankBatchRequest, features: FeatureSet, *, max_candidates: int
) -> list[RankRequest]:
    """Check and convert a RankBatch call; the requests share a clock.

    Raises:
        InvalidInputError: see the message; it begins with the request's place.
    """
    if not 1 <= len(message.requests) <= MAX_BATCH:
        raise InvalidInputError(f"requests: got {len(message.requests):,}; allowed: 1 to {MAX_BATCH} per call")
    timer, requests = StageTimer(), []
    for place, request in enumerate(message.requests):
        try:
            requests.append(rank_request(request, features, max_candidates=max_candidates, timer=timer))
        except InvalidInputError as error:
            raise InvalidInputError(f"requests[{place}].{error}") from None
    if (count := sum(len(request.candidate_keys) for request in requests)) > max_candidates:
        raise InvalidInputError(f"requests: got {count:,} candidates; allowed: {max_candidates:,} in all of a call")
    return requests


def rank_response(result: RankResult, request: RankRequest) -> ranker_pb2.RankResponse:
    """The answer to a Rank call."""
    # tolist(): protobuf takes 6 us for 200 Python floats, 36 us for an array of them.
    return ranker_pb2.RankResponse(
        scores=result.scores.tolist(),
        positions=None if result.positions is None else result.positions.tolist(),
        model=result.model,
        model_version=result.model_version,
        history_events=result.history_events,
        degraded=degradations(result),
        timings=timings(request.timer) if request.timings else None,
    )


class Degradable(Protocol):
    """An answer that may be worse than it could be."""

    @property
    def user_degraded(self) -> bool:
        """The user's history or features could not be read."""
        ...

    @property
    def items_degraded(self) -> bool:
        """Nor could the candidates' features."""
        ...

    @property
    def history_degraded(self) -> bool:
        """Only the newest part of a long history was looked at."""
        ...


_DEGRADATIONS = {
    "user": ranker_pb2.DEGRADATION_USER_UNAVAILABLE,
    "items": ranker_pb2.DEGRADATION_ITEMS_UNAVAILABLE,
    "history": ranker_pb2.DEGRADATION_HISTORY_PARTIAL,
}


def degraded_parts(result: Degradable) -> list[str]:
    """List the parts that an answer lacks, by the names that clients get and counters have."""
    flags = (result.user_degraded, result.items_degraded, result.history_degraded)
    return [part for part, missing in zip(_DEGRADATIONS, flags, strict=True) if missing]


def degradations(result: Degradable) -> list[ranker_pb2.Degradation]:
    """List the same parts as the message has them."""
    return [_DEGRADATIONS[part] for part in degraded_parts(result)]


def timings(timer: StageTimer) -> ranker_pb2.Timings:
    """What a call took until now."""
    timer.finish()
    return ranker_pb2.Timings(**{f"{stage}_us": us for stage, us in zip(STAGES, timer.in_us(), strict=True)})


def user_key(message: Any, features: FeatureSet) -> int:
    """The key of ``message.user``, an Id.

    Raises:
        InvalidInputError: there is none, or not of the declared type.
    """
    wanted = _FIELDS[features.user_id.id_type]
    found = message.user.WhichOneof("value")
    if found is None:
        raise InvalidInputError(f"user: no id was sent; set user.{wanted}")
    value = getattr(message.user, found)
    if found != wanted:
        raise InvalidInputError(
            f"user.{found} is {value!r}, but {features.user_id.name!r} takes "
            f"{features.user_id.id_type} ids; set user.{wanted}"
        )
    if value in ("", MISSING):
        raise InvalidInputError(f"user.{wanted} is {_NO_ID}")
    return integer_key(value) if wanted == "integer" else string_key(value)


def entity_keys(field: str, ids: ranker_pb2.Ids, feature: Categorical, *, most: int) -> Int64Array:
    """The keys of ids, none of which may be missing; int64, shape [N], 1 <= N <= most.

    Raises:
        InvalidInputError: there are too many or none, they are not of the type that ``feature`` declares, or one
            is missing.
    """
    count = max(len(ids.integers), len(ids.texts))
    if not 1 <= count <= most:
        raise InvalidInputError(f"{field}: got {count:,}; allowed: 1 to {most:,} per request")
    raw = raw_ids(field, ids, feature)
    # Nearly always all ids are their own keys, and one pass can tell: as unsigned, negative ids are large.
    if isinstance(raw, np.ndarray) and raw.view(np.uint64).max() < KEY_LIMIT:
        own_keys: Int64Array = raw
        return own_keys
    keys = feature_keys(feature, raw)
    if (missing := keys == MISSING).any():
        raise InvalidInputError(f"{field}[{int(np.argmax(missing))}] is {_NO_ID}")
    return keys


def raw_ids(field: str, ids: ranker_pb2.Ids, feature: Categorical) -> Any:
    """Raw ids of the kind that ``feature`` takes: an int64 array or a list of strings.

    Raises:
        InvalidInputError: there are ids of the other kind.
    """
    wanted = _FIELDS[feature.id_type] + "s"
    if len(ids.texts if wanted == "integers" else ids.integers):
        raise InvalidInputError(
            f"{field}: got {len(ids.integers)} integers and {len(ids.texts)} texts, but {feature.name!r} takes "
            f"{feature.id_type} ids; fill {field}.{wanted} only"
        )
    return int64_array(ids.integers) if wanted == "integers" else list(ids.texts)


def feature_values(values: Mapping[str, ranker_pb2.FeatureValue]) -> dict[str, list[Any]]:
    """The raw values of overriding features; whether they fit is the encoder's business.

    Raises:
        InvalidInputError: one is of several kinds.
    """
    return {name: _feature_values(name, value) for name, value in values.items()}


def _feature_values(name: str, value: ranker_pb2.FeatureValue) -> list[Any]:
    filled = [field for field in ("integers", "texts", "numbers") if len(getattr(value, field))]
    if len(filled) > 1:
        raise InvalidInputError(f"features[{name!r}]: {' and '.join(filled)} are filled; allowed: one of them")
    return list(getattr(value, filled[0])) if filled else []


def moment_ms(field: str, time_ms: int) -> int | None:
    """A point in time, None for 0.

    Raises:
        InvalidInputError: it is not in milliseconds, by its size.
    """
    if not time_ms:
        return None
    if not MIN_TIMESTAMP_MS <= time_ms <= MAX_TIMESTAMP_MS:
        raise InvalidInputError(f"{field} is {time_ms}: {time_problem(time_ms, MAX_TIMESTAMP_MS)}")
    return time_ms


def time_problem(time_ms: int, latest_ms: int) -> str:
    """Why a time is not allowed, and what is."""
    if time_ms < 0:
        return "negative; allowed: milliseconds since 1970-01-01T00:00:00Z"
    if time_ms < MIN_TIMESTAMP_MS:
        return f"before 1973, so probably seconds; allowed: milliseconds since 1970, from {MIN_TIMESTAMP_MS}"
    unit = ", so probably micro- or nanoseconds" if time_ms > 100 * latest_ms else ""
    return f"{(time_ms - latest_ms) / 1000:.0f} s later than allowed{unit}; allowed: milliseconds up to {latest_ms}"


def int64_array(packed: Any) -> Int64Array:
    """A packed integer field as int64. protobuf implements ``__array__``: 4 us for 10,000 ids, against
    370 us by way of a list."""
    return np.array(packed, dtype=np.int64)
