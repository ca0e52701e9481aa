"""Raw values to columns: ids to int64 keys, numbers to float32. Everything else builds on these three.

A raw id that is ``None``, -1 or the empty text is a missing value, here and so everywhere: in event
logs, entity rows, requests and appended events (``docs/specs/ids.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, Feature, Numeric
from recsys.features.hashing import MISSING, integer_key, integer_keys, string_keys

Column = npt.NDArray[Any]
"""int64 keys, shape [N] or [N, K]; or float32 values, shape [N]."""


def feature_keys(feature: Categorical, values: Any) -> Int64Array:
    """Keys of raw ids.

    Args:
        feature: declares the id type and how many values one entity may have.
        values: single-valued: N ids, as an array or a sequence. Multi-valued: N sequences of at
            most ``max_values`` ids. ``None``, -1 and ``""`` (or an empty sequence) are missing values.

    Returns:
        int64, shape [N], or [N, max_values] padded with ``MISSING``.

    Raises:
        InvalidInputError: an id of the wrong type, or too many values.
    """
    if feature.max_values == 1:
        return _keys(feature, values)
    lengths = [0 if v is None else len(_as_sequence(feature, v)) for v in values]
    if lengths and max(lengths) > feature.max_values:
        raise InvalidInputError(
            f"feature {feature.name!r}: {max(lengths)} values; allowed: at most {feature.max_values}"
        )
    keys = np.full((len(lengths), feature.max_values), MISSING, dtype=np.int64)
    present = np.arange(feature.max_values) < np.asarray(lengths, dtype=np.int64)[:, None]
    keys[present] = _keys(feature, [v for row in values if row is not None for v in row])
    return keys


def feature_column(feature: Feature, values: Any) -> Column:
    """Encode N raw values of any feature: :func:`feature_keys`, or finite float32 with defaults filled in."""
    if isinstance(feature, Categorical):
        return feature_keys(feature, values)
    return _numbers(feature, values)


def missing_column(feature: Feature, length: int) -> Column:
    """The column that stands for ``length`` missing values of a feature."""
    if isinstance(feature, Numeric):
        return np.full(length, feature.default, dtype=np.float32)
    shape = (length,) if feature.max_values == 1 else (length, feature.max_values)
    return np.full(shape, MISSING, dtype=np.int64)


def _as_sequence(feature: Categorical, value: Any) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        raise InvalidInputError(
            f"feature {feature.name!r} is multi-valued: expected a list of ids per row, got {value!r}"
        )
    return value  # type: ignore[no-any-return]


def _keys(feature: Categorical, values: Any) -> Int64Array:
    _check_flat(feature, values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and feature.id_type == "int":
        found = integer_keys(values)
        missing = values == MISSING
        return np.where(missing, MISSING, found) if missing.any() else found
    values = list(values)
    present = [i for i, v in enumerate(values) if v is not None]
    keys = np.full(len(values), MISSING, dtype=np.int64)
    if not present:
        return keys
    accepted: type | tuple[type, ...] = str if feature.id_type == "string" else (int, np.integer)
    for i in present:
        if not isinstance(values[i], accepted) or isinstance(values[i], bool):
            raise InvalidInputError(
                f"feature {feature.name!r} takes {feature.id_type} ids; "
                f"value {i} is {values[i]!r} ({type(values[i]).__name__})"
            )
    nothing = "" if feature.id_type == "string" else MISSING
    present = [i for i in present if values[i] != nothing]
    if not present:
        return keys
    if feature.id_type == "string":
        keys[present] = string_keys([str(values[i]) for i in present])
    else:
        given = [int(values[i]) for i in present]
        in_int64 = all(-(1 << 63) <= v < (1 << 63) for v in given)
        keys[present] = integer_keys(np.array(given)) if in_int64 else [integer_key(v) for v in given]
    return keys


def _numbers(feature: Numeric, values: Any) -> Float32Array:
    _check_flat(feature, values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        with np.errstate(over="ignore"):
            numbers = values.astype(np.float32)
    else:
        for i, v in enumerate(values):
            if v is not None and (not isinstance(v, int | float | np.number) or isinstance(v, bool)):
                raise InvalidInputError(
                    f"feature {feature.name!r} takes numbers; value {i} is {v!r} ({type(v).__name__})"
                )
        plain = [feature.default if v is None else _plain(v) for v in values]
        with np.errstate(over="ignore"):
            numbers = np.array(plain, dtype=np.float64).astype(np.float32)
    bad = ~np.isfinite(numbers)
    if bad.any():
        index = int(np.argmax(bad))
        raise InvalidInputError(
            f"feature {feature.name!r}: value {index} is {_plain(values[index])}; allowed: finite float32 numbers"
        )
    return numbers


def _plain(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check_flat(feature: Feature, values: Any) -> None:
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InvalidInputError(
            f"feature {feature.name!r}: expected one value per row, got an array of shape {list(values.shape)}"
        )
