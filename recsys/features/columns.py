"""Raw values to columns: ids to int64 keys, numbers to float32, times to milliseconds, labels to 0 and 1.

``values.py`` says what is stored for one raw value, or why it is refused; here are whole columns at once, to the same
verdicts. A column comes as an array or as a sequence of whatever a way in carries. N rows, K values of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import InvalidInputError
from recsys.features import values as verdicts
from recsys.features.feature_set import Categorical, Feature, Numeric
from recsys.features.hashing import MISSING, integer_keys, string_keys
from recsys.features.values import MAX_TEXT_BYTES, MAX_TIME_MS, MIN_TIME_MS, TIME_UNITS, RefusedValueError, TimeUnit

Column = npt.NDArray[Any]
"""int64 keys, shape [N] or [N, K]; or float32 values, shape [N]."""

Refusals = dict[int, RefusedValueError]
"""Row -> why its value is refused; the row's place in the column holds anything."""

NO_TIME = -1
"""Stands for no time."""

NO_LABEL = 255
"""Label of an event that is no sample."""

_INTEGER_LETTERS = frozenset("0123456789+- ")
_NUMBER_LETTERS = _INTEGER_LETTERS | frozenset(".eE")
_Value = TypeVar("_Value")


def feature_keys(feature: Categorical, values: Any) -> Int64Array:
    """Keys of raw ids.

    Args:
        feature: declares the id type and how many values one entity may have.
        values: N raw values, as an array or a sequence; of a multi-valued feature N lists, or what stands for one.

    Returns:
        int64, shape [N], or [N, max_values] padded with ``MISSING``.

    Raises:
        RefusedValueError: a value is refused; it says which row.
    """
    return _all_or_first(id_column(feature, values))


def feature_column(feature: Feature, values: Any) -> Column:
    """Encode N raw values of any feature: :func:`feature_keys`, or finite float32 with defaults filled in.

    Raises:
        RefusedValueError: a value is refused; it says which row.
    """
    return _all_or_first(checked_column(feature, values))


def checked_column(feature: Feature, values: Any) -> tuple[Column, Refusals]:
    """Encode N raw values of any feature, and say which are refused."""
    return id_column(feature, values) if isinstance(feature, Categorical) else number_column(feature, values)


def missing_column(feature: Feature, length: int) -> Column:
    """The column that stands for ``length`` missing values of a feature."""
    if isinstance(feature, Numeric):
        return np.full(length, feature.missing, dtype=np.float32)
    shape = (length,) if feature.max_values == 1 else (length, feature.max_values)
    return np.full(shape, MISSING, dtype=np.int64)


def id_column(feature: Categorical, values: Any) -> tuple[Int64Array, Refusals]:
    """Keys of raw ids, and which are refused; see :func:`feature_keys`."""
    _check_flat(feature.name, values)
    if feature.max_values > 1:
        return _many(feature, values)
    if feature.id_type == "string":
        keys = _keys_of_texts(values)
    else:
        integers = _integers(values, missing=MISSING)
        keys = None if integers is None else _keys_of_integers(integers)
    if keys is not None:
        return keys, {}
    return _one_by_one(values, lambda value: verdicts.id_key(feature, value), MISSING, np.int64)


def padded(feature: Categorical, flat: Int64Array, owner: Int64Array, *, rows: int) -> tuple[Int64Array, Int64Array]:
    """Column of a multi-valued feature from all its keys, one row's behind another's; missing ones are left out.

    Args:
        feature: says how many values a row has room for.
        flat: keys.
        owner: the row that each belongs to, rising.
        rows: N.

    Returns:
        keys, [N, max_values], without what has no room; and how many values each row has, [N].
    """
    present = flat != MISSING
    owner, flat = owner[present], flat[present]
    counts = np.bincount(owner, minlength=rows).astype(np.int64)
    keys = missing_column(feature, rows)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    fits = place < feature.max_values
    keys[owner[fits], place[fits]] = flat[fits]
    return keys, counts


def number_column(feature: Numeric, values: Any) -> tuple[Float32Array, Refusals]:
    """Numbers as float32, ``Numeric.missing`` for none; and which are refused."""
    _check_flat(feature.name, values)
    numbers, refused = float_column(feature.name, values)
    with np.errstate(over="ignore"):
        found = np.where(np.isnan(numbers), feature.missing, numbers).astype(np.float32)
    if np.isinf(found).any():
        places = np.flatnonzero(np.isinf(found)).tolist()
        refused |= {i: RefusedValueError(feature.name, values[i], verdicts.ONE_NUMBER) for i in places}
    return found, refused


