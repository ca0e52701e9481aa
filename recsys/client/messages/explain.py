"""Messages of Explain: arguments to requests, responses to results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.client.messages.fields import feature_values, fitting, id_field, ids_field, ids_of, set_fields
from recsys.client.messages.filters import filter_message
from recsys.client.messages.ranker import degraded_parts
from recsys.client.messages.rules import rule_messages
from recsys.client.types import Contribution, ExplainedEvents, Explanation, Id, ListPlace, ListQuery
from recsys.proto import ranker_pb2

_SIDES = {
    ranker_pb2.SIDE_USER: "user",
    ranker_pb2.SIDE_CONTEXT: "context",
    ranker_pb2.SIDE_ITEM: "item",
    ranker_pb2.SIDE_HISTORY: "history",
}


def request(
    user: Id,
    item: Id,
    features: Mapping[str, Any] | None,
    model: str,
    release: str,
    time_ms: int | None,
    max_events: int,
    within: ListQuery | None = None,
) -> ranker_pb2.ExplainRequest:
    """The message of ``Client.explain``."""
    message = ranker_pb2.ExplainRequest(
        user=id_field(user), item=id_field(item, name="item"), features=feature_values(features)
    )
    set_fields(message, model=model, time_ms=time_ms, max_events=max_events)
    with fitting("release", allowed="a string"):
        message.release = release
    if within is not None:
        message.list.CopyFrom(
            ranker_pb2.RecommendRequest(
                exclude=None if within.exclude is None else ids_field("exclude", within.exclude),
                include_seen=within.include_seen,
                filter=filter_message(within.filter),
                rules=rule_messages(within.rules),
            )
        )
        set_fields(message.list, top_k=within.top_k, candidates=within.candidates)
    return message


def explanation(response: ranker_pb2.ExplainResponse) -> Explanation:
    """The result of ``Client.explain``."""
    names = response.names
    return Explanation(
        score=response.score,
        logit=response.logit,
        base_logit=response.base_logit,
        contributions=tuple(_contribution(part, names) for part in response.contributions),
        exact=response.exact,
        orders=response.orders,
        events=_events(response.events, names) if response.HasField("events") else None,
        history_events=response.history_events,
        older_events=response.older_events,
        older_leave_out=response.older_leave_out,
        signatures=response.signatures,
        time_ms=response.time_ms,
        runs=response.runs,
        model=response.model,
        model_version=response.model_version,
        release=response.release,
        degraded=degraded_parts(response),
        place=_place(response),
    )


def _place(response: ranker_pb2.ExplainResponse) -> ListPlace | None:
    if not response.HasField("list"):
        return None
    of = response.list
    return ListPlace(place=of.place, place_by_score=of.place_by_score, rules=tuple(of.rules), why=of.why)


def _contribution(part: ranker_pb2.Contribution, names: Mapping[int, str]) -> Contribution:
    values: list[Any] = list(part.numbers) or ids_of(part.ids, names).tolist()
    return Contribution(
        name=part.name,
        side=_SIDES.get(part.side, ""),
        value=None if not values else values[0] if len(values) == 1 else values,
        missing=part.missing,
        contribution=part.contribution,
        standard_error=part.standard_error,
        leave_out=part.leave_out,
    )


def _events(events: ranker_pb2.ExplainedEvents, names: Mapping[int, str]) -> ExplainedEvents:
    count = len(events.timestamps_ms)
    shared, attention = events.shared_signatures, events.attention
    return ExplainedEvents(
        items=ids_of(events.items, names),
        timestamps_ms=np.array(events.timestamps_ms, dtype=np.int64),
        attributes={name: ids_of(ids, names) for name, ids in sorted(events.attributes.items())},
        leave_out=np.array(events.leave_out, dtype=np.float64),
        shared_signatures=np.array(shared, dtype=np.int64) if count and len(shared) == count else None,
        attention=np.array(attention, dtype=np.float32) if count and len(attention) == count else None,
    )
