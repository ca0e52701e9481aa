"""Limits that server and client both know, and the bound of every field that a caller fills.

The server checks :data:`BOUNDS` before it looks at anything else in a message (``serving/rpc/bounds.py``). No request
may pass them, whatever the model; where less is allowed, as by a FeatureSet or a setting, its conversion says so.
Fields of answers need none: their sizes follow from the request. No message contains itself, so nesting is bounded.
"""

from __future__ import annotations

from typing import NamedTuple

MESSAGE_BYTES = 16 << 20
"""The longest message, request or answer: what ``max_candidates`` allows, with long string ids."""

NAME_BYTES = 256
"""Longest name of a model, an entity, a feature, an attribute or a source, in UTF-8."""

TEXT_BYTES = 4096
"""Longest string id, in UTF-8: what the contract for a row allows."""

VALUES = 1_000_000
"""Most ids or numbers in one list, whatever it is for."""

GIVEN_VALUES = 100_000
"""Most values of all features that one Rank or Recommend request gives."""

NAMES = 4_096
"""Most features or attributes in one request."""

CONDITIONS = 64
"""Most conditions of one filter."""

RULES = 64
"""Most rules of one list."""

REQUESTS = 100
"""Most requests in a RankBatch call."""

SEEDS = 100
"""Most items that one Similar call asks to be like, or one Audience call asks the users of."""

ENTITIES = 10_000
"""Most entities in one PutEntities or GetFeatures call."""

EVENTS = 10_000
"""Most events in one AppendEvents message or GetHistory answer."""

OFFSET_JUMP = 1 << 42
"""Most by which an event's offset may exceed the last one applied of its source for its user: 4,398,046,511,104."""


class Bound(NamedTuple):
    """Bound of a field.

    Attributes:
        most: bytes of a string; entries of a list or a map.
        each: bytes of each string in a list, or of each name in a map.
    """

    most: int
    each: int = 0


BOUNDS: dict[str, Bound] = {
    "Id.text": Bound(TEXT_BYTES),
    "Ids.integers": Bound(VALUES),
    "Ids.texts": Bound(VALUES, each=TEXT_BYTES),
    "Filter.all": Bound(CONDITIONS),
    "Filter.any": Bound(CONDITIONS),
    "AnyOf.of": Bound(CONDITIONS),
    "Condition.attribute": Bound(NAME_BYTES),
    "RankRequest.rules": Bound(RULES),
    "RecommendRequest.rules": Bound(RULES),
    "AtMost.attribute": Bound(NAME_BYTES),
    "FeatureValue.integers": Bound(GIVEN_VALUES),
    "FeatureValue.texts": Bound(GIVEN_VALUES, each=TEXT_BYTES),
    "FeatureValue.numbers": Bound(GIVEN_VALUES),
    "RankRequest.model": Bound(NAME_BYTES),
    "RankRequest.features": Bound(NAMES, each=NAME_BYTES),
    "RankBatchRequest.requests": Bound(REQUESTS),
    "RetrieveRequest.model": Bound(NAME_BYTES),
    "RetrieveRequest.features": Bound(NAMES, each=NAME_BYTES),
    "RecommendRequest.features": Bound(NAMES, each=NAME_BYTES),
    "RecommendRequest.model": Bound(NAME_BYTES),
    "RecommendRequest.retrieval_model": Bound(NAME_BYTES),
    "ExplainRequest.model": Bound(NAME_BYTES),
    "ExplainRequest.release": Bound(NAME_BYTES),
    "ExplainRequest.features": Bound(NAMES, each=NAME_BYTES),
    "SimilarRequest.model": Bound(NAME_BYTES),
    "AudienceRequest.model": Bound(NAME_BYTES),
    "EventColumns.timestamps_ms": Bound(EVENTS),
    "EventColumns.arrivals_ms": Bound(EVENTS),
    "EventColumns.attributes": Bound(NAMES, each=NAME_BYTES),
    "AppendEventsRequest.source": Bound(NAME_BYTES),
    "AppendEventsRequest.offsets": Bound(EVENTS),
    "FeatureColumn.integers": Bound(VALUES),
    "FeatureColumn.texts": Bound(VALUES, each=TEXT_BYTES),
    "FeatureColumn.numbers": Bound(VALUES),
    "FeatureColumn.lengths": Bound(ENTITIES),
    "PutEntitiesRequest.entity": Bound(NAME_BYTES),
    "PutEntitiesRequest.features": Bound(NAMES, each=NAME_BYTES),
    "GetFeaturesRequest.entity": Bound(NAME_BYTES),
}
"""Message and field -> its bound, for every string, list and map of every request."""

DEFAULT_BOUND = Bound(VALUES, each=NAME_BYTES)
"""Bound of a list or a map that is not in :data:`BOUNDS`; a string that is not may have ``each`` bytes."""
