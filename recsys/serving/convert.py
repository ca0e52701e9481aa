"""Protobuf messages to domain values and back. What a caller may send is checked here, once.

Every complaint names the field as the proto file does, what arrived, and what is allowed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.errors import InvalidInputError, nearest
from recsys.feature_store.base import AppendResult
from recsys.features.columns import feature_keys
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING, Int64Array, integer_key, string_key
from recsys.features.history import Events, HistoryHeader, attribute_keys, make_events, require_history
from recsys.serving._pb import feature_store_pb2, ranker_pb2
from recsys.serving.ranker import RankRequest, RankResult

MAX_EVENTS = 10_000
"""Most events in one AppendEvents or GetHistory call."""

_MIN_TIMESTAMP_MS = 100_000_000_000
"""1973-03-03; every time in seconds until the year 5138 is below it, so it tells the units apart."""

_FIELDS = {"int": "integer", "string": "text"}
_NO_ID = "-1 or the empty text, which stand for no value; send an id"


def rank_request(message: ranker_pb2.RankRequest, features: FeatureSet, *, max_candidates: int) -> RankRequest:
    """Check and convert a Rank call.

    Raises:
        InvalidInputError: see the message.
    """
    count = max(len(message.candidates.integers), len(message.candidates.texts))
    if not 1 <= count <= max_candidates:
        raise InvalidInputError(f"candidates: got {count:,}; allowed: 1 to {max_candidates:,} per request")
    return RankRequest(
        user_key=_user_key(message, features),
        candidate_keys=_candidate_keys(message.candidates, features.item_id),
        features={name: _feature_values(name, value) for name, value in message.features.items()},
        top_k=message.top_k,
        model=message.model,
    )


def rank_response(result: RankResult) -> ranker_pb2.RankResponse:
    """The answer to a Rank call."""
    degraded = []
    if result.user_degraded:
        degraded.append(ranker_pb2.DEGRADATION_USER_UNAVAILABLE)
    if result.items_degraded:
        degraded.append(ranker_pb2.DEGRADATION_ITEMS_UNAVAILABLE)
    # tolist(): protobuf takes 6 us for 200 Python floats, 36 us for an array of them.
    return ranker_pb2.RankResponse(
        scores=result.scores.tolist(),
        positions=None if result.positions is None else result.positions.tolist(),
        model=result.model,
        model_version=result.model_version,
        history_events=result.history_events,
        degraded=degraded,
    )


def append_request(
    message: feature_store_pb2.AppendEventsRequest, features: FeatureSet, *, future_tolerance_s: int
) -> tuple[int, Events]:
    """Check and convert an AppendEvents call to the user's key and packed events.

    Attributes that were not sent are missing; the service fills those that the items have.

    Raises:
        InvalidInputError: see the message.
    """
    user_key = _user_key(message, features)
    columns = message.events
    items = _ids("events.items", columns.items, features.item_id)
    if not 1 <= len(items) <= MAX_EVENTS:
        raise InvalidInputError(f"events.items: got {len(items):,} events; allowed: 1 to {MAX_EVENTS:,} per call")
    now_ms = time.time_ns() // 1_000_000
    latest_ms = now_ms + 1000 * future_tolerance_s
    timestamps_ms = _times("events.timestamps_ms", columns.timestamps_ms, len(items), latest_ms)
    arrivals_ms = np.full(len(items), now_ms)
    if columns.arrivals_ms:
        arrivals_ms = _times("events.arrivals_ms", columns.arrivals_ms, len(items), latest_ms)
    events = make_events(
        features,
        item=items,
        timestamp_ms=timestamps_ms,
        arrival_ms=arrivals_ms,
        attributes=_attributes(columns.attributes, features, len(items)),
    )
    return user_key, events


def append_response(result: AppendResult) -> feature_store_pb2.AppendEventsResponse:
    """The answer to an AppendEvents call."""
    return feature_store_pb2.AppendEventsResponse(added=result.added, stored=result.stored)


def history_request(message: feature_store_pb2.GetHistoryRequest, features: FeatureSet) -> tuple[int, int]:
    """Check and convert a GetHistory call to the user's key and the number of events wanted.

    Raises:
        InvalidInputError: see the message.
    """
    if message.limit > MAX_EVENTS:
        raise InvalidInputError(
            f"limit is {message.limit:,}; allowed: 1 to {MAX_EVENTS:,}, or 0 for as many as a model reads"
        )
    return _user_key(message, features), message.limit or require_history(features).recent


def history_response(
    header: HistoryHeader, events: Events, features: FeatureSet
) -> feature_store_pb2.GetHistoryResponse:
    """The answer to a GetHistory call."""
    return feature_store_pb2.GetHistoryResponse(
        events=feature_store_pb2.EventColumns(
            items=ranker_pb2.Ids(integers=events["item"].tolist()),
            timestamps_ms=events["timestamp"].tolist(),
            arrivals_ms=events["arrival"].tolist(),
            attributes={
                a.name: ranker_pb2.Ids(integers=attribute_keys(a, events).tolist())
                for a in require_history(features).attributes
            },
        ),
        appended=header.appended,
        trimmed=header.trimmed,
    )


def _user_key(message: Any, features: FeatureSet) -> int:
    """The key of ``message.user``, an Id."""
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


def _candidate_keys(candidates: ranker_pb2.Ids, item_id: Categorical) -> Int64Array:
    ids = _ids("candidates", candidates, item_id)
    # Nearly always all ids are their own keys, and one pass can tell: as unsigned, negative ids are large.
    if isinstance(ids, np.ndarray) and ids.view(np.uint64).max() < KEY_LIMIT:
        own_keys: Int64Array = ids
        return own_keys
    keys = feature_keys(item_id, ids)
    if (missing := keys == MISSING).any():
        raise InvalidInputError(f"candidates[{int(np.argmax(missing))}] is {_NO_ID}")
    return keys


def _ids(field: str, ids: ranker_pb2.Ids, feature: Categorical) -> Any:
    """Raw ids of the kind that ``feature`` takes: an int64 array or a list of strings."""
    wanted = _FIELDS[feature.id_type] + "s"
    if len(ids.texts if wanted == "integers" else ids.integers):
        raise InvalidInputError(
            f"{field}: got {len(ids.integers)} integers and {len(ids.texts)} texts, but {feature.name!r} takes "
            f"{feature.id_type} ids; fill {field}.{wanted} only"
        )
    return _array(ids.integers) if wanted == "integers" else list(ids.texts)


def _feature_values(name: str, value: ranker_pb2.FeatureValue) -> list[Any]:
    """The raw values of one overriding feature; whether they fit it is the encoder's business."""
    filled = [field for field in ("integers", "texts", "numbers") if len(getattr(value, field))]
    if len(filled) > 1:
        raise InvalidInputError(f"features[{name!r}]: {' and '.join(filled)} are filled; allowed: one of them")
    return list(getattr(value, filled[0])) if filled else []


