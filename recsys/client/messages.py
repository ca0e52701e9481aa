"""Messages for both clients: arguments to requests, responses to results.

``N`` entities, ``L`` events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.client.types import (
    Appended,
    AppendSummary,
    EntityFeatures,
    Id,
    Ids,
    Ranking,
    RankQuery,
    Recommendation,
    Retrieval,
    UserEvents,
    UserHistory,
)
from recsys.errors import InvalidInputError
from recsys.proto import feature_store_pb2, ranker_pb2

_DEGRADATIONS = {
    ranker_pb2.DEGRADATION_USER_UNAVAILABLE: "user",
    ranker_pb2.DEGRADATION_ITEMS_UNAVAILABLE: "items",
    ranker_pb2.DEGRADATION_HISTORY_PARTIAL: "history",
}
_MILLISECONDS = "an integer, milliseconds since 1970"


def rank_request(query: RankQuery, *, timings: bool = False) -> ranker_pb2.RankRequest:
    """The message of ``Client.rank``."""
    request = ranker_pb2.RankRequest(
        user=_id(query.user),
        candidates=_ids("candidates", query.candidates),
        features=_feature_values(query.features),
        timings=timings,
    )
    _set(request, top_k=query.top_k, model=query.model, time_ms=query.time_ms)
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
    user: Id, top_k: int, exclude: Ids | None, include_seen: bool, model: str, time_ms: int | None, timings: bool
) -> ranker_pb2.RetrieveRequest:
    """The message of ``Client.retrieve``."""
    request = ranker_pb2.RetrieveRequest(
        user=_id(user), exclude=_excluded(exclude), include_seen=include_seen, timings=timings
    )
    _set(request, top_k=top_k, model=model, time_ms=time_ms)
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
) -> ranker_pb2.RecommendRequest:
    """The message of ``Client.recommend``."""
    request = ranker_pb2.RecommendRequest(
        user=_id(user),
        features=_feature_values(features),
        exclude=_excluded(exclude),
        include_seen=include_seen,
        timings=timings,
    )
    _set(request, top_k=top_k, candidates=candidates, model=model, retrieval_model=retrieval_model, time_ms=time_ms)
    return request


def ranking(response: ranker_pb2.RankResponse, candidates: Ids) -> Ranking:
    """The result of ``Client.rank``."""
    items = list(candidates)
    positions = np.array(response.positions, dtype=np.int64)
    if len(positions):
        items = [items[i] for i in positions]
    else:
        positions = np.arange(len(items))
    return Ranking(
        items=items,
        scores=np.array(response.scores, dtype=np.float32),
        positions=positions,
        model=response.model,
        model_version=response.model_version,
        history_events=response.history_events,
        degraded=_degraded(response),
        timings_us=_timings_us(response),
    )


def rankings(response: ranker_pb2.RankBatchResponse, queries: Sequence[RankQuery]) -> list[Ranking]:
    """The results of ``Client.rank_batch``."""
    return [ranking(answer, query.candidates) for answer, query in zip(response.responses, queries, strict=True)]


def retrieval(response: ranker_pb2.RetrieveResponse) -> Retrieval:
    """The result of ``Client.retrieve``."""
    return Retrieval(
        items=_found(response.items),
        scores=np.array(response.scores, dtype=np.float32),
        model=response.model,
        model_version=response.model_version,
        user_known=response.user_known,
        history_events=response.history_events,
        degraded=_degraded(response),
        timings_us=_timings_us(response),
    )


def recommendation(response: ranker_pb2.RecommendResponse) -> Recommendation:
    """The result of ``Client.recommend``."""
    return Recommendation(
        items=_found(response.items),
        scores=np.array(response.scores, dtype=np.float32),
        model=response.model,
        model_version=response.model_version,
        retrieval_model=response.retrieval_model,
        retrieval_model_version=response.retrieval_model_version,
        user_known=response.user_known,
        history_events=response.history_events,
        candidates=response.candidates,
        degraded=_degraded(response),
        timings_us=_timings_us(response),
    )


def _found(ids: ranker_pb2.Ids) -> npt.NDArray[Any]:
    return np.array(ids.texts, dtype=object) if ids.texts else np.array(ids.integers, dtype=np.int64)


def _degraded(response: Any) -> tuple[str, ...]:
    return tuple(_DEGRADATIONS[d] for d in response.degraded if d in _DEGRADATIONS)


def _timings_us(response: Any) -> dict[str, int]:
    if not response.HasField("timings"):
        return {}
    fields = ranker_pb2.Timings.DESCRIPTOR.fields
    return {field.name.removesuffix("_us"): getattr(response.timings, field.name) for field in fields}


def append_request(batch: UserEvents) -> feature_store_pb2.AppendEventsRequest:
    """The message of one user's events."""
    columns = feature_store_pb2.EventColumns(
        items=_ids("items", batch.items),
        timestamps_ms=_integers("timestamps_ms", batch.timestamps_ms),
        arrivals_ms=() if batch.arrivals_ms is None else _integers("arrivals_ms", batch.arrivals_ms),
        attributes={name: _ids(name, values, missing=True) for name, values in (batch.attributes or {}).items()},
    )
    offsets = () if batch.offsets is None else _integers("offsets", batch.offsets)
    request = feature_store_pb2.AppendEventsRequest(user=_id(batch.user), events=columns, offsets=offsets)
    with _fitting("source", allowed="a string"):
        request.source = batch.source
    return request


