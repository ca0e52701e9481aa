"""Filter: what a request asks of items, checked once. All of its clauses hold, of each clause any of its conditions.

Every boolean expression of tests can be written so, as each test has its opposite (conjunctive normal form); what it
costs is bounded by its length, and the planner orders the clauses as it likes.

Missing values: a value that is missing passes ``any_of``, ``range`` and ``flag`` never, ``none_of`` always; ``present``
asks for just that. ``K`` values of a set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, nearest
from recsys.features.columns import feature_keys
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import MISSING

MOST_CONDITIONS = 64
MOST_VALUES = 10_000
"""Of all sets of a filter."""

Test = Literal["any_of", "none_of", "range", "flag", "present"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two ends, each of which may be open (not itself inside), or None: without end."""

    low: float | None = None
    low_open: bool = False
    high: float | None = None
    high_open: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """A test of one attribute.

    Attributes:
        feature: that is tested.
        test: which.
        keys: of the values of a set, ascending, distinct; int64, [K].
        range: of numbers.
        flag: of ``flag`` and ``present``.
        texts: of the values of a set as they were sent, by key, for messages.
    """

    feature: Feature
    test: Test
    keys: Int64Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    range: Range = field(default_factory=Range)
    flag: bool = True
    texts: Mapping[int, str] = field(default_factory=dict)

    @property
    def attribute(self) -> str:
        """Name of the feature."""
        return self.feature.name

    def described(self) -> str:
        """Text, short, for messages and logs."""
        if self.test in ("any_of", "none_of"):
            shown = [self.texts.get(key, str(key)) for key in self.keys[:5].tolist()]
            more = f" and {len(self.keys) - 5:,} more" if len(self.keys) > 5 else ""
            return f"{self.attribute} {'in' if self.test == 'any_of' else 'not in'} ({', '.join(shown)}{more})"
        if self.test == "range":
            of = self.range
            low = "" if of.low is None else f"{of.low:g} {'<' if of.low_open else '<='} "
            high = "" if of.high is None else f" {'<' if of.high_open else '<='} {of.high:g}"
            return f"{low}{self.attribute}{high}"
        what = {"flag": ("is set", "is not set"), "present": ("is there", "is missing")}[self.test]
        return f"{self.attribute} {what[not self.flag]}"


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter.

    Attributes:
        clauses: all hold; of each, any condition does.
        digest: equal for equal filters.
    """

    clauses: tuple[tuple[Condition, ...], ...]
    digest: bytes

    @property
    def size_bytes(self) -> int:
        """Memory it takes, roughly."""
        return sum(512 + 100 * len(each.keys) for clause in self.clauses for each in clause)

    def described(self) -> str:
        """Text, short, for logs.

        >>> from recsys.features.feature_set import Numeric
        >>> price = Numeric(name="price", filterable=True)
        >>> make_filter([[range_condition("all[0]", price, Range(high=50.0))]]).described()
        'price <= 50'
        """
        clauses = [" or ".join(condition.described() for condition in clause) for clause in self.clauses]
        return " and ".join(f"({text})" if " or " in text else text for text in clauses)


def make_filter(clauses: Sequence[Sequence[Condition]]) -> Filter:
    """Make a filter of checked conditions.

    Raises:
        InvalidInputError: it has no condition, or too many, or too many values, or a clause has none.
    """
    conditions = sum(len(clause) for clause in clauses)
    if not 1 <= conditions <= MOST_CONDITIONS:
        raise InvalidInputError(f"filter: got {conditions:,} conditions; allowed: 1 to {MOST_CONDITIONS}")
    if (count := sum(len(condition.keys) for clause in clauses for condition in clause)) > MOST_VALUES:
        raise InvalidInputError(f"filter: got {count:,} values; allowed: up to {MOST_VALUES:,} in all of its sets")
    digest = hashlib.blake2b(digest_size=16)
    for clause in clauses:
        if not clause:
            raise InvalidInputError("filter: an any has no conditions; allowed: 1 or more")
        digest.update(b"all")
        for each in clause:
            digest.update(repr((each.attribute, each.test, each.range, each.flag, len(each.keys))).encode())
            digest.update(each.keys.tobytes())
    return Filter(tuple(tuple(clause) for clause in clauses), digest.digest())


def filterable_of(features: FeatureSet) -> dict[str, Feature]:
    """The features that a filter may name."""
    return {feature.name: feature for _, feature in features.filterable()}


def check_attribute(where: str, name: str, features: FeatureSet) -> Feature:
    """The filterable feature of a name.

    Raises:
        InvalidInputError: there is none; it says the nearest, or how a feature becomes one.
    """
    filterable = filterable_of(features)
    if name in filterable:
        return filterable[name]
    if any(name == each.name for entity in features.item_entities() for each in entity.features):
        raise InvalidInputError(
            f"{where}: {name!r} is not declared filterable; filterable: {', '.join(filterable) or 'nothing'}; declare "
            'it so in the FeatureSet: "filterable": true (docs/guides/filters.md)'
        )
    raise InvalidInputError(f"{where}: unknown attribute {name!r}: {nearest(name, filterable)}")


def set_condition(where: str, test: Test, feature: Feature, values: Sequence[Any]) -> Condition:
    """A test for values of a set.

    Raises:
        InvalidInputError: the feature is a number, or there are no values, too many, one of another type, or none.
    """
    if not isinstance(feature, Categorical):
        raise InvalidInputError(f"{where}: {feature.name!r} is a number; allowed: range, flag or present")
    if not 1 <= len(values) <= MOST_VALUES:
        raise InvalidInputError(f"{where}: got {len(values):,} values; allowed: 1 to {MOST_VALUES:,}")
    single = Categorical(name=feature.name, id_type=feature.id_type)
    try:
        keys = feature_keys(single, values)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    if (keys == MISSING).any():
        place = int(np.argmax(keys == MISSING))
        raise InvalidInputError(
            f"{where}[{place}] is -1 or the empty text, which stand for no value; ask for that by present"
        )
    texts = {key: str(value) for key, value in zip(keys.tolist(), values, strict=True)}
    return Condition(feature=feature, test=test, keys=np.unique(keys), texts=texts)


def range_condition(where: str, feature: Feature, wanted: Range) -> Condition:
    """A test for numbers of a range. Its ends are float32, as the stored numbers are.

    Raises:
        InvalidInputError: the feature is no number, or no end is given, or one is not finite.
    """
    if isinstance(feature, Categorical):
        raise InvalidInputError(f"{where}: {feature.name!r} takes ids; allowed: a set of them, flag or present")
    ends = [end for end in (wanted.low, wanted.high) if end is not None]
    if not ends:
        raise InvalidInputError(f"{where}: a range without ends; allowed: one or two")
    if not np.isfinite(np.array(ends, dtype=np.float32)).all():
        raise InvalidInputError(f"{where}: an end is {ends[0] if len(ends) == 1 else ends}; allowed: finite numbers")
    return Condition(feature=feature, test="range", range=wanted)


def flag_condition(where: str, feature: Feature, flag: bool) -> Condition:
    """A test for a number or an integer id that is not 0, or is.

    Raises:
        InvalidInputError: the feature takes texts, or several values.
    """
    if isinstance(feature, Categorical) and (feature.id_type == "string" or feature.max_values > 1):
        what = "texts" if feature.id_type == "string" else "several values"
        raise InvalidInputError(f"{where}: {feature.name!r} takes {what} and is no flag; allowed: a set, or present")
    return Condition(feature=feature, test="flag", flag=flag)
