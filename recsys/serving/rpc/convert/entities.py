"""PutEntities and GetFeatures: messages to entities' columns, and back.

Shapes use ``N`` entities, ``K`` values of a multi-valued feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, nearest
from recsys.features.columns import Column, checked_column, missing_column, padded
from recsys.features.feature_set import USER, Categorical, Entity, Feature, FeatureSet, Numeric
from recsys.features.hashing import MISSING
from recsys.features.names import keyed_texts
from recsys.proto import feature_store_pb2
from recsys.serving.rpc.convert.ids import entity_keys, int64_array

MAX_ENTITIES = 10_000
"""Most entities in one PutEntities or GetFeatures call."""


def put_request(
    message: feature_store_pb2.PutEntitiesRequest, features: FeatureSet
) -> tuple[str, Int64Array, dict[str, Column]]:
    """Check and convert a PutEntities call to the entity's name, keys [N], and columns of all its features.

    Raises:
        InvalidInputError: see the message.
    """
    entity = _entity(message.entity, features)
    keys = entity_keys("ids", message.ids, entity.id, most=MAX_ENTITIES)
    declared = {f.name: f for f in entity.features}
    for name in message.features:
        if name not in declared:
            raise InvalidInputError(
                f"features[{name!r}] is not declared for entity {entity.name!r}: {nearest(name, declared)}"
            )
    columns = {
        name: _column(f"features[{name!r}]", message.features[name], feature, len(keys))
        if name in message.features
        else missing_column(feature, len(keys))
        for name, feature in declared.items()
    }
    return entity.name, keys, columns


def features_request(message: feature_store_pb2.GetFeaturesRequest, features: FeatureSet) -> tuple[str, Int64Array]:
    """Check and convert a GetFeatures call to the entity's name and keys, [N].

    Raises:
        InvalidInputError: see the message.
    """
    entity = _entity(message.entity, features)
    return entity.name, entity_keys("ids", message.ids, entity.id, most=MAX_ENTITIES)


def put_texts(message: feature_store_pb2.PutEntitiesRequest, features: FeatureSet) -> dict[int, str]:
    """List the texts of string ids in a PutEntities call, by key; but of users' ids, which no answer has."""
    entity = features.entity(message.entity)
    texts = {f.name for f in entity.features if isinstance(f, Categorical) and f.id_type == "string"}
    ids = message.ids.texts if message.entity != USER and entity.id.id_type == "string" else ()
    return keyed_texts(ids, *(column.texts for name, column in message.features.items() if name in texts))


def features_response(
    entity: Entity, columns: Mapping[str, Column], texts: Mapping[int, str]
) -> feature_store_pb2.GetFeaturesResponse:
    """Convert columns of N entities, and the texts of their string ids, to the answer of a GetFeatures call."""
    return feature_store_pb2.GetFeaturesResponse(
        features={f.name: _column_message(f, columns[f.name]) for f in entity.features}, names=texts
    )


def _entity(name: str, features: FeatureSet) -> Entity:
    if name not in features.entity_names():
        raise InvalidInputError(f"entity is {name!r}: {nearest(name, features.entity_names())}")
    entity = features.entity(name)
    if not entity.features:
        raise InvalidInputError(
            f"entity is {name!r}, which has no features in FeatureSet {features.name!r}; allowed: one that has"
        )
    return entity


def _column(field: str, column: feature_store_pb2.FeatureColumn, feature: Feature, count: int) -> Column:
    """A feature of ``count`` entities as the store keeps it."""
    values = _values(field, column)
    if isinstance(feature, Numeric):
        single: Feature = feature
        most = 1
    else:
        single = replace(feature, max_values=1)
        most = feature.max_values
    if not column.lengths and len(values) != count:
        raise InvalidInputError(
            f"{field}: got {len(values):,} values for {count:,} ids; allowed: one per id, or fill {field}.lengths"
        )
    lengths = int64_array(column.lengths) if column.lengths else np.ones(count, dtype=np.int64)
    if len(lengths) != count:
        raise InvalidInputError(f"{field}.lengths: got {len(lengths):,} for {count:,} ids; allowed: one per id")
    if most == 1 and int(lengths.max()) > 1:
        index = int(np.argmax(lengths))
        raise InvalidInputError(f"{field}.lengths[{index}] is {lengths[index]}; allowed: 0 to 1")
    if int(lengths.sum()) != len(values):
        raise InvalidInputError(
            f"{field}.lengths: they add up to {int(lengths.sum()):,}, but {len(values):,} values arrived; "
            "allowed: their number"
        )
    flat, refused = checked_column(single, values)
    for place in sorted(refused):
        raise InvalidInputError(f"{field}[{place}]: {refused[place]}")
    if most == 1 and len(flat) == count:
        return flat
    if isinstance(feature, Numeric) or most == 1:
        stored = missing_column(feature, count)
        stored[lengths > 0] = flat
        return stored
    keys, counts = padded(feature, flat, np.repeat(np.arange(count), lengths), rows=count)
    if int(counts.max()) > most:
        index = int(np.argmax(counts))
        raise InvalidInputError(f"{field}: entity {index} has {counts[index]} ids; allowed: at most {most}")
    return keys


def _values(field: str, column: feature_store_pb2.FeatureColumn) -> Any:
    """Raw values of a column, of whatever kind they came."""
    filled = [kind for kind in ("integers", "texts", "numbers") if len(getattr(column, kind))]
    if len(filled) > 1:
        raise InvalidInputError(f"{field}: {' and '.join(filled)} are filled; allowed: one of them")
    if filled == ["texts"]:
        return list(column.texts)
    return np.array(column.numbers, dtype=np.float32) if filled == ["numbers"] else int64_array(column.integers)


def _column_message(feature: Feature, column: Column) -> feature_store_pb2.FeatureColumn:
    if isinstance(feature, Numeric):
        return feature_store_pb2.FeatureColumn(numbers=column.tolist())
    are_keys = feature.id_type == "string"
    if column.ndim == 1:
        return feature_store_pb2.FeatureColumn(integers=column.tolist(), are_keys=are_keys)
    present = column != MISSING
    lengths = np.count_nonzero(present, axis=1).tolist()
    return feature_store_pb2.FeatureColumn(integers=column[present].tolist(), lengths=lengths, are_keys=are_keys)