def _times(field: str, values: Any, length: int, latest_ms: int) -> Int64Array:
    times_ms = _array(values)
    if len(times_ms) != length:
        raise InvalidInputError(f"{field}: got {len(times_ms)} values for {length} events; allowed: one per event")
    bad = (times_ms < _MIN_TIMESTAMP_MS) | (times_ms > latest_ms)
    if bad.any():
        index = int(np.argmax(bad))
        raise InvalidInputError(
            f"{field}[{index}] is {times_ms[index]}: {_time_problem(int(times_ms[index]), latest_ms)}"
        )
    return times_ms


def _time_problem(time_ms: int, latest_ms: int) -> str:
    if time_ms < 0:
        return "negative; allowed: milliseconds since 1970-01-01T00:00:00Z"
    if time_ms < _MIN_TIMESTAMP_MS:
        return f"before 1973, so probably seconds; allowed: milliseconds since 1970, from {_MIN_TIMESTAMP_MS}"
    unit = ", so probably micro- or nanoseconds" if time_ms > 100 * latest_ms else ""
    return f"{(time_ms - latest_ms) / 1000:.0f} s later than allowed{unit}; allowed: milliseconds up to {latest_ms}"


def _attributes(columns: Mapping[str, ranker_pb2.Ids], features: FeatureSet, length: int) -> dict[str, Any]:
    declared = {a.name: a for a in require_history(features).attributes}
    attributes: dict[str, Any] = {}
    for name, ids in columns.items():
        field = f"events.attributes[{name!r}]"
        if name not in declared:
            raise InvalidInputError(f"{field} is not declared: {nearest(name, declared)}")
        values = _ids(field, ids, declared[name])
        if len(values) != length:
            raise InvalidInputError(f"{field}: got {len(values)} values for {length} events; allowed: one per event")
        attributes[name] = values
    return attributes


def _array(packed: Any) -> Int64Array:
    """A packed integer field as int64. protobuf implements ``__array__``: 4 us for 10,000 ids, against
    370 us by way of a list."""
    return np.array(packed, dtype=np.int64)
