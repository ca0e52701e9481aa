"""The packed entity row: one user's or item's features in one fixed-width value.

An 8-byte header, then the features in declared order: ids as little-endian i64 (padded with -1
up to ``max_values``), numbers as f32 (``docs/specs/redis_format.md``). Unpacking many rows is
one join and one ``np.frombuffer``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError, nearest
from recsys.features.columns import Column, feature_column, missing_column
from recsys.features.feature_set import Categorical, Feature, Numeric, fingerprint
from recsys.features.hashing import KEY_LIMIT, MISSING

MAGIC = b"RE"
FORMAT_VERSION = 1

WITHDRAWN = b"RW" + FORMAT_VERSION.to_bytes(2, "little") + bytes(4)
"""In place of the row of an item that was withdrawn: it has no features, and is retrieved no more."""


def entity_dtype(features: Sequence[Feature]) -> np.dtype[np.void]:
    """The row: 8-byte header, then one field per feature."""
    # No feature name starts with "_".
    fields: list[Any] = [("_header", "<u8")]
    for feature in features:
        if isinstance(feature, Categorical):
            fields.append((feature.name, "<i8", (feature.max_values,)))
        else:
            fields.append((feature.name, "<f4"))
    return np.dtype(fields)


def row_header(features: Sequence[Feature]) -> bytes:
    """``b"RE"``, format version u16, and 4 bytes that change exactly when the row's meaning does."""
    layout = [[f.name, f.id_type, f.max_values] if isinstance(f, Categorical) else [f.name, "number"] for f in features]
    return MAGIC + FORMAT_VERSION.to_bytes(2, "little") + bytes.fromhex(fingerprint(json.dumps(layout)))[:4]


def make_columns(features: Sequence[Feature], values: Mapping[str, Any], *, length: int) -> dict[str, Column]:
    """Encode raw columns of ``length`` entities; absent features are missing.

    Raises:
        InvalidInputError: an unknown feature name, or a value of the wrong type or count.
    """
    declared = {f.name: f for f in features}
    for name in values:
        if name not in declared:
            raise InvalidInputError(f"unknown feature {name!r}: {nearest(name, declared)}")
    columns: dict[str, Column] = {}
    for feature in features:
        given = values.get(feature.name)
        column = missing_column(feature, length) if given is None else feature_column(feature, given)
        if len(column) != length:
            raise InvalidInputError(f"feature {feature.name!r}: {len(column)} values for {length} entities")
        columns[feature.name] = column
    return columns


def pack_rows(features: Sequence[Feature], columns: Mapping[str, Column]) -> list[bytes]:
    """Encoded columns of N entities to N packed rows."""
    length = len(next(iter(columns.values()))) if columns else 0
    rows = np.zeros(length, dtype=entity_dtype(features))
    rows["_header"] = int.from_bytes(row_header(features), "little")
    for feature in features:
        column = columns[feature.name]
        rows[feature.name] = column.reshape(rows[feature.name].shape)
    width = rows.dtype.itemsize
    data = rows.tobytes()
    return [data[i * width : (i + 1) * width] for i in range(length)]


def unpack_rows(
    features: Sequence[Feature], rows: Sequence[bytes | None], *, entity: str = "entity"
) -> dict[str, Column]:
    """Packed rows to encoded columns of N = len(rows); ``None`` is an unknown entity, ``WITHDRAWN`` one that was
    withdrawn: all missing.

    Raises:
        StoreFormatError: a row was not written by this package, or with other features, or holds impossible values.
    """
    dtype, header = _row_layout(tuple(features))
    found, packed = None, cast(Sequence[bytes], rows)
    try:
        joined = b"".join(packed)
    except TypeError:  # a None: faster found out so than looked for
        found = [i for i, row in enumerate(rows) if row is not None]
        packed = [packed[i] for i in found]
        joined = b"".join(packed)
    # A row of another width would move the headers behind it, or make the whole of another length.
    table = np.frombuffer(joined if len(joined) == len(packed) * dtype.itemsize else b"", dtype=dtype)
    if len(table) != len(packed) or (table["_header"] != int.from_bytes(header, "little")).any():
        good = []
        for place, row in enumerate(packed):
            where = f"{entity} row {place if found is None else found[place]}"
            ours = len(row) == dtype.itemsize and row[:8] == header
            if row == WITHDRAWN:
                row, ours = pack_rows(features, {f.name: missing_column(f, 1) for f in features})[0], True
            good.append(row if ours else _upgraded(features, row, where))
        table = np.frombuffer(b"".join(good), dtype=dtype)
    columns: dict[str, Column] = {}
    for feature in features:
        values = table[feature.name]
        if isinstance(feature, Categorical) and feature.max_values == 1:
            values = values[:, 0]
        if found is None:
            column = np.ascontiguousarray(values)
        else:
            column = missing_column(feature, len(rows))
            column[found] = values
        columns[feature.name] = column
    if impossible := _impossible(features, columns):
        raise StoreFormatError(f"{entity} {impossible}")
    return columns


