"""Tests of a filter's conditions on item columns, many items at a time.

``P`` places of items, a slice or an array of them; ``D`` distinct values of a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.serving.filters.language import Condition, Filter, Range
from recsys.serving.item_columns.generation import Generation, Values

Places = slice | Int64Array
Passes = Callable[[Places], BoolArray]

_FEW = 6
"""Values of a set that are compared one by one; of more a table is looked up."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause of a filter, ready to be asked.

    Attributes:
        passes: True for the items at these places that pass; bool, [P].
        missing: an item of which nothing is known passes.
        cost: nanoseconds for an item, roughly.
        entries: length of the lists of its values together; None: there are none.
        listed: these lists, each ascending.
        since: changes that the columns had when the oldest of these lists was made.
    """

    passes: Passes
    missing: bool
    cost: float
    entries: int | None = None
    listed: Callable[[], list[Int32Array]] = list
    since: int = 0


class UnknownColumnError(Exception):
    """The columns lack an attribute: they are of before it was declared."""


def clauses_of(wanted: Filter, generation: Generation) -> list[Clause]:
    """The clauses of a filter on columns.

    Raises:
        UnknownColumnError: there is none of that name.
    """
    return [_any([_test(condition, generation) for condition in clause]) for clause in wanted.clauses]


def unknown_values(wanted: Filter, generation: Generation) -> Iterator[tuple[str, str]]:
    """Attribute and value, as it was sent, of each value in a set that no item has had."""
    for clause in wanted.clauses:
        for condition in clause:
            if condition.test in ("any_of", "none_of"):
                table = _values(condition, generation).table
                assert table is not None
                for key in condition.keys[table.find(condition.keys) < 0].tolist():
                    yield condition.attribute, condition.texts.get(key, str(key))


def _any(tests: list[Clause]) -> Clause:
    if len(tests) == 1:
        return tests[0]

    def passes(places: Places) -> BoolArray:
        found = tests[0].passes(places)
        for test in tests[1:]:
            found = found | test.passes(places)
        return found

    entries = [test.entries for test in tests if test.entries is not None]
    return Clause(
        passes,
        any(test.missing for test in tests),
        sum(test.cost for test in tests),
        sum(entries) if len(entries) == len(tests) else None,
        lambda: [part for test in tests for part in test.listed()],
        min(test.since for test in tests),
    )


def _values(condition: Condition, generation: Generation) -> Values:
    try:
        return generation.columns[condition.attribute]
    except KeyError:
        raise UnknownColumnError(condition.attribute) from None


def _test(condition: Condition, generation: Generation) -> Clause:
    values = _values(condition, generation)
    array, width = values.array, values.spec.width
    if condition.test == "range":
        in_range = _in_range(condition.range)
        return Clause(lambda places: in_range(array[places]), False, 0.2)
    if values.table is None:
        if condition.test == "present":
            wanted = condition.flag
            return Clause(lambda places: np.isnan(array[places]) != wanted, not wanted, 0.3)
        if condition.flag:
            return Clause(lambda places: np.abs(array[places]) > 0, False, 0.3)
        return Clause(lambda places: array[places] == 0, False, 0.2)
    if condition.test == "present":
        is_code = _per_item(lambda codes: codes != 0, width)
        return _signed(lambda places: is_code(array[places]), positive=condition.flag, cost=0.2)
    if condition.test == "flag":
        (zero,) = (values.table.find(np.zeros(1, dtype=np.int64)) + 1).tolist()
        if not condition.flag:
            return Clause(lambda places: (array[places] == zero) & (zero != 0), False, 0.3)
        return Clause(lambda places: (array[places] != 0) & (array[places] != zero), False, 0.4)
    codes = values.table.find(condition.keys) + 1
    is_in = _per_item(_in_set(codes[codes > 0], len(values.table)), width)
    few = len(codes) <= _FEW
    clause = _signed(
        lambda places: is_in(array[places]),
        positive=condition.test == "any_of",
        cost=width * (0.1 + 0.2 * len(codes) if few else 2.0),
    )
    name, postings = condition.attribute, generation.postings
    if clause.missing or postings is None or not generation.knows_since(postings.since):
        return clause
    known = np.unique(codes[codes > 0])
    return replace(
        clause,
        entries=postings.count(name, known),
        listed=lambda: postings.places(name, known),
        since=postings.since,
    )


def _signed(passes: Passes, *, positive: bool, cost: float) -> Clause:
    """A test that something missing does not pass, or its opposite."""
    if positive:
        return Clause(passes, False, cost)
    return Clause(lambda places: ~passes(places), True, cost)


def _per_item(of_codes: Callable[[npt.NDArray[Any]], BoolArray], width: int) -> Callable[[npt.NDArray[Any]], BoolArray]:
    """A test of items of several values: any of them passes."""
    if width == 1:
        return of_codes
    return lambda codes: np.asarray(of_codes(codes).any(axis=1))


def _in_set(codes: Int64Array, known: int) -> Callable[[npt.NDArray[Any]], BoolArray]:
    if len(codes) <= _FEW:
        few = codes.tolist()

        def one_by_one(given: npt.NDArray[Any]) -> BoolArray:
            found = given == few[0] if few else np.zeros(given.shape, dtype=np.bool_)
            for code in few[1:]:
                found |= given == code
            return np.asarray(found)

        return one_by_one
    table_D = np.zeros(known + 1, dtype=np.bool_)
    table_D[codes] = True
    return lambda given: table_D.take(given, mode="clip")  # a value that came meanwhile: the version tells


def _in_range(wanted: Range) -> Callable[[npt.NDArray[Any]], BoolArray]:
    low = None if wanted.low is None else np.float32(wanted.low)
    high = None if wanted.high is None else np.float32(wanted.high)

    def passes(numbers: npt.NDArray[Any]) -> BoolArray:
        found = None
        if low is not None:
            found = numbers > low if wanted.low_open else numbers >= low
        if high is not None:
            below = numbers < high if wanted.high_open else numbers <= high
            found = below if found is None else found & below
        assert found is not None
        return np.asarray(found)

    return passes
