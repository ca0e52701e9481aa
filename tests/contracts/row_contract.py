"""Odd rows, and the one verdict on each: run them through a way in with :func:`check`.

A case changes one field of a good row. What is stored for it, or that it is refused, is written down from the
definition (``docs/guides/data.md``, "One row"), not taken from the code. A way in gives its own verdict on each case
that its format can express; where it differs, the difference has a name in ``docs/guides/data.md``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash

from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric

T0_MS: Final = 1_600_000_000_000  # 2020-09-13T12:26:40Z
ODD = FeatureSet(
    name="odd",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item", id_type="string"),
    item=(
        Categorical(name="brand", id_type="string"),
        Categorical(name="tags", id_type="string", max_values=3),
        Categorical(name="stock"),
        Numeric(name="price"),
    ),
    context=(
        Categorical(name="hour"),
        Categorical(name="page", id_type="string"),
        Categorical(name="slots", max_values=2),
        Numeric(name="dwell"),
    ),
    history=History(
        attributes=(
            Categorical(name="maker", id_type="string"),
            Categorical(name="place"),
            Categorical(name="action", storage="u8"),
        ),
        recent=5,
    ),
)
ATTRIBUTES, CONTEXT = ("maker", "place", "action"), ("hour", "page", "slots", "dwell")
DIFFERENCES = Path(__file__).resolve().parents[2] / "docs" / "guides" / "data.md"


class Refused:
    """Verdict on a row that is set aside, with its field named."""

    def __repr__(self) -> str:
        return "refused"


class Absent:
    """A field that is not there."""

    def __repr__(self) -> str:
        return "absent"


REFUSED, ABSENT = Refused(), Absent()
NAN, INF = math.nan, math.inf


def key_of(text: str) -> int:
    """Key of a text id, from its definition in docs/specs/ids.md."""
    return xxhash.xxh3_64_intdigest(text.encode()) >> 2


def integer_key_of(value: int) -> int:
    """Key of an integer id, likewise."""
    return value if 0 <= value < 2**62 else key_of(str(value))


@dataclass(frozen=True)
class Case:
    """A row that is good but for one field.

    Attributes:
        field: that field.
        value: what stands in it.
        expected: what is stored, or ``REFUSED``.
    """

    field: str
    value: Any
    expected: Any

    @property
    def name(self) -> str:
        """``field=value``."""
        shown = repr(self.value)
        return f"{self.field}={shown if len(shown) < 50 else shown[:50] + '...'}"


# Kind of field -> (value, what is stored). -1 is no id, None no number, time or label.
INTEGERS: list[tuple[Any, Any]] = [
    *((v, v) for v in (0, 7, 2**53 + 1, 2**62 - 1)),
    *((v, integer_key_of(v)) for v in (-7, 2**62, 2**63 - 1, -(2**63))),
    *((v, REFUSED) for v in (2**63, 2**64 - 1, -(2**63) - 1, 10**50)),
    *((v, 7) for v in ("7", "007", "+7", " 7 ", 7.0, "7.0", "7.", "0.7e1", "70e-1")),
    *((v, 1000) for v in (1e3, "1e3", "1000")),
    ("-7", integer_key_of(-7)),
    *((v, REFUSED) for v in (3.5, "3.5", 2.0**53 + 2, "9007199254740994.0", INF, -INF, "inf", "9" * 500, "1e400")),
    *((v, 1) for v in (True, "true", "True", "TRUE")),
    *((v, 0) for v in (False, "false", "False")),
    *((v, -1) for v in (None, ABSENT, "", " ", NAN, "nan", "NaN", -1, "-1", -1.0, "-1.0")),
    *((v, REFUSED) for v in ("yes", "null", "None", "NA", "0x10", "1_000", "1,000", "7 7", "--7", "1-2", "٣", "7\t")),
    *((v, REFUSED) for v in ([7], {"a": 1}, "e", ".", "-", "+")),
]
TEXTS: list[tuple[Any, Any]] = [
    *((v, key_of(v)) for v in ("a", "ä", "😀", " a ", "-1", "7", "nan", "null", "true", "None", "a,b", 'a"b', "a|b")),
    *(
        (v, key_of(v))
        for v in ("a\nb", "a\r\nb", "a\tb", "[a]", "x" * 4096, "ä" * 2048, "'", '"', '""', ",", "\ufeffa")
    ),
    *((v, -1) for v in (None, ABSENT, "", NAN)),
    *((v, REFUSED) for v in ("x" * 4097, "ä" * 2049, 7, 7.5, True, ["a"], {"a": 1}, 2**70)),
    ("\ud800", REFUSED),
    ("a\udfff", REFUSED),
]
NUMBERS: list[tuple[Any, Any]] = [
    *((v, float(np.float32(v))) for v in (1.5, -2, 0, 0.1, 3.4e38, 2**24 + 1, 2**53 + 1, -1.0, 1e-50, -1)),
    *((v, 1.5) for v in ("1.5", " 1.5 ", "+1.5", "15e-1", "1.50", "0001.5")),
    *((v, w) for v, w in ((".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("1E3", 1000.0), ("-1", -1.0))),
    *((v, 1.0) for v in (True, "true", "True")),
    *((v, 0.0) for v in (False, "false", "1e-400")),
    *((v, None) for v in (None, ABSENT, "", " ", NAN, "nan", "NaN")),
    *((v, REFUSED) for v in (INF, -INF, 1e39, 10**400, "inf", "-inf", "Infinity", "1e39", "1e400", "9" * 500)),
    *((v, REFUSED) for v in ("1_0", "1,5", "$5", "abc", "1 5", "0x1p3", "null", "e5", ".", "1e", [1.5], {"a": 1})),
]
TIMES: list[tuple[Any, Any]] = [
    *((v, T0_MS) for v in (T0_MS, str(T0_MS), float(T0_MS), f"{T0_MS}.0", f" {T0_MS} ", T0_MS + 0.7, f"{T0_MS}.9")),
    *((v, T0_MS) for v in ("1.6e12", "2020-09-13T12:26:40Z", "2020-09-13 12:26:40", "2020-09-13T12:26:40")),
    *((v, T0_MS) for v in ("2020-09-13T14:26:40+02:00", "2020-09-13T07:26:40-05:00", "2020-09-13 12:26:40 UTC")),
    *(
        (v, T0_MS)
        for v in ("2020-09-13T12:26:40.000Z", "20200913T122640Z", "2020-09-13t12:26:40z", "2020-09-13T12:26:40.0")
    ),
    *((v, T0_MS) for v in ("2020-09-13T14:26:40+0200", "2020-09-13T12:26:40+00", "2020-09-13T12:26:40.000999Z")),
    ("2020-09-13T12:26:40.123456789Z", T0_MS + 123),
    ("2020-09-13T12:26:40,5Z", T0_MS + 500),
    ("2020-09-13T12:26Z", T0_MS - 40_000),
    ("2020-09-13", 1_599_955_200_000),
    ("1973-03-03T09:46:40Z", 100_000_000_000),
    *((v, REFUSED) for v in (T0_MS // 1000, T0_MS * 1000, T0_MS * 10**6, str(T0_MS // 1000), 0, -1, -T0_MS, 1e300)),
    *((v, REFUSED) for v in (99_999_999_999, "1970-01-01", "1973-03-03T09:46:39Z", 4_102_444_800_000, "2100-01-01")),
    *(
        (v, REFUSED)
        for v in ("2020-02-30", "2020-09-13T25:00:00Z", "2020-13-01", "13.09.2020", "09/13/2020", "yesterday")
    ),
    *(
        (v, REFUSED)
        for v in ("2020-9-13", "2020-09", "Sep 13 2020", "0x10", "inf", INF, True, [T0_MS], {"a": 1}, 10**30)
    ),
]
NO_TIMES = (None, ABSENT, "", " ", NAN, "nan")
LABELS: list[tuple[Any, Any]] = [
    *((v, 1) for v in (1, 1.0, "1", "1.0", " 1 ", True, "true", "True", "1e0")),
    *((v, 0) for v in (0, 0.0, "0", False, "false", "-0", "0.0")),
    *((v, None) for v in (None, ABSENT, "", " ", NAN, "nan")),
    *((v, REFUSED) for v in (2, -1, 0.5, "yes", "click", "null", INF, [1], {"a": 1}, "2", "-1")),
]
TEXT_LISTS: list[tuple[Any, Any]] = [
    *((v, ("a", "b")) for v in (["a", "b"], "a|b", '["a", "b"]', ["a", None, "b"], ["a", "", "b"], "a||b", "|a|b")),
    *((v, ("a",)) for v in (["a"], "a", '["a"]', "a|", ["a", None])),
    *((v, ()) for v in (None, ABSENT, "", [], NAN, [None], "|", "[]")),
    (["a|b", "c"], ("a|b", "c")),
    (["[a"], ("[a",)),
    (["a", "a"], ("a", "a")),
    *((v, REFUSED) for v in (["a", "b", "c", "d"], "a|b|c|d", "[a", "[Deluxe] Shoe", [1], [["a"]], {"a": 1}, 5, True)),
]
INTEGER_LISTS: list[tuple[Any, Any]] = [
    *((v, (1, 2)) for v in ([1, 2], "1|2", "[1, 2]", [1, -1, 2], [1.0, 2.0], ["1", "2"], "1.0|2.0", [1, None, 2])),
    *((v, (3,)) for v in ([3], 3, "3", 3.0, "[3]")),
    *((v, ()) for v in (None, ABSENT, "", [], [-1], -1, NAN)),
    *((v, REFUSED) for v in ([1, 2, 3], "1|2|3", [1.5], ["a"], "a", "[1", {"a": 1}, [[1]], 3.5)),
]
SMALL: list[tuple[Any, Any]] = [(254, 254), ("254", 254), (0, 0), (-1, -1), (None, -1), (255, REFUSED), (300, REFUSED)]


def event_cases() -> list[Case]:
    """Odd events."""
    found = [Case("user", v, REFUSED if w == -1 else w) for v, w in INTEGERS]
    found += [Case(field, v, w) for field in ("place", "hour") for v, w in INTEGERS]
    found += [Case("item", v, REFUSED if w == -1 else w) for v, w in TEXTS]
    found += [Case(field, v, w) for field in ("maker", "page") for v, w in TEXTS]
    found += [Case("dwell", v, NAN if w is None else w) for v, w in NUMBERS]
    found += [Case(field, v, w) for field in ("timestamp_ms", "arrival_ms") for v, w in TIMES]
    found += [Case("timestamp_ms", v, REFUSED) for v in NO_TIMES]
    found += [Case("arrival_ms", v, None) for v in NO_TIMES]
    found += [Case("label", v, w) for v, w in LABELS]
    found += [Case("slots", v, w) for v, w in INTEGER_LISTS]
    found += [Case("action", v, w) for v, w in SMALL]
    return found


def item_cases() -> list[Case]:
    """Odd rows of items."""
    found = [Case("item", v, REFUSED if w == -1 else w) for v, w in TEXTS]
    found += [Case("brand", v, w) for v, w in TEXTS]
    found += [Case("stock", v, w) for v, w in INTEGERS]
    found += [Case("price", v, NAN if w is None else w) for v, w in NUMBERS]
    found += [Case("tags", v, w if w is REFUSED else tuple(map(key_of, w))) for v, w in TEXT_LISTS]
    return found


def time_of(number: int) -> int:
    """Time of the event of a case, in milliseconds: no other case's, and no odd one."""
    return T0_MS + 10**9 + 60_000 * number


