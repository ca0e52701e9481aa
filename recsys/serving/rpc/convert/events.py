"""AppendEvents, AppendEventStream, GetHistory and GetHistories: messages to events, and back.

Shapes use ``L`` events.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError, nearest
from recsys.feature_store.base import AppendResult, HistoryRead
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, HistoryHeader, attribute_keys, require_history
from recsys.features.names import keyed_texts
from recsys.proto import feature_store_pb2, ranker_pb2
from recsys.proto.limits import EVENTS, OFFSET_JUMP
from recsys.rows.contract import ARRIVAL, TIMESTAMP, RowContract, event_rows
from recsys.rows.events import packed_events
from recsys.serving.handlers.append import Append, StreamSummary
from recsys.serving.handlers.names import KeyColumn
from recsys.serving.rpc.convert.answers import damages
from recsys.serving.rpc.convert.ids import entity_keys, id_count, int64_array, raw_ids, user_key
from recsys.serving.rpc.convert.times import moment_ms
from recsys.serving.rpc.statuses import truncate

MAX_EVENTS = EVENTS

MAX_USERS = 1_000
"""Most users in one GetHistories call."""

MAX_EVENTS_OF_USERS = 50_000
"""Most events in one GetHistories answer: with seven attributes it stays below the 4 MiB that clients accept
unless told otherwise."""

RESERVED_SOURCES = ("kafka:", "redis-stream:", "file:")
"""Beginnings of the names that ``recsys ingest`` gives its sources, past the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRange:
    """Part of a history: arguments of ``FeatureStore.history``."""

    user_key: int
    limit: int
    since_ms: int | None
    until_ms: int | None


def append_request(
    message: feature_store_pb2.AppendEventsRequest, features: FeatureSet, *, future_tolerance_s: int
) -> Append:
    """Check and convert the events of one user.

    Attributes without a value are missing; ``append.write`` fills those that the items have.

    Raises:
        InvalidInputError: see the message.
    """
    user = user_key(message, features)
    columns = message.events
    if not 1 <= (count := id_count(columns.items)) <= MAX_EVENTS:
        raise InvalidInputError(f"events.items: got {count:,} events; allowed: 1 to {MAX_EVENTS:,} per call")
    items = raw_ids("events.items", columns.items, features.item_id)
    now_ms = time.time_ns() // 1_000_000
    raw = {features.item_id.name: items, **_attributes(columns.attributes, features, len(items))}
    raw[TIMESTAMP] = _times("events.timestamps_ms", columns.timestamps_ms, len(items))
    if columns.arrivals_ms:
        raw[ARRIVAL] = _times("events.arrivals_ms", columns.arrivals_ms, len(items))
    contract = replace(_event_contract(features), latest_ms=now_ms + 1000 * future_tolerance_s)
    encoded = contract.encode(raw, len(items))
    for place in sorted(encoded.refused):
        error = encoded.refused[place]
        raise InvalidInputError(f"{_path(error.field, features)}[{place}]: {error}")
    events = packed_events(features, encoded.columns, read_ms=now_ms)
    return Append(
        user_key=user,
        events=events,
        texts=keyed_texts(columns.items.texts, *(ids.texts for ids in columns.attributes.values())),
        source=message.source,
        offsets=_offsets(message, len(items)),
        restart_source=message.restart_source,
    )


def append_response(result: AppendResult) -> feature_store_pb2.AppendEventsResponse:
    """Convert a result to the answer of an AppendEvents call."""
    return feature_store_pb2.AppendEventsResponse(added=result.added, stored=result.stored, skipped=result.skipped)


def event_count(message: feature_store_pb2.AppendEventsRequest) -> int:
    """Count the events of a message, right or wrong."""
    return id_count(message.events.items)


def stream_response(summary: StreamSummary) -> feature_store_pb2.AppendEventStreamResponse:
    """Convert a summary to the answer of an AppendEventStream call."""
    return feature_store_pb2.AppendEventStreamResponse(
        messages=summary.messages,
        events=summary.events,
        added=summary.added,
        rejected=summary.rejected,
        skipped=summary.skipped,
        rejections=[
            feature_store_pb2.Rejection(message=message, reason=truncate(reason))
            for message, reason in summary.rejections
        ],
    )


def history_request(message: feature_store_pb2.GetHistoryRequest, features: FeatureSet) -> HistoryRange:
    """Check and convert a GetHistory call.

    Raises:
        InvalidInputError: see the message.
    """
    since_ms, until_ms = moment_ms("since_ms", message.since_ms), moment_ms("until_ms", message.until_ms)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise InvalidInputError(f"until_ms is {until_ms}; allowed: later than since_ms, which is {since_ms}, or 0")
    return HistoryRange(
        user_key=user_key(message, features),
        limit=_limit(message.limit, features, most=MAX_EVENTS),
        since_ms=since_ms,
        until_ms=until_ms,
    )


def history_response(
    header: HistoryHeader, events: Events, features: FeatureSet, texts: Mapping[int, str]
) -> feature_store_pb2.GetHistoryResponse:
    """The answer to a GetHistory call, with the texts of its string ids."""
    return feature_store_pb2.GetHistoryResponse(
        events=_event_columns(events, features), appended=header.appended, trimmed=header.trimmed, names=texts
    )


def key_columns(events: Events, features: FeatureSet) -> list[KeyColumn]:
    """List the columns of events that hold keys."""
    attributes = require_history(features).attributes
    return [(features.item_id, events["item"]), *((a, attribute_keys(a, events)) for a in attributes)]