def stream_request(batch: UserEvents, index: int) -> feature_store_pb2.AppendEventsRequest:
    """The same for the stream's message number ``index``."""
    try:
        return append_request(batch)
    except InvalidInputError as error:
        raise InvalidInputError(f"batch {index}: {error}") from None


def appended(response: feature_store_pb2.AppendEventsResponse) -> Appended:
    """The result of ``Client.append_events``."""
    return Appended(added=response.added, stored=response.stored)


def append_summary(response: feature_store_pb2.AppendEventStreamResponse) -> AppendSummary:
    """The result of ``Client.append_stream``."""
    return AppendSummary(
        batches=response.messages,
        events=response.events,
        added=response.added,
        rejected=response.rejected,
        rejections=tuple((r.message, r.reason) for r in response.rejections),
    )


def put_request(entity: str, ids: Ids, features: Mapping[str, Any]) -> feature_store_pb2.PutEntitiesRequest:
    """The message of ``Client.put_entities``."""
    columns = {name: _feature_column(name, values) for name, values in features.items()}
    with _fitting("entity", allowed="a string"):
        return feature_store_pb2.PutEntitiesRequest(entity=entity, ids=_ids("ids", ids), features=columns)


def features_request(entity: str, ids: Ids) -> feature_store_pb2.GetFeaturesRequest:
    """The message of ``Client.get_features``."""
    with _fitting("entity", allowed="a string"):
        return feature_store_pb2.GetFeaturesRequest(entity=entity, ids=_ids("ids", ids))


def entity_features(response: feature_store_pb2.GetFeaturesResponse, ids: Ids) -> EntityFeatures:
    """The result of ``Client.get_features``."""
    return EntityFeatures(ids=list(ids), columns={name: _column(column) for name, column in response.features.items()})


def history_request(
    user: Id, limit: int, since_ms: int | None, until_ms: int | None
) -> feature_store_pb2.GetHistoryRequest:
    """The message of ``Client.get_history``."""
    request = feature_store_pb2.GetHistoryRequest(user=_id(user))
    _set(request, limit=limit, since_ms=since_ms, until_ms=until_ms)
    return request


def user_history(response: feature_store_pb2.GetHistoryResponse) -> UserHistory:
    """The result of ``Client.get_history``."""
    return UserHistory(**_event_columns(response.events), appended=response.appended, trimmed=response.trimmed)


def histories_request(users: Ids, limit: int) -> feature_store_pb2.GetHistoriesRequest:
    """The message of ``Client.get_histories``."""
    request = feature_store_pb2.GetHistoriesRequest(users=_ids("users", users))
    _set(request, limit=limit)
    return request


def user_histories(response: feature_store_pb2.GetHistoriesResponse) -> list[UserHistory]:
    """The result of ``Client.get_histories``: views of the columns of all."""
    columns = _event_columns(response.events)
    attributes = columns.pop("attributes")
    histories, start = [], 0
    for length, appended, trimmed in zip(response.lengths, response.appended, response.trimmed, strict=True):
        own = slice(start, start + length)
        histories.append(
            UserHistory(
                **{name: column[own] for name, column in columns.items()},
                attributes={name: column[own] for name, column in attributes.items()},
                appended=appended,
                trimmed=trimmed,
            )
        )
        start += length
    return histories


