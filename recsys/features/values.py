"""Verdict on one raw value: what is stored for it, or why it is refused. The reference for every way in.

CSV, JSON lines, Parquet, Redis Streams, Kafka and gRPC carry values of different kinds. Whatever the kind, the same
value has the same verdict (``docs/guides/data.md``, "One row"). Fast paths over whole columns (``columns.py``,
``recsys/rows/arrow.py``) take what is plainly fine and ask these functions about everything else.

**Missing** are ``None``, the empty text, NaN and a field that is not there; of ids -1 too. Text of a number or a time
may have spaces around it.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical
from recsys.features.hashing import MISSING, integer_key, string_key

TimeUnit = Literal["s", "ms", "us", "ns"]
TIME_UNITS: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Unit of an integer time -> how many of it a second has."""

MIN_TIME_MS = 100_000_000_000
"""1973-03-03; every time in seconds until the year 5138 is below it, so it tells the units apart."""

MAX_TIME_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""

MAX_TEXT_BYTES = 4096
"""Longest text id, in UTF-8."""

INTEGER = r"^[-+]?[0-9]+$"
NUMBER = r"^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$"

ISO = (
    r"^[0-9]{4}-?[0-9]{2}-?[0-9]{2}([Tt ][0-9]{2}(:?[0-9]{2}(:?[0-9]{2}([.,][0-9]{1,9})?)?)?"
    r"( ?[Zz]| UTC| utc| ?[-+][0-9]{2}(:?[0-9]{2})?)?)?$"
)

_INTEGER, _NUMBER = re.compile(INTEGER, re.ASCII), re.compile(NUMBER, re.ASCII)
_ISO = re.compile(ISO, re.ASCII)
_BOOLEANS = {"true": 1, "false": 0}
_EXACT_BITS = {2: 11, 4: 24, 8: 53}
"""Bytes of a float -> below 2 to the power of this it tells all integers apart."""

_INT64 = range(-(1 << 63), 1 << 63)
_LONGEST_NUMBER = 400
_FLOAT32_END = (2 - 2**-24) * 2.0**127  # the first number that rounds to infinity
_FAR_DIGITS = 30
_FAR: int = 10**_FAR_DIGITS
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_SHOWN = 80

ONE_INTEGER = "a 64-bit integer"
ONE_NUMBER = "a finite float32 number"
ONE_TEXT = f"text of up to {MAX_TEXT_BYTES:,} bytes of UTF-8"
ONE_LABEL = "0 or 1, true or false, or nothing"


class RefusedValueError(InvalidInputError):
    """A value that no way in takes.

    Attributes:
        field: name of the field.
        value: as it arrived.
        allowed: what is.
    """

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field!r} is {shown(value)}; allowed: {allowed}")

    def __reduce__(self) -> Any:
        """Copy for another process; the message may have been changed since it was made."""
        return _remade, (self.field, self.value, self.allowed, self.args)


def _remade(field: str, value: Any, allowed: str, args: tuple[Any, ...]) -> RefusedValueError:
    error = RefusedValueError(field, value, allowed)
    error.args = args
    return error


def missing_field(field: str) -> RefusedValueError:
    """Error for a required field without a value."""
    error = RefusedValueError(field, None, "a value, in every row")
    error.args = (f"{field!r} is missing",)
    return error


def shown(value: Any) -> str:
    """A value as it stands in an error message: text quoted, long ones cut, the kind where it would not be plain.

    >>> shown("a" * 200)[:12], shown(True), shown(3.5), shown(None)
    ("'aaaaaaaaaaa", 'True', '3.5', 'missing')
    """
    if value is None:
        return "missing"
    text = repr(value) if isinstance(value, str | bytes | list | dict | tuple) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def is_missing(value: Any) -> bool:
    """True for ``None``, the empty text and NaN.

    >>> [is_missing(v) for v in (None, "", float("nan"), 0, "nan", [])]
    [True, True, True, False, False, False]
    """
    if value is None:
        return True
    if isinstance(value, str):
        return value == ""
    return isinstance(value, float | np.floating | decimal.Decimal) and value != value


def id_key(feature: Categorical, value: Any) -> int:
    """Key of one id, ``MISSING`` for none.

    Integer ids are integers, whole floats up to 2^53, booleans (1 and 0), and text of any of them.

    Raises:
        RefusedValueError: no id of the declared type.

    >>> [id_key(Categorical(name="n"), v) for v in (7, "7", 7.0, " 7.0 ", True, "", -1)]
    [7, 7, 7, 7, 1, -1, -1]
    """
    if is_missing(value):
        return MISSING
    if feature.id_type == "string":
        return string_key(checked_text(feature.name, value))
    found = _whole(feature.name, value, ONE_INTEGER)
    return MISSING if found is None or found == MISSING else integer_key(found)


