"""Explain: messages to queries, explanations to messages."""

from __future__ import annotations

import math

import numpy as np

from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import attribute_keys, require_history
from recsys.features.names import keyed_texts
from recsys.proto import ranker_pb2 as pb
from recsys.serving.handlers.explain.place import ListPlace
from recsys.serving.handlers.explain.queries import (
    EVENTS,
    MAX_EVENTS,
    Contribution,
    EventEffects,
    ExplainQuery,
    Explanation,
)
from recsys.serving.handlers.queries import RecommendQuery
from recsys.serving.rpc.convert.answers import degradations
from recsys.serving.rpc.convert.ids import one_key, user_key
from recsys.serving.rpc.convert.rank import feature_values
from recsys.serving.rpc.convert.retrieval import recommend_query
from recsys.serving.rpc.convert.times import moment_ms
from recsys.serving.rpc.statuses import truncate

_SIDES = {
    "user": pb.SIDE_USER,
    "context": pb.SIDE_CONTEXT,
    "item": pb.SIDE_ITEM,
    "history": pb.SIDE_HISTORY,
}


def explain_query(message: pb.ExplainRequest, features: FeatureSet) -> ExplainQuery:
    """Check and convert an Explain call.

    Raises:
        InvalidInputError: see the message.
    """
    if message.max_events > MAX_EVENTS:
        raise InvalidInputError(f"max_events is {message.max_events:,}; allowed: 1 to {MAX_EVENTS}, or 0 for {EVENTS}")
    return ExplainQuery(
        user_key=user_key(message, features),
        item_key=one_key("item", message.item, features.item_id),
        features=feature_values(message.features),
        time_ms=moment_ms("time_ms", message.time_ms),
        max_events=message.max_events or EVENTS,
        texts=keyed_texts(
            [message.user.text, message.item.text], *(value.texts for value in message.features.values())
        ),
    )


def list_query(message: pb.ExplainRequest, features: FeatureSet, *, max_candidates: int) -> RecommendQuery | None:
    """Check and convert the list in which an item's place is to be explained; None: there is none.

    Raises:
        InvalidInputError: see the message; it begins with ``list``.
    """
    if not message.HasField("list"):
        return None
    for name in ("user", "features", "model", "retrieval_model", "time_ms", "timings", "reasons"):
        given = message.list.HasField(name) if name == "user" else bool(getattr(message.list, name))
        if given:
            raise InvalidInputError(f"list.{name} is set; allowed: what Explain itself is not told, without {name}")
    asked = pb.RecommendRequest()
    asked.CopyFrom(message.list)
    asked.user.CopyFrom(message.user)
    asked.time_ms = message.time_ms
    for name, value in message.features.items():
        asked.features[name].CopyFrom(value)
    try:
        return recommend_query(asked, features, max_candidates=max_candidates)
    except InvalidInputError as error:
        raise InvalidInputError(f"list.{error}") from None


def explain_response(found: Explanation, features: FeatureSet, *, place: ListPlace | None = None) -> pb.ExplainResponse:
    """Convert an explanation, and perhaps an item's place in a list, to the answer of an Explain call."""
    events = found.events
    return pb.ExplainResponse(
        logit=found.logit,
        score=_sigmoid(found.logit),
        base_logit=found.base_logit,
        contributions=[_contribution(part) for part in found.parts],
        exact=not found.orders,
        orders=found.orders,
        events=None if events is None else _events(events, features),
        history_events=found.history_events,
        older_events=0 if events is None else events.older,
        older_leave_out=0.0 if events is None else events.older_leave_out,
        signatures=0 if events is None else events.signatures,
        names=found.texts,
        time_ms=found.time_ms,
        runs=found.runs,
        model=found.model,
        model_version=found.model_version,
        release=found.release,
        degraded=degradations(found),
        list=None
        if place is None
        else pb.ListPlace(
            place=place.place, place_by_score=place.place_by_score, rules=place.rules, why=truncate(place.why)
        ),
    )


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))


def _contribution(part: Contribution) -> pb.Contribution:
    message = pb.Contribution(
        name=part.name,
        side=_SIDES[part.side],
        missing=part.missing,
        contribution=part.contribution,
        standard_error=part.standard_error,
        leave_out=part.leave_out,
    )
    if part.feature is not None and part.value is not None and not part.missing:
        if isinstance(part.feature, Categorical):
            message.ids.CopyFrom(_ids(part.feature, part.value))
        else:
            message.numbers.extend(part.value.tolist())
    return message


def _ids(feature: Feature, keys: Column) -> pb.Ids:
    """Ids of one value of a feature; of a multi-valued one those that are there."""
    flat = keys.reshape(-1)
    are_keys = isinstance(feature, Categorical) and feature.id_type == "string"
    return pb.Ids(integers=flat[flat != MISSING].tolist(), are_keys=are_keys)


def _events(effects: EventEffects, features: FeatureSet) -> pb.ExplainedEvents:
    events, attributes = effects.events, require_history(features).attributes
    return pb.ExplainedEvents(
        items=pb.Ids(integers=events["item"].tolist(), are_keys=features.item_id.id_type == "string"),
        timestamps_ms=events["timestamp"].tolist(),
        attributes={
            a.name: pb.Ids(integers=attribute_keys(a, events).tolist(), are_keys=a.id_type == "string")
            for a in attributes
        },
        leave_out=effects.leave_out.tolist(),
        shared_signatures=() if effects.shared is None else effects.shared.tolist(),
        attention=() if effects.attention is None else np.asarray(effects.attention).tolist(),
    )