def histories_request(message: feature_store_pb2.GetHistoriesRequest, features: FeatureSet) -> tuple[list[int], int]:
    """Check and convert a GetHistories call to the users' keys and the number of events wanted of each.

    Raises:
        InvalidInputError: see the message.
    """
    keys = entity_keys("users", message.users, features.user_id, most=MAX_USERS)
    limit = _limit(message.limit, features, most=MAX_EVENTS)
    if len(keys) * limit > MAX_EVENTS_OF_USERS:
        raise InvalidInputError(
            f"limit: {limit:,} events of {len(keys):,} users are {limit * len(keys):,}; "
            f"allowed: {MAX_EVENTS_OF_USERS:,} per call: send fewer users or a lower limit"
        )
    return keys.tolist(), limit


def histories_response(
    reads: Sequence[HistoryRead], every: Events, features: FeatureSet, texts: Mapping[int, str]
) -> feature_store_pb2.GetHistoriesResponse:
    """The answer to a GetHistories call; ``every``: the events of all, one after another."""
    none = HistoryHeader(chunk=1), ()
    histories = [none if isinstance(read, StoreFormatError) else read for read in reads]
    return feature_store_pb2.GetHistoriesResponse(
        names=texts,
        events=_event_columns(every, features),
        lengths=[len(events) for _, events in histories],
        appended=[header.appended for header, _ in histories],
        trimmed=[header.trimmed for header, _ in histories],
        damaged=damages({i: read for i, read in enumerate(reads) if isinstance(read, StoreFormatError)}),
    )


def _event_columns(events: Events, features: FeatureSet) -> feature_store_pb2.EventColumns:
    # tolist(): protobuf takes Python's own numbers several times faster than an array of them.
    items, *attributes = (
        ranker_pb2.Ids(integers=keys.tolist(), are_keys=feature.id_type == "string")
        for feature, keys in key_columns(events, features)
    )
    return feature_store_pb2.EventColumns(
        items=items,
        timestamps_ms=events["timestamp"].tolist(),
        arrivals_ms=events["arrival"].tolist(),
        attributes=dict(zip((a.name for a in require_history(features).attributes), attributes, strict=True)),
    )


def _limit(limit: int, features: FeatureSet, *, most: int) -> int:
    recent = require_history(features).recent
    if limit > most:
        raise InvalidInputError(f"limit is {limit:,}; allowed: 1 to {most:,}, or 0 for as many as a model reads")
    return limit or min(recent, most)


def _offsets(message: feature_store_pb2.AppendEventsRequest, length: int) -> Int64Array | None:
    if not message.source:
        if message.offsets:
            raise InvalidInputError(f"offsets: got {len(message.offsets)} without a source; set source, or neither")
        if message.restart_source:
            raise InvalidInputError("restart_source is set without a source; set source and offsets, or neither")
        return None
    if message.source.startswith(RESERVED_SOURCES):
        raise InvalidInputError(
            f"source is {message.source!r}; allowed: none that begins with {' or '.join(RESERVED_SOURCES)}, which are "
            "those of recsys ingest: no caller may move them on"
        )
    offsets = int64_array(message.offsets)
    if len(offsets) != length:
        raise InvalidInputError(
            f"offsets: got {len(offsets)} values for {length} events of source {message.source!r}; "
            "allowed: one per event"
        )
    if int(offsets.min()) < 0:
        index = int(np.argmin(offsets))
        raise InvalidInputError(f"offsets[{index}] is {offsets[index]}; allowed: 0 or more")
    if int(offsets.max()) - int(offsets.min()) > OFFSET_JUMP:
        raise InvalidInputError(
            f"offsets: from {offsets.min()} to {offsets.max()} in one message; allowed: up to {OFFSET_JUMP:,} apart"
        )
    return offsets


@lru_cache(maxsize=16)
def _event_contract(features: FeatureSet) -> RowContract:
    """Contract for the events of a message: whose they are it says once, and it brings no context."""
    contract = event_rows(features)
    attributes = {a.name for a in require_history(features).attributes}
    names = {features.item_id.name, TIMESTAMP, ARRIVAL, *attributes}
    return replace(contract, fields=tuple(field for field in contract.fields if field.name in names))


def _path(name: str, features: FeatureSet) -> str:
    """Field of a message that has a field of an event."""
    named = {features.item_id.name: "events.items", TIMESTAMP: "events.timestamps_ms", ARRIVAL: "events.arrivals_ms"}
    return named.get(name, f"events.attributes[{name!r}]")


def _times(field: str, values: Any, length: int) -> Int64Array:
    times_ms = int64_array(values)
    if len(times_ms) != length:
        raise InvalidInputError(f"{field}: got {len(times_ms)} values for {length} events; allowed: one per event")
    return times_ms


def _attributes(columns: Mapping[str, ranker_pb2.Ids], features: FeatureSet, length: int) -> dict[str, Any]:
    declared = {a.name: a for a in require_history(features).attributes}
    attributes: dict[str, Any] = {}
    for name, ids in columns.items():
        field = f"events.attributes[{name!r}]"
        if name not in declared:
            raise InvalidInputError(f"{field} is not declared: {nearest(name, declared)}")
        if (count := id_count(ids)) != length:
            raise InvalidInputError(f"{field}: got {count} values for {length} events; allowed: one per event")
        attributes[name] = raw_ids(field, ids, declared[name])
    return attributes
