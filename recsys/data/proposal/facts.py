"""Facts of one column of a sample: kind of its values, how many there are, of whom it is constant."""

from __future__ import annotations

import datetime
import decimal
import json
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from recsys.features.values import INTEGER, ISO, NUMBER, is_missing

Kind = Literal["empty", "integer", "number", "text", "time", "list", "object", "mixed"]

_INTEGER, _NUMBER, _ISO = (re.compile(pattern, re.ASCII) for pattern in (INTEGER, NUMBER, ISO))
_LONGEST_INTEGER, _END = 19, 1 << 62
_LISTS = 0.01


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A column of N rows.

    Attributes:
        name: of the column.
        values: N raw values.
        kind: of those that are not missing.
        counts: distinct values, hashable, and their rows.
        most: values of the row that has most; 1 but for lists.
        elements: kind of a list's values: ``integer`` or ``text``.
    """

    name: str
    values: Sequence[Any]
    kind: Kind
    counts: Counter[Hashable]
    most: int = 1
    elements: Kind = "text"

    @property
    def distinct(self) -> int:
        """Number of distinct values."""
        return len(self.counts)

    @cached_property
    def present(self) -> int:
        """Rows with a value."""
        return self.counts.total()

    @cached_property
    def numbers(self) -> list[float]:
        """Distinct values as numbers, sorted; of kinds ``integer`` and ``number``."""
        return sorted(float(_boolean(value)) for value in self.counts)

    @property
    def example(self) -> str:
        """The commonest value."""
        return str(self.counts.most_common(1)[0][0])

    @cached_property
    def keys(self) -> list[Hashable]:
        """N values, hashable, lists in one order; None for missing ones."""
        found = [None if is_missing(value) else hashable(value) for value in self.values]
        if self.kind != "list":
            return found
        return [None if value is None else tuple(sorted(map(str, _elements(value)))) for value in found]


def facts_of(name: str, values: Sequence[Any], *, written: bool) -> Facts:
    """Facts of a column.

    Args:
        name: of the column.
        values: N raw ones.
        written: whether text is the only type of the format, so that digits may mean a number.
    """
    counts: Counter[Hashable] = Counter(hashable(value) for value in values if not _nothing(value, written))
    kind = _of_all({_kind(value, written) for value in counts}, written)
    most = 1
    elements: Kind = "text"
    if kind in ("text", "list"):
        split = {value: _elements(value) for value in counts}
        most = max(map(len, split.values()))
        rows = sum(counts[value] for value, found in split.items() if len(found) > 1)
        if kind == "list" or (most > 1 and rows >= _LISTS * counts.total()):
            inner = {_kind(one, written) for found in split.values() for one in found if not _nothing(one, written)}
            kind, elements = "list", "integer" if inner == {"integer"} else "text"
        else:
            most = 1
    return Facts(name=name, values=values, kind=kind, counts=counts, most=most, elements=elements)


def constancy(of: Facts, key: Facts) -> tuple[int, float]:
    """Keys that have a value of ``of`` in two rows or more, and the share of them with always the same one.

    >>> item = facts_of("item", [1, 1, 2, 2, 3], written=False)
    >>> constancy(facts_of("brand", ["a", "a", "a", "b", "c"], written=False), item)
    (2, 0.5)
    """
    first: dict[Hashable, Hashable] = {}
    rows: Counter[Hashable] = Counter()
    changed: set[Hashable] = set()
    for one, value in zip(key.keys, of.keys, strict=True):
        if one is None or value is None:
            continue
        rows[one] += 1
        if first.setdefault(one, value) != value:
            changed.add(one)
    repeated = sum(count > 1 for count in rows.values())
    return repeated, 1 - len(changed) / repeated if repeated else 0.0


def hashable(value: Any) -> Hashable:
    """A raw value as what a dictionary takes."""
    if isinstance(value, list | tuple):
        return tuple(hashable(one) for one in value)
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    return value  # type: ignore[no-any-return]


def _nothing(value: Any, written: bool) -> bool:
    return is_missing(value) or value == [] or (written and str(value).strip().lower() in ("", "nan"))


def _kind(value: Any, written: bool) -> Kind:
    if isinstance(value, tuple):
        return "list"
    if isinstance(value, datetime.date):  # and datetime
        return "time"
    if isinstance(value, bool | int):
        return "integer"
    if isinstance(value, float | decimal.Decimal):
        return "integer" if float(value).is_integer() and abs(float(value)) < 1 << 53 else "number"
    if not isinstance(value, str):
        return "object"
    text = value.strip(" ")
    if not written:
        return "time" if _ISO.match(text) and not text.isdigit() else "object" if text.startswith("{") else "text"
    if _INTEGER.match(text):
        plain = len(text) <= _LONGEST_INTEGER + 1 and abs(int(text)) < _END and str(int(text)) == text
        return "integer" if plain else "text"  # 007 is no number to its owner
    if text.lower() in ("true", "false"):
        return "integer"
    if _NUMBER.match(text):
        return "integer" if re.fullmatch(r"-?[1-9]?[0-9]*[.]0", text) else "number"
    return "time" if _ISO.match(text) else "text"


def _of_all(kinds: set[Kind], written: bool) -> Kind:
    if not kinds:
        return "empty"
    if kinds <= {"integer", "number"}:
        return "number" if "number" in kinds else "integer"
    if len(kinds) == 1:
        return next(iter(kinds))
    return "text" if written and "object" not in kinds else "mixed"


def _elements(value: Any) -> Sequence[Any]:
    if isinstance(value, tuple):
        return value
    text = str(value)
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return (text,)
        return tuple(map(hashable, found)) if isinstance(found, list) else (text,)
    return text.split("|")


def _boolean(value: Any) -> Any:
    return {"true": 1, "false": 0}.get(value.strip().lower(), value) if isinstance(value, str) else value
