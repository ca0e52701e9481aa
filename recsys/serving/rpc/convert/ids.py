"""Ids: raw ids of users, items and entities to keys; shared by all calls.

What an id may be says the contract for a row (``features/values.py``); here none may be missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.columns import id_column
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING
from recsys.features.values import RefusedValueError, id_key
from recsys.proto import ranker_pb2

_FIELDS = {"int": "integer", "string": "text"}
_NO_ID = "-1 or the empty text, which stand for no value; send an id"


def user_key(message: Any, features: FeatureSet) -> int:
    """Convert ``message.user``, an Id, to its key.

    Raises:
        InvalidInputError: there is none, or it is refused.
    """
    return one_key("user", message.user, features.user_id)


def one_key(field: str, given: ranker_pb2.Id, feature: Categorical) -> int:
    """Convert an Id, which may not be missing, to its key.

    Raises:
        InvalidInputError: there is none, or it is refused.
    """
    wanted = _FIELDS[feature.id_type]
    found = given.WhichOneof("value")
    if found is None:
        raise InvalidInputError(f"{field}: no id was sent; set {field}.{wanted}")
    try:
        key = id_key(feature, getattr(given, found))
    except RefusedValueError as error:
        raise InvalidInputError(f"{field}.{found}: {error}; set {field}.{wanted}") from None
    if key == MISSING:
        raise InvalidInputError(f"{field}.{found} is {_NO_ID}")
    return key


def entity_keys(field: str, ids: ranker_pb2.Ids, feature: Categorical, *, most: int) -> Int64Array:
    """Convert ids, none of which may be missing, to keys; int64, shape [N], 1 <= N <= most.

    Raises:
        InvalidInputError: there are too many or none, or one is refused or missing.
    """
    count = id_count(ids)
    if not 1 <= count <= most:
        raise InvalidInputError(f"{field}: got {count:,}; allowed: 1 to {most:,} per request")
    raw = raw_ids(field, ids, feature)
    # Nearly always all ids are their own keys, and one pass can tell: as unsigned, negative ids are large.
    if isinstance(raw, np.ndarray) and feature.id_type == "int" and raw.view(np.uint64).max() < KEY_LIMIT:
        own_keys: Int64Array = raw
        return own_keys
    keys, refused = id_column(feature, raw)
    for place in sorted(refused):
        raise InvalidInputError(f"{field}[{place}]: {refused[place]}; fill {field}.{_FIELDS[feature.id_type]}s")
    if (missing := keys == MISSING).any():
        raise InvalidInputError(f"{field}[{int(np.argmax(missing))}] is {_NO_ID}")
    return keys


def id_count(ids: ranker_pb2.Ids) -> int:
    """Count ids, right or wrong, without a look at them."""
    return max(len(ids.integers), len(ids.texts))


def raw_ids(field: str, ids: ranker_pb2.Ids, feature: Categorical) -> Any:
    """Read raw ids: an int64 array or a list of strings.

    Raises:
        InvalidInputError: there are ids of both kinds, or keys.
    """
    if ids.are_keys:
        raise InvalidInputError(f"{field}.are_keys is set, which only answers have; send ids, not their keys")
    if len(ids.texts) and len(ids.integers):
        raise InvalidInputError(
            f"{field}: got {len(ids.integers)} integers and {len(ids.texts)} texts; {feature.name!r} takes "
            f"{feature.id_type} ids: fill {field}.{_FIELDS[feature.id_type]}s only"
        )
    return list(ids.texts) if len(ids.texts) else int64_array(ids.integers)


def int64_array(packed: Any) -> Int64Array:
    """Convert a packed integer field to int64. protobuf implements ``__array__``: 4 us for 10,000 ids, against
    370 us by way of a list."""
    return np.array(packed, dtype=np.int64)
