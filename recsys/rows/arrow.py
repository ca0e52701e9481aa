"""Arrow columns as what the contract encodes: arrays, or distinct values and which of them each row has.

Nothing is decided here: a value that is not plainly an integer, a number, a time or a text goes to the verdicts of
``features/values.py`` as Python's own. Of a column of texts each distinct one is looked at, and hashed, once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from recsys.features.feature_set import Categorical
from recsys.features.hashing import MISSING
from recsys.features.values import MAX_TIME_MS, TIME_UNITS
from recsys.rows.fields import Coded, Field, Moments

# Parts of the patterns of ``features/values.py``, which Arrow reads as Python does.
_SHORT_INTEGER = r"^-?[0-9]{1,18}$"
_PLAIN_NUMBER = r"^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$"
_ISO_SECONDS = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?"
_FAR_S = MAX_TIME_MS


def plain(column: pa.Array | pa.ChunkedArray, field: Field) -> Any:
    """A column as an array, a list, or :class:`Coded`."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    kind = column.type
    if types.is_dictionary(kind) and not _is_text(kind.value_type):
        column, kind = column.cast(kind.value_type), kind.value_type
    if _is_text(kind) or types.is_dictionary(kind):
        return _texts(column, field)
    if types.is_timestamp(kind) or types.is_date(kind):
        return _moments(column)
    if types.is_null(kind):
        return [None] * len(column)
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return _numbers(column, field)
    return column.to_pylist()  # lists, decimals


def takes(field: Field, kind: Any) -> bool:
    """True if some value of the type may fit; a text column may hold anything."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind) or _is_text(kind):
        return True
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if field.kind == "time":
        return bool(number or types.is_timestamp(kind) or types.is_date(kind))
    if field.kind == "text":
        return False
    if isinstance(field.feature, Categorical):
        many = field.feature.max_values > 1
        if many and (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            kind = kind.value_type
            number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
            if types.is_null(kind) or _is_text(kind):
                return True
        if field.feature.id_type == "string":
            return False
    return bool(number or types.is_boolean(kind))


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _numbers(column: Any, field: Field) -> Any:
    """Numbers as an array; where some are missing, ids with -1 and others with NaN."""
    if not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    if types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if types.is_floating(column.type):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if types.is_uint64(column.type) or field.kind == "time":
        return column.to_pylist()
    if isinstance(field.feature, Categorical):
        if field.feature.id_type == "string":
            return column.to_pylist()
        return pc.fill_null(column.cast(pa.int64()), MISSING).to_numpy(zero_copy_only=False)
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _moments(column: Any) -> Moments:
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    counts = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    if column.type.unit == "s":
        ms = np.clip(counts, -_FAR_S, _FAR_S) * 1000
    else:
        ms = counts // (TIME_UNITS[column.type.unit] // 1000)
    return Moments(ms, column.is_valid().to_numpy(zero_copy_only=False))


def _texts(column: Any, field: Field) -> Any:
    """Texts that are all plain integers, numbers or times as such; else the distinct ones."""
    single = not isinstance(field.feature, Categorical) or (
        field.feature.max_values == 1 and field.feature.id_type == "int"
    )
    if single and field.kind != "text" and not types.is_dictionary(column.type) and len(column):
        if (
            field.kind == "time"
            and not column.null_count
            and _all_match(column, _ISO_SECONDS + r"(Z|[+-][0-9]{2}:[0-9]{2})$")
        ):
            return _parsed(column, field, pa.timestamp("us", "UTC"))
        if field.kind == "time" and not column.null_count and _all_match(column, _ISO_SECONDS + "$"):
            return _parsed(column, field, pa.timestamp("us"))
        if (field.kind == "time" or isinstance(field.feature, Categorical)) and _all_match(column, _SHORT_INTEGER):
            return _numbers(column.cast(pa.int64()), field)
        if field.kind != "time" and not isinstance(field.feature, Categorical) and _all_match(column, _PLAIN_NUMBER):
            return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return _coded(column)


def _parsed(column: Any, field: Field, kind: Any) -> Any:
    try:
        return _moments(column.cast(kind))
    except pa.ArrowInvalid:  # a 31st of February
        return _coded(column)


def _coded(column: Any) -> Coded:
    encoded = column if types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices
    if indices.null_count:
        indices = pc.fill_null(indices.cast(pa.int64()), -1)
    try:
        distinct = encoded.dictionary.to_pylist()
    except UnicodeDecodeError:  # bytes, which are refused, in the place of what is no UTF-8
        distinct = [_text_or_bytes(value) for value in encoded.dictionary]
    return Coded(distinct, indices.to_numpy(zero_copy_only=False))


def _text_or_bytes(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()


def _all_match(column: Any, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(column, pattern)).as_py() is not False