def float_column(field: str, values: Any) -> tuple[npt.NDArray[np.float64], Refusals]:
    """Numbers as float64, NaN for none; and which are no finite number."""
    numbers = _floats(values)
    if numbers is not None and not np.isinf(numbers).any():
        return numbers, {}

    def one(value: Any) -> float:
        found = verdicts.plain_number(field, value)
        return np.nan if found is None else found

    return _one_by_one(values, one, np.nan, np.float64)


def time_column(
    field: str, values: Any, *, unit: TimeUnit = "ms", latest_ms: int = MAX_TIME_MS
) -> tuple[Int64Array, Refusals]:
    """Milliseconds since 1970, ``NO_TIME`` for none; and which are refused. See ``values.time_ms``."""
    times = _times(values, unit)
    if times is None:
        return _one_by_one(values, lambda value: _time(field, value, unit, latest_ms), NO_TIME, np.int64)
    wrong = (times < MIN_TIME_MS) | (times > latest_ms)
    refused: Refusals = {}
    for i in np.flatnonzero(wrong).tolist() if wrong.any() else ():
        try:
            times[i] = _time(field, _plain(values[i]), unit, latest_ms)
        except RefusedValueError as error:
            refused[i] = error
    return times, refused


def label_column(field: str, values: Any) -> tuple[npt.NDArray[np.uint8], Refusals]:
    """0, 1, or ``NO_LABEL``; and which are refused."""
    numbers = _floats(values)
    if numbers is not None and (np.isnan(numbers) | (numbers == 0) | (numbers == 1)).all():
        return np.where(np.isnan(numbers), NO_LABEL, numbers).astype(np.uint8), {}

    def one(value: Any) -> int:
        found = verdicts.label(field, value)
        return NO_LABEL if found is None else found

    return _one_by_one(values, one, NO_LABEL, np.uint8)


def text_column(field: str, values: Any) -> tuple[list[str | None], Refusals]:
    """Text as it is, None for none; and what is no text."""
    found: list[str | None] = []
    refused: Refusals = {}
    for i, value in enumerate(values):
        found.append(None)
        if not verdicts.is_missing(value):
            try:
                found[-1] = verdicts.checked_text(field, value)
            except RefusedValueError as error:
                refused[i] = error
    return found, refused


def _all_or_first(found: tuple[npt.NDArray[Any], Refusals]) -> npt.NDArray[Any]:
    column, refused = found
    if refused:
        row = min(refused)
        error = refused[row]
        error.args = (f"{error} (row {row})",) if len(column) > 1 else error.args
        raise error
    return column


def _one_by_one(
    values: Iterable[Any], verdict: Callable[[Any], _Value], nothing: Any, dtype: type[np.generic]
) -> tuple[npt.NDArray[Any], Refusals]:
    # A float of half or single width says how wide it is, which its value as Python's own does not.
    narrow = isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.itemsize < 8
    values = values.tolist() if isinstance(values, np.ndarray) and not narrow else list(values)
    column = np.full(len(values), nothing, dtype=dtype)
    refused: Refusals = {}
    for i, value in enumerate(values):
        try:
            column[i] = verdict(value)
        except RefusedValueError as error:
            refused[i] = error
    return column, refused


def _many(feature: Categorical, values: Any) -> tuple[Int64Array, Refusals]:
    refused: Refusals = {}
    rows: list[Sequence[Any]] = []
    for i, value in enumerate(values):
        try:
            rows.append(verdicts.listed(feature, value))
        except RefusedValueError as error:
            refused[i] = error
            rows.append(())
    one = Categorical(name=feature.name, id_type=feature.id_type)
    flat, wrong = id_column(one, [value for row in rows for value in row])
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    owner = np.repeat(np.arange(len(rows)), lengths)
    for at, why in wrong.items():
        refused.setdefault(int(owner[at]), why)
    keys, counts = padded(feature, flat, owner, rows=len(rows))
    for i in np.flatnonzero(counts > feature.max_values).tolist():
        allowed = f"at most {feature.max_values} ids, not {counts[i]}"
        refused.setdefault(i, RefusedValueError(feature.name, _plain(values[i]), allowed))
    return keys, refused