def event_row(number: int, case: Case) -> dict[str, Any]:
    """The row of the case with this number: its user, item and time are its own."""
    row = {
        "user": 10_000 + number,
        "item": f"item {number}",
        "timestamp_ms": time_of(number),
        "label": number % 2,
    }
    row[case.field] = case.value
    return {name: value for name, value in row.items() if value is not ABSENT}


def item_row(number: int, case: Case) -> dict[str, Any]:
    """Likewise of an item."""
    row = {"item": f"item {number}", "price": 1.5, case.field: case.value}
    return {name: value for name, value in row.items() if value is not ABSENT}


def as_text(value: Any) -> str:
    """A value as CSV and Redis Streams hold it: text, whatever it was."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        plain = all(isinstance(v, str) and not set(v) & set("|[") for v in value) and "" not in value
        return "|".join(value) if plain else json.dumps(value)
    return json.dumps(value) if isinstance(value, dict) else repr(value)


def utf8(value: Any) -> bool:
    """True if a value can be written in UTF-8."""
    try:
        as_text(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def documented_differences() -> set[str]:
    """Names of the differences between the ways in that ``docs/guides/data.md`` explains."""
    section = DIFFERENCES.read_text(encoding="utf-8").partition("Differences between the ways in")[2]
    return set(re.findall(r"^- \*\*(.+?)\*\*", section.partition("\n## ")[0], flags=re.MULTILINE))


TEXT_ONLY = "Text only"
ONE_TYPE = "One type a column"


def text_only(case: Case) -> bool:
    """True where CSV and Redis Streams, which hold nothing but text, give a text id to what JSON refuses."""
    texts = {"item", "maker", "page", "brand", "tags"}
    if case.field == "tags":
        return isinstance(case.value, int | float | dict) or case.value == [1] or case.value == [["a"]]
    return case.field in texts and not isinstance(case.value, str) and case.value not in (None, ABSENT)


def check(
    way: str,
    cases: Sequence[Case],
    verdicts: Mapping[int, Any],
    *,
    differs: Callable[[Case], str | None] = lambda case: None,
) -> Iterator[str]:
    """Sentences on cases whose verdict is not the expected one and is no documented difference.

    Args:
        way: for the sentences.
        cases: all of them.
        verdicts: number of a case -> what the way in stored, ``REFUSED``, or ``None`` for a value it does not keep.
        differs: name of the documented difference that a case falls under.
    """
    for number, got in verdicts.items():
        case = cases[number]
        if differs(case) is None and not same(got, case.expected):
            yield f"{way}: {case.name}: stored {got!r}, expected {case.expected!r}"


def same(got: Any, expected: Any) -> bool:
    """Equal verdicts; ``...`` stands for a value that was taken but is not kept."""
    if got is REFUSED or expected is REFUSED:
        return got is expected
    both_missing = isinstance(got, float) and isinstance(expected, float) and got != got and expected != expected
    return got is ... or both_missing or got == expected