def unpack_readable(
    features: Sequence[Feature], rows: Sequence[bytes | None], *, names: Sequence[str]
) -> tuple[dict[str, Column], dict[int, StoreFormatError]]:
    """As :func:`unpack_rows`, but a row that cannot be read is missing; also the place of each such row, and why.

    Args:
        features: declare the rows.
        rows: [N].
        names: of their keys, for messages, [N].
    """
    try:
        return unpack_rows(features, rows), {}
    except StoreFormatError:
        pass
    readable, damaged = list(rows), dict[int, StoreFormatError]()
    for place, row in enumerate(rows):
        try:
            unpack_rows(features, [row], entity=names[place])
        except StoreFormatError as error:
            readable[place], damaged[place] = None, error
    return unpack_rows(features, readable), damaged


def _impossible(features: Sequence[Feature], columns: Mapping[str, Column]) -> str:
    """Values that are never stored: what is no key, or no finite number; an empty text if there are none."""
    ids = [columns[f.name].reshape(-1) for f in features if isinstance(f, Categorical)]
    numbers = [columns[f.name] for f in features if isinstance(f, Numeric)]
    # All at once: for one row numpy's cost per call is all of it. As unsigned plus 1 a missing key is 0.
    if (not ids or _are_keys(np.concatenate(ids))) and (not numbers or np.isfinite(np.concatenate(numbers)).all()):
        return ""
    for feature in features:
        column = columns[feature.name]
        if isinstance(feature, Categorical):
            wrong = (column < MISSING) | (column >= KEY_LIMIT)
        else:
            wrong = np.isinf(column) if np.isnan(feature.missing) else ~np.isfinite(column)
        if wrong.any():
            place = int(np.flatnonzero(wrong.reshape(len(column), -1).any(axis=1))[0])
            found = column[wrong].reshape(-1)[0]
            return f"row {place}: corrupt: feature {feature.name!r} is {found}, which is never stored"
    return ""


def _are_keys(keys: Int64Array) -> bool:
    return not len(keys) or int((keys.view(np.uint64) + np.uint64(1)).max()) <= KEY_LIMIT


def _upgraded(features: Sequence[Feature], row: bytes, where: str) -> bytes:
    """A row that was stored before the last features were added, with those missing.

    Raises:
        StoreFormatError: it is no such row.
    """
    for count in range(len(features) - 1, 0, -1):
        dtype, header = _row_layout(tuple(features[:count]))
        if len(row) == dtype.itemsize and row[:8] == header:
            older = np.frombuffer(row, dtype=dtype)
            columns: dict[str, Column] = {f.name: missing_column(f, 1) for f in features}
            columns.update({f.name: older[f.name].reshape(columns[f.name].shape) for f in features[:count]})
            return pack_rows(features, columns)[0]
    dtype, header = _row_layout(tuple(features))
    raise StoreFormatError(_row_problem(where, row, header, dtype.itemsize))


@lru_cache(maxsize=64)
def _row_layout(features: tuple[Feature, ...]) -> tuple[np.dtype[np.void], bytes]:
    # Worked out per request it would cost more than unpacking a user's row.
    return entity_dtype(features), row_header(features)


def _row_problem(where: str, row: bytes, header: bytes, width: int) -> str:
    if row[:2] != MAGIC:
        return f"{where}: not an entity row: expected bytes that start with {MAGIC!r}, found {row[:2]!r}"
    version = int.from_bytes(row[2:4], "little")
    if version > FORMAT_VERSION:
        return f"{where}: row format {version}, but this program reads up to {FORMAT_VERSION}: upgrade it"
    if row[:8] != header:
        return f"{where}: stored with other features than this FeatureSet declares"
    return f"{where}: {len(row)} bytes, expected {width}"