def _keys_of_texts(values: Any) -> Int64Array | None:
    """Keys of nothing but plain texts and ``None``; None if there is anything else to look at."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    kinds = set(map(type, values))
    if not kinds <= {str, type(None)}:
        return None
    if type(None) in kinds:
        values = ["" if value is None else value for value in values]
    if values and 4 * max(map(len, values)) > MAX_TEXT_BYTES:
        return None
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return None
    keys = string_keys(values)
    if "" in values:
        keys[[i for i, value in enumerate(values) if value == ""]] = MISSING
    return keys


def _keys_of_integers(integers: Int64Array) -> Int64Array:
    keys = integer_keys(integers)
    missing = integers == MISSING
    return np.where(missing, MISSING, keys) if missing.any() else keys


def _integers(values: Any, *, missing: int) -> Int64Array | None:
    """Values that plainly are integers of 64 bits, ``missing`` for none; None if there is anything else to look at."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "ib" or (values.dtype.kind == "u" and (values.itemsize < 8 or _in_int64(values))):
            return values.astype(np.int64, copy=False)
        if values.dtype.kind != "f":
            return None if values.dtype.kind == "u" else _integers(values.tolist(), missing=missing)
        nothing = np.isnan(values)
        whole = np.where(nothing, missing, values)
        exact = np.float64(2.0 ** np.finfo(values.dtype).nmant) * 2
        if (np.abs(whole.astype(np.float64)) >= exact).any() or (np.floor(whole) != whole).any():
            return None
        return whole.astype(np.int64)
    kinds = set(map(type, values))
    try:
        if kinds <= {int, type(None)}:
            if type(None) in kinds:
                values = [missing if value is None else value for value in values]
            return np.array(values, dtype=np.int64)
        if kinds == {str} and _INTEGER_LETTERS.issuperset("".join(values)):
            return np.array([int(value) for value in values], dtype=np.int64)
    except (OverflowError, ValueError):
        pass
    return None


def _in_int64(values: npt.NDArray[Any]) -> bool:
    return values.size == 0 or int(values.max()) < 1 << 63


def _floats(values: Any) -> npt.NDArray[np.float64] | None:
    """Values that plainly are numbers, NaN for none; None if there is anything else to look at."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64) if values.dtype.kind in "iufb" else _floats(values.tolist())
    kinds = set(map(type, values))
    try:
        if kinds <= {int, float, bool, type(None)}:
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        if kinds == {str} and _NUMBER_LETTERS.issuperset("".join(values)):
            return np.array([float(value) for value in values], dtype=np.float64)
    except (OverflowError, ValueError):
        pass
    return None


def _times(values: Any, unit: TimeUnit) -> Int64Array | None:
    """Milliseconds of plain numbers; None if there is anything else to look at. Far times stay out of range."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return _times_of_floats(values.astype(np.float64), unit)
    if isinstance(values, np.ndarray) and values.dtype.kind == "b":
        return None
    counts = None if _has_none(values) else _integers(values, missing=NO_TIME)
    if counts is None:
        return None
    if unit == "s":
        return np.clip(counts, -MAX_TIME_MS, MAX_TIME_MS) * 1000
    return counts // (TIME_UNITS[unit] // 1000) if unit != "ms" else counts.copy()


def _times_of_floats(counts: npt.NDArray[np.float64], unit: TimeUnit) -> Int64Array | None:
    if np.isnan(counts).any() or (np.abs(counts) >= 1 << 53).any():  # beyond, the number that was written counts
        return None
    if unit != "s":
        return np.floor(counts).astype(np.int64) // (TIME_UNITS[unit] // 1000)
    if (np.abs(counts) > MAX_TIME_MS / 1000).any():
        return None
    # The float nearest to k / 1000 stands for k milliseconds, a smaller one for fewer.
    nearest = np.rint(counts * 1000)
    return np.where(counts >= nearest / 1000, nearest, nearest - 1).astype(np.int64)


def _has_none(values: Any) -> bool:
    return not isinstance(values, np.ndarray) and None in values


def _time(field: str, value: Any, unit: TimeUnit, latest_ms: int) -> int:
    found = verdicts.time_ms(field, value, unit=unit, latest_ms=latest_ms)
    return NO_TIME if found is None else found


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check_flat(name: str, values: Any) -> None:
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InvalidInputError(
            f"feature {name!r}: expected one value per row, got an array of shape {list(values.shape)}"
        )
