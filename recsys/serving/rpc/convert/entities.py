"""PutEntities and GetFeatures: messages to entities' columns, and back.

Shapes use ``N`` entities, ``K`` values of a multi-valued feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import InvalidInputError, nearest
from recsys.feature_store.base import EntityRows
from recsys.features.columns import Column, checked_column, float_column, missing_column, padded
from recsys.features.feature_set import USER, Categorical, Entity, Feature, FeatureSet, Numeric
from recsys.features.hashing import MISSING
from recsys.features.names import keyed_texts
from recsys.proto import feature_store_pb2
from recsys.proto.limits import ENTITIES
from recsys.serving.rpc.convert.answers import damages
from recsys.serving.rpc.convert.ids import entity_keys, int64_array

MAX_ENTITIES = ENTITIES

_MOST_VALUES = 256
"""Most values of one entity that are looked at: as many as a FeatureSet may allow."""


def put_request(
    message: feature_store_pb2.PutEntitiesRequest, features: FeatureSet
) -> tuple[str, Int64Array, dict[str, Column]]:
    """Check and convert a PutEntities call to the entity's name, keys [N], and columns of all its features.

    Raises:
        InvalidInputError: see the message. A call without any value is refused, too, unless it says ``clear``.
    """
    entity = _entity(message.entity, features)
    keys = entity_keys("ids", message.ids, entity.id, most=MAX_ENTITIES)
    declared = {f.name: f for f in entity.features}
    for name in message.features:
        if name not in declared:
            raise InvalidInputError(
                f"features[{name!r}] is not declared for entity {entity.name!r}: {nearest(name, declared)}"
            )
    columns: dict[str, Column] = {}
    given = np.zeros(len(keys), dtype=np.bool_)
    for name, feature in declared.items():
        if name in message.features:
            columns[name], has_value = _column(f"features[{name!r}]", message.features[name], feature, len(keys))
            given |= has_value
        else:
            columns[name] = missing_column(feature, len(keys))
    if not message.clear and not given.any():
        raise InvalidInputError(
            f"features: there is no value in any of them, and all that is stored of {len(keys):,} ids would be gone; "
            f"allowed: a value of {', '.join(declared)}; or set clear, if that is meant"
        )
    return entity.name, keys, columns


def features_request(message: feature_store_pb2.GetFeaturesRequest, features: FeatureSet) -> tuple[str, Int64Array]:
    """Check and convert a GetFeatures call to the entity's name and keys, [N].

    Raises:
        InvalidInputError: see the message.
    """
    entity = _entity(message.entity, features)
    return entity.name, entity_keys("ids", message.ids, entity.id, most=MAX_ENTITIES)


def withdraw_request(message: feature_store_pb2.WithdrawItemsRequest, features: FeatureSet) -> Int64Array:
    """Check and convert a WithdrawItems call to keys, [N].

    Raises:
        InvalidInputError: see the message.
    """
    return entity_keys("items", message.items, features.item_id, most=MAX_ENTITIES)


def put_texts(message: feature_store_pb2.PutEntitiesRequest, features: FeatureSet) -> dict[int, str]:
    """List the texts of string ids in a PutEntities call, by key; but of users' ids, which no answer has."""
    entity = features.entity(message.entity)
    texts = {f.name for f in entity.features if isinstance(f, Categorical) and f.id_type == "string"}
    ids = message.ids.texts if message.entity != USER and entity.id.id_type == "string" else ()
    return keyed_texts(ids, *(column.texts for name, column in message.features.items() if name in texts))


def features_response(
    entity: Entity, rows: EntityRows, texts: Mapping[int, str]
) -> feature_store_pb2.GetFeaturesResponse:
    """Convert columns of N entities, and the texts of their string ids, to the answer of a GetFeatures call."""
    return feature_store_pb2.GetFeaturesResponse(
        features={f.name: _column_message(f, rows.columns[f.name]) for f in entity.features},
        names=texts,
        damaged=damages(rows.damaged),
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


def _column(
    field: str, column: feature_store_pb2.FeatureColumn, feature: Feature, count: int
) -> tuple[Column, BoolArray]:
    """A feature of ``count`` entities as the store keeps it, and which of them have a value."""
    if isinstance(feature, Numeric):
        single: Feature = feature
        most = 1
    else:
        single = replace(feature, max_values=1)
        most = feature.max_values
    if (arrived := max(len(column.integers), len(column.texts), len(column.numbers))) > count * _MOST_VALUES:
        raise InvalidInputError(
            f"{field}: got {arrived:,} values for {count:,} ids; allowed: up to {_MOST_VALUES} each"
        )
    values = _values(field, column)
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
    flat = _encoded(field, single, values)
    if isinstance(feature, Numeric):
        present = ~np.isnan(float_column(feature.name, values)[0])  # where its default may stand now
    else:
        present = flat != MISSING
    owner = np.repeat(np.arange(count), lengths)
    given = np.bincount(owner[present], minlength=count) > 0
    if isinstance(feature, Numeric) or most == 1:
        if len(flat) == count:
            return flat, given
        stored = missing_column(feature, count)
        stored[lengths > 0] = flat
        return stored, given
    keys, counts = padded(feature, flat, owner, rows=count)
    if int(counts.max()) > most:
        index = int(np.argmax(counts))
        raise InvalidInputError(f"{field}: entity {index} has {counts[index]} ids; allowed: at most {most}")
    return keys, given


def _encoded(field: str, feature: Feature, values: Any) -> Column:
    """Values encoded, some at a time: the first that is refused is all that is told, and millions may be."""
    parts: list[Column] = []
    for start in range(0, max(len(values), 1), MAX_ENTITIES):
        part, refused = checked_column(feature, values[start : start + MAX_ENTITIES])
        if refused:
            place = min(refused)
            raise InvalidInputError(f"{field}[{start + place}]: {refused[place]}")
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


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