def _event_columns(columns: feature_store_pb2.EventColumns) -> dict[str, Any]:
    return {
        "items": np.array(columns.items.integers, dtype=np.int64),
        "timestamps_ms": np.array(columns.timestamps_ms, dtype=np.int64),
        "arrivals_ms": np.array(columns.arrivals_ms, dtype=np.int64),
        "attributes": {name: np.array(ids.integers, dtype=np.int64) for name, ids in columns.attributes.items()},
    }


def _column(column: feature_store_pb2.FeatureColumn) -> npt.NDArray[Any]:
    """Numbers, single ids, or ids padded with -1 to the longest entity's."""
    if column.numbers:
        return np.array(column.numbers, dtype=np.float32)
    values = np.array(column.integers, dtype=np.int64)
    if not column.lengths:
        return values
    lengths = np.array(column.lengths, dtype=np.int64)
    padded = np.full((len(lengths), int(lengths.max())), -1, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
    return padded


def _id(user: Id) -> ranker_pb2.Id:
    with _fitting("user"):
        return ranker_pb2.Id(text=user) if isinstance(user, str) else ranker_pb2.Id(integer=user)


def _excluded(exclude: Ids | None) -> ranker_pb2.Ids | None:
    return None if exclude is None else _ids("exclude", exclude)


def _set(request: Any, **values: Any) -> None:
    """Set fields of a request; None leaves one as it is."""
    for name, value in values.items():
        if value is None:
            continue
        allowed = "a string" if name.endswith("model") else "an integer, 0 or more"
        with _fitting(name, allowed=_MILLISECONDS if name.endswith("_ms") else allowed):
            setattr(request, name, value)


def _ids(name: str, values: Any, *, missing: bool = False) -> ranker_pb2.Ids:
    """Integers or strings; with ``missing``, ``None`` becomes what the server takes for no value."""
    with _fitting(name):
        given = _list(values)
    texts = isinstance(next((v for v in given if v is not None), None), str)
    if missing:
        given = [("" if texts else -1) if v is None else v for v in given]
    with _fitting(name):
        return ranker_pb2.Ids(texts=given) if texts else ranker_pb2.Ids(integers=given)


def _integers(name: str, values: Any) -> Any:
    return _ids(name, values).integers


def _feature_values(features: Mapping[str, Any] | None) -> dict[str, ranker_pb2.FeatureValue]:
    return {name: _feature_value(name, value) for name, value in (features or {}).items()}


def _feature_value(name: str, value: Any) -> ranker_pb2.FeatureValue:
    if value is None:
        return ranker_pb2.FeatureValue()
    values = [value] if isinstance(value, str) or not hasattr(value, "__len__") else _list(value)
    if any(isinstance(v, float | np.floating) for v in values):
        with _fitting(name):
            return ranker_pb2.FeatureValue(numbers=values)
    ids = _ids(name, values)
    return ranker_pb2.FeatureValue(integers=ids.integers, texts=ids.texts)


def _feature_column(name: str, values: Any) -> feature_store_pb2.FeatureColumn:
    """A feature of N entities: a value, ``None`` or several ids for each."""
    with _fitting(name):
        rows = _list(values)
    lengths: list[int] = []
    if any(row is None or _is_list(row) for row in rows):
        per_row = [[] if row is None else _list(row) if _is_list(row) else [row] for row in rows]
        lengths, rows = [len(row) for row in per_row], [value for row in per_row for value in row]
    if any(isinstance(v, float | np.floating) for v in rows):
        with _fitting(name, allowed="numbers only"):
            return feature_store_pb2.FeatureColumn(numbers=rows, lengths=lengths)
    ids = _ids(name, rows, missing=True)
    return feature_store_pb2.FeatureColumn(integers=ids.integers, texts=ids.texts, lengths=lengths)


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _list(values: Any) -> list[Any]:
    # tolist(): Python's own numbers go into protobuf faster than numpy's.
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


@contextmanager
def _fitting(name: str, *, allowed: str = "64-bit integers only, or strings only") -> Iterator[None]:
    """protobuf checks types and ranges while it copies; name the argument in its complaint."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name}: {error}; allowed: {allowed}") from None
