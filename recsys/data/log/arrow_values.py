"""Arrow columns to what the encoder takes: string ids become keys here, each distinct string hashed once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.log.encoder import NO_LABEL
from recsys.errors import InvalidInputError
from recsys.features.columns import feature_keys
from recsys.features.feature_set import Categorical, Entity, Feature, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import require_history

INTEGER = r"^(-?[0-9]{1,18}|-?[1-8][0-9]{18})$"
"""Integers in text. Engines sort by them and the encoder reads them, so both ask this pattern; all fit int64."""

NUMBER = r"^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,3})?$"


def keyed(features: FeatureSet) -> FeatureSet:
    """The same features for ids that are keys already: a key in [0, 2^62) is its own integer key."""

    def one(feature: Categorical) -> Categorical:
        return dataclasses.replace(feature, id_type="int")

    def each(declared: tuple[Feature, ...]) -> tuple[Feature, ...]:
        return tuple(one(f) if isinstance(f, Categorical) else f for f in declared)

    history = require_history(features)
    return dataclasses.replace(
        features,
        user_id=one(features.user_id),
        item_id=one(features.item_id),
        user=each(features.user),
        item=each(features.item),
        context=each(features.context),
        history=dataclasses.replace(history, attributes=tuple(one(a) for a in history.attributes)),
        entities=tuple(Entity(name=e.name, id=one(e.id), features=each(e.features)) for e in features.entities),
    )


def fits(feature: Feature, kind: pa.DataType) -> bool:
    """True if a Parquet column of this type can hold the feature."""
    if not isinstance(feature, Categorical):
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
    if feature.max_values > 1:
        return _is_list(kind) and fits(dataclasses.replace(feature, max_values=1), kind.value_type)
    return is_integer(kind) if feature.id_type == "int" else is_text(kind)


def is_integer(kind: pa.DataType) -> bool:
    """True if values are integers."""
    return bool(pa.types.is_integer(kind))


def is_text(kind: pa.DataType) -> bool:
    """True if values are strings, dictionary-encoded or not."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def raw_values(feature: Feature, column: pa.Array) -> Any:
    """N values of a feature for the encoder of :func:`keyed` features.

    Returns:
        int64 ids or keys, ``MISSING`` for none; or float64, the default for none; of a multi-valued
        feature a list of N such arrays.

    Raises:
        InvalidInputError: a value of the wrong type; names the first.
    """
    if not isinstance(feature, Categorical):
        return _cast(feature.name, column, pa.float64(), "numbers", NUMBER).fill_null(feature.default).to_numpy()
    if feature.max_values > 1:
        return _lists(feature, column)
    if feature.id_type == "int":
        integers = _cast(feature.name, column, pa.int64(), "int ids", INTEGER)
        return integers.fill_null(MISSING).to_numpy(zero_copy_only=False)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    keys = feature_keys(feature, encoded.dictionary.to_pylist())
    return np.append(keys, MISSING)[encoded.indices.fill_null(len(keys)).to_numpy(zero_copy_only=False)]


def raw_times(name: str, column: pa.Array) -> pa.Array:
    """Milliseconds as int64, null where missing.

    Raises:
        InvalidInputError: a value is no integer; names the first.
    """
    return _cast(name, column, pa.int64(), "integers (milliseconds since 1970)", INTEGER)


def raw_labels(column: pa.Array) -> Any:
    """0, 1 or ``NO_LABEL``; [N], uint8.

    Raises:
        InvalidInputError: another value; names the first.
    """
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    labels = _cast("label", column, pa.float64(), "0 and 1", NUMBER)
    wrong = pc.fill_null(pc.invert(pc.is_in(labels, value_set=pa.array([0.0, 1.0]))), False)
    wrong = pc.and_(wrong, labels.is_valid())
    if pc.any(wrong).as_py():
        raise InvalidInputError(f"label is {labels.filter(wrong)[0].as_py()}; allowed: 0 and 1, or none")
    return labels.fill_null(NO_LABEL).to_numpy(zero_copy_only=False).astype(np.uint8)


def _cast(name: str, column: pa.Array, kind: pa.DataType, wanted: str, pattern: str) -> pa.Array:
    if is_text(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
        wrong = pc.invert(pc.match_substring_regex(column, pattern))
        if pc.any(wrong).as_py():
            raise InvalidInputError(f"{name!r} takes {wanted}; got {column.filter(wrong)[0].as_py()!r}")
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise InvalidInputError(f"{name!r} takes {wanted}: {error}") from error


def _lists(feature: Categorical, column: pa.Array) -> list[Any]:
    if is_text(column.type):
        column = pa.array(
            [None if text is None else _split(feature, text) for text in column.to_pylist()], pa.list_(pa.string())
        )
    single = dataclasses.replace(feature, max_values=1)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    keys = raw_values(single, column.flatten())
    return np.split(keys, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _split(feature: Categorical, text: str) -> list[str]:
    if not text.startswith("["):
        return text.split("|") if text else []
    try:
        return [str(value) for value in json.loads(text)]
    except ValueError as error:
        raise InvalidInputError(f"{feature.name!r} takes a list of ids; got {text!r}") from error


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
