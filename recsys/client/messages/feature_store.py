"""Messages of the feature store's service: arguments to requests, responses to results.

``N`` entities, ``L`` events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.client.messages.fields import (
    feature_column,
    fitting,
    id_field,
    ids_field,
    ids_of,
    integers_field,
    set_fields,
)
from recsys.client.types import Appended, AppendSummary, EntityFeatures, Id, Ids, UserEvents, UserHistory
from recsys.errors import InvalidInputError
from recsys.proto import feature_store_pb2


def append_request(batch: UserEvents) -> feature_store_pb2.AppendEventsRequest:
    """The message of one user's events."""
    columns = feature_store_pb2.EventColumns(
        items=ids_field("items", batch.items),
        timestamps_ms=integers_field("timestamps_ms", batch.timestamps_ms),
        arrivals_ms=() if batch.arrivals_ms is None else integers_field("arrivals_ms", batch.arrivals_ms),
        attributes={name: ids_field(name, values, missing=True) for name, values in (batch.attributes or {}).items()},
    )
    offsets = () if batch.offsets is None else integers_field("offsets", batch.offsets)
    request = feature_store_pb2.AppendEventsRequest(user=id_field(batch.user), events=columns, offsets=offsets)
    with fitting("source", allowed="a string"):
        request.source = batch.source
    with fitting("restart_source", allowed="True or False"):
        request.restart_source = batch.restart_source
    return request


def stream_request(batch: UserEvents, index: int) -> feature_store_pb2.AppendEventsRequest:
    """The same for the stream's message number ``index``."""
    try:
        return append_request(batch)
    except InvalidInputError as error:
        raise InvalidInputError(f"batch {index}: {error}") from None


def appended(response: feature_store_pb2.AppendEventsResponse) -> Appended:
    """The result of ``Client.append_events``."""
    return Appended(added=response.added, stored=response.stored, skipped=response.skipped)


def append_summary(response: feature_store_pb2.AppendEventStreamResponse) -> AppendSummary:
    """The result of ``Client.append_stream``."""
    return AppendSummary(
        batches=response.messages,
        events=response.events,
        added=response.added,
        rejected=response.rejected,
        rejections=tuple((r.message, r.reason) for r in response.rejections),
        skipped=response.skipped,
    )


def put_request(
    entity: str, ids: Ids, features: Mapping[str, Any], *, clear: bool
) -> feature_store_pb2.PutEntitiesRequest:
    """The message of ``Client.put_entities``."""
    columns = {name: feature_column(name, values) for name, values in features.items()}
    with fitting("entity", allowed="a string"):
        request = feature_store_pb2.PutEntitiesRequest(entity=entity, ids=ids_field("ids", ids), features=columns)
    with fitting("clear", allowed="True or False"):
        request.clear = clear
    return request


def withdraw_request(items: Ids) -> feature_store_pb2.WithdrawItemsRequest:
    """The message of ``Client.withdraw_items``."""
    return feature_store_pb2.WithdrawItemsRequest(items=ids_field("items", items))


def features_request(entity: str, ids: Ids) -> feature_store_pb2.GetFeaturesRequest:
    """The message of ``Client.get_features``."""
    with fitting("entity", allowed="a string"):
        return feature_store_pb2.GetFeaturesRequest(entity=entity, ids=ids_field("ids", ids))


def entity_features(response: feature_store_pb2.GetFeaturesResponse, ids: Ids) -> EntityFeatures:
    """The result of ``Client.get_features``."""
    columns = {name: _column(column, response.names) for name, column in response.features.items()}
    damaged = {damage.position: damage.reason for damage in response.damaged}
    return EntityFeatures(ids=list(ids), columns=columns, damaged=damaged)


def history_request(
    user: Id, limit: int, since_ms: int | None, until_ms: int | None
) -> feature_store_pb2.GetHistoryRequest:
    """The message of ``Client.get_history``."""
    request = feature_store_pb2.GetHistoryRequest(user=id_field(user))
    set_fields(request, limit=limit, since_ms=since_ms, until_ms=until_ms)
    return request


def user_history(response: feature_store_pb2.GetHistoryResponse) -> UserHistory:
    """The result of ``Client.get_history``."""
    columns = _event_columns(response.events, response.names)
    return UserHistory(**columns, appended=response.appended, trimmed=response.trimmed)


def histories_request(users: Ids, limit: int) -> feature_store_pb2.GetHistoriesRequest:
    """The message of ``Client.get_histories``."""
    request = feature_store_pb2.GetHistoriesRequest(users=ids_field("users", users))
    set_fields(request, limit=limit)
    return request


def user_histories(response: feature_store_pb2.GetHistoriesResponse) -> list[UserHistory]:
    """The result of ``Client.get_histories``: views of the columns of all."""
    columns = _event_columns(response.events, response.names)
    attributes = columns.pop("attributes")
    damaged = {damage.position: damage.reason for damage in response.damaged}
    histories, start = [], 0
    counts = zip(response.lengths, response.appended, response.trimmed, strict=True)
    for place, (length, appended, trimmed) in enumerate(counts):
        own = slice(start, start + length)
        histories.append(
            UserHistory(
                **{name: column[own] for name, column in columns.items()},
                attributes={name: column[own] for name, column in attributes.items()},
                appended=appended,
                trimmed=trimmed,
                damaged=damaged.get(place, ""),
            )
        )
        start += length
    return histories


def _event_columns(columns: feature_store_pb2.EventColumns, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "items": ids_of(columns.items, names),
        "timestamps_ms": np.array(columns.timestamps_ms, dtype=np.int64),
        "arrivals_ms": np.array(columns.arrivals_ms, dtype=np.int64),
        "attributes": {name: ids_of(ids, names) for name, ids in columns.attributes.items()},
    }


def _column(column: feature_store_pb2.FeatureColumn, names: Mapping[int, str]) -> npt.NDArray[Any]:
    """Numbers, single ids, or ids padded with what stands for a missing one to the longest entity's."""
    if column.numbers:
        return np.array(column.numbers, dtype=np.float32)
    values = ids_of(column, names)
    if not column.lengths:
        return values
    lengths = np.array(column.lengths, dtype=np.int64)
    padded = np.full((len(lengths), int(lengths.max())), None if column.are_keys else -1, dtype=values.dtype)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
    return padded