def id_keys(feature: Categorical, value: Any) -> list[int]:
    """Keys of a multi-valued feature in one row: a list, text with ``|`` between ids or of a JSON list, or one id.

    Missing ids in a list are left out.

    Raises:
        RefusedValueError: an id of the wrong type, or more than ``max_values``.

    >>> tags = Categorical(name="tags", id_type="int", max_values=3)
    >>> id_keys(tags, [1, None, 2]), id_keys(tags, "1|2"), id_keys(tags, "[1, 2]"), id_keys(tags, 3), id_keys(tags, "")
    ([1, 2], [1, 2], [1, 2], [3], [])
    """
    keys = [key for one in listed(feature, value) if (key := id_key(feature, one)) != MISSING]
    if len(keys) > feature.max_values:
        raise RefusedValueError(feature.name, value, f"at most {feature.max_values} ids, not {len(keys)}")
    return keys


def listed(feature: Categorical, value: Any) -> Sequence[Any]:
    """Raw ids of a multi-valued feature in one row.

    Raises:
        RefusedValueError: text that begins with ``[`` and is no JSON list.
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        if not value.startswith("["):
            return value.split("|")
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            raise RefusedValueError(feature.name, value, "ids with | between them, or a list in JSON") from None
        return found  # type: ignore[no-any-return]
    if isinstance(value, list | tuple | np.ndarray):
        return value  # type: ignore[return-value]
    return [value]


def checked_text(field: str, value: Any) -> str:
    """A text id as it is.

    Raises:
        RefusedValueError: not text, too long, or not valid Unicode.
    """
    if not isinstance(value, str):
        raise RefusedValueError(field, value, f"{ONE_TEXT}; {_kind(value)} is none: quote it, or declare id_type int")
    if len(value) > MAX_TEXT_BYTES // 4:
        size_bytes = len(value.encode("utf-8", "surrogatepass"))
        if size_bytes > MAX_TEXT_BYTES:
            raise RefusedValueError(field, value, f"{ONE_TEXT}, not {size_bytes:,}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RefusedValueError(field, value, f"{ONE_TEXT}, without lone surrogates") from None
    return str(value)


def number(field: str, value: Any) -> float | None:
    """A number that float32 holds, None for none; booleans are 1 and 0.

    Raises:
        RefusedValueError: no number, or not finite in float32.

    >>> number("price", "1e3"), number("price", True), number("price", "nan"), number("price", " ")
    (1000.0, 1.0, None, None)
    """
    found = plain_number(field, value)
    if found is not None and abs(found) >= _FLOAT32_END:
        raise RefusedValueError(field, value, ONE_NUMBER)
    return found


def plain_number(field: str, value: Any) -> float | None:
    """A number as float64, None for none.

    Raises:
        RefusedValueError: no number, or infinite.
    """
    if is_missing(value):
        return None
    found: Any = value
    if isinstance(value, str):
        text = value.strip(" ")
        if text == "" or text.lower() == "nan":
            return None
        if text.lower() in _BOOLEANS:
            return float(_BOOLEANS[text.lower()])
        found = text if len(text) <= _LONGEST_NUMBER and _NUMBER.match(text) else None
    elif not isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating | decimal.Decimal):
        found = None
    try:
        number = math.nan if found is None else float(found)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RefusedValueError(field, value, ONE_NUMBER)
    return number


def label(field: str, value: Any) -> int | None:
    """0, 1, or None for no label.

    Raises:
        RefusedValueError: another value.
    """
    try:
        found = plain_number(field, value)
    except RefusedValueError:
        found = math.inf
    if found is not None and found not in (0.0, 1.0):
        raise RefusedValueError(field, value, ONE_LABEL)
    return None if found is None else int(found)


def time_ms(field: str, value: Any, *, unit: TimeUnit = "ms", latest_ms: int = MAX_TIME_MS) -> int | None:
    """A time as milliseconds since 1970, None for none. What is finer than a millisecond is cut off.

    A number counts ``unit`` since 1970. ISO 8601 text, dates and times without an offset are in UTC.

    Args:
        field: name of the field.
        value: number, text of a number, ISO 8601 text, ``datetime`` or ``date``.
        unit: of a number.
        latest_ms: the latest plausible time; the earliest is :data:`MIN_TIME_MS`.

    Raises:
        RefusedValueError: no time, or an implausible one.

    >>> time_ms("t", "2026-01-31T12:00:00+01:00"), time_ms("t", 1769857200, unit="s"), time_ms("t", "1769857200000")
    (1769857200000, 1769857200000, 1769857200000)
    """
    if is_missing(value):
        return None
    text = value.strip(" ") if isinstance(value, str) else None
    if text is not None and text.lower() in ("", "nan"):
        return None
    count = _number_of(value if text is None else text)
    found = _moment(value if text is None else text) if count is None else _scaled(count, unit)
    if found is None:
        raise RefusedValueError(field, value, f"{_UNIT_NAMES[unit]} since 1970, or ISO 8601 like 2026-01-31T12:00:00Z")
    if not MIN_TIME_MS <= found <= latest_ms:
        raise RefusedValueError(field, value, _plausible(count, found, latest_ms, unit))
    return found


def _plausible(count: Any, found_ms: int, latest_ms: int, unit: TimeUnit) -> str:
    """Allowed times; for a number the unit in which it would be one."""
    allowed = f"times from {_iso(MIN_TIME_MS)} to {_iso(latest_ms)}"
    if count is None:
        return allowed
    problem = f"{allowed}; counted in {_UNIT_NAMES[unit]} it is {_iso(found_ms)}"
    for other in TIME_UNITS:
        if other != unit and MIN_TIME_MS <= _scaled(count, other) <= latest_ms:
            return f"{problem}: is it in {_UNIT_NAMES[other]}?"
    return problem


def _iso(time_ms: int) -> str:
    if not -62_135_596_800_000 <= time_ms <= MAX_TIME_MS:
        return "before the year 1" if time_ms < 0 else "after the year 9999"
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=time_ms // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _number_of(value: Any) -> Any:
    """An exact number, or the number that text is; None for anything else."""
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER or not _NUMBER.match(value):
            return None
        if _INTEGER.match(value):
            return int(value)
        try:
            return decimal.Decimal(value)
        except decimal.InvalidOperation:  # an exponent of twenty digits
            return None
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float | np.floating):
        return decimal.Decimal(repr(float(value)))  # the number that was written, not its binary neighbour
    return value if isinstance(value, decimal.Decimal) else None


def _scaled(count: Any, unit: str) -> int:
    """Milliseconds of so many units, rounded down; of times far away the nearest that is surely refused."""
    if isinstance(count, int):
        return int(count * 1000 // TIME_UNITS[unit])
    if not count.is_finite() or count.adjusted() > _FAR_DIGITS:
        return int(-1 if count < 0 else 1) * _FAR
    return int(math.floor(count * 1000 / TIME_UNITS[unit]))


def _moment(value: Any) -> int | None:
    """Milliseconds of ISO 8601 text, a ``datetime`` or a ``date``; None for anything else."""
    if isinstance(value, str):
        if not _ISO.match(value):
            return None
        try:
            return _epoch_ms(datetime.datetime.fromisoformat(value.upper().replace(" UTC", "Z").replace(" Z", "Z")))
        except ValueError:
            return None
    if isinstance(value, datetime.datetime):
        return _epoch_ms(value)
    if isinstance(value, datetime.date):
        return _epoch_ms(datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC))
    return None


def _epoch_ms(moment: datetime.datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _whole(field: str, value: Any, allowed: str) -> int | None:
    """An integer of 64 bits, None for none."""
    if isinstance(value, str):
        text = value.strip(" ")
        if _INTEGER.match(text) and len(text) <= _LONGEST_NUMBER:
            found: int | None = int(text)
            if found not in _INT64:
                raise RefusedValueError(field, value, _too_wide(allowed))
            return found
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        if int(value) not in _INT64:
            raise RefusedValueError(field, value, _too_wide(allowed))
        return int(value)
    try:
        number = plain_number(field, value)
    except RefusedValueError:
        raise RefusedValueError(field, value, allowed) from None
    if number is None:
        return None
    if isinstance(value, decimal.Decimal):
        if value != value.to_integral_value():
            raise RefusedValueError(field, value, allowed)
        return _whole(field, int(value), allowed)
    if not number.is_integer():
        raise RefusedValueError(field, value, allowed)
    exact = _EXACT_BITS.get(getattr(value, "dtype", np.dtype(np.float64)).itemsize, 53)
    if abs(number) >= 1 << exact:
        raise RefusedValueError(field, value, f"{allowed}; a float of this width tells integers below 2^{exact} apart")
    return int(number)


def _too_wide(allowed: str) -> str:
    return f"{allowed}, from -2^63 to 2^63 - 1; longer ids are text: declare id_type string"


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "a boolean"
    if isinstance(value, numbers.Number):
        return "a number"
    return "a list" if isinstance(value, list | tuple) else "an object" if isinstance(value, Mapping) else "it"
