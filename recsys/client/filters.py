"""Filters in Python: which items an answer may have. Import them from :mod:`recsys.client`.

>>> print(where(category=["shoes", "boots"], price=(None, 50), in_stock=True))
category in ['shoes', 'boots'] and price <= 50 and in_stock is set
>>> print(where(either(brand="a", price=below(10)), color=without("red")))
color not in ['red'] and (brand in ['a'] or price < 10)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recsys.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class ItemTest:
    """A test of one attribute, made by the functions below.

    Attributes:
        kind: which.
        values: of a set.
        low, high: ends of a range; None: none.
        low_open, high_open: that end itself does not pass.
        flag: of ``flag`` and ``present``.
    """

    kind: Literal["any_of", "none_of", "range", "flag", "present"]
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    flag: bool = True

    def shown(self, name: str) -> str:
        """The test of an attribute in words."""
        if self.kind in ("any_of", "none_of"):
            return f"{name} {'in' if self.kind == 'any_of' else 'not in'} {list(self.values)}"
        if self.kind == "range":
            low = "" if self.low is None else f"{self.low} {'<' if self.low_open else '<='} "
            return low + name + ("" if self.high is None else f" {'<' if self.high_open else '<='} {self.high}")
        if self.kind == "flag":
            return f"{name} is {'set' if self.flag else 'not set'}"
        return f"{name} is {'there' if self.flag else 'missing'}"


Named = tuple[str, ItemTest]


@dataclass(frozen=True)
class Either:
    """Tests one of which holds; made by :func:`either`."""

    tests: tuple[Named, ...]

    def __str__(self) -> str:
        return "(" + " or ".join(test.shown(name) for name, test in self.tests) + ")"


@dataclass(frozen=True)
class Where:
    """A filter, made by :func:`where`: all of these tests hold, and one of each of the others."""

    all: tuple[Named, ...] = ()
    any: tuple[Either, ...] = ()

    def __str__(self) -> str:
        return " and ".join([*(test.shown(name) for name, test in self.all), *map(str, self.any)])


def where(*others: Where | Either, **tests: Any) -> Where:
    """A filter: all of the tests hold, and all of the others.

    Args:
        others: further filters, and what :func:`either` makes.
        tests: by attribute. A value or a list of values: it is one of these. A tuple of two numbers: it is from the
            first to the second, either of which may be None. True or False: it is set, or not. Or what
            :func:`below`, :func:`above`, :func:`between`, :func:`without`, :func:`present` or :func:`missing` makes.

    Raises:
        InvalidInputError: a test is none of these.
    """
    every = [(name, item_test(name, test)) for name, test in tests.items()]
    some: list[Either] = []
    for other in others:
        if isinstance(other, Where):
            every += other.all
            some += other.any
        elif isinstance(other, Either):
            some.append(other)
        else:
            raise InvalidInputError(f"where: got {other!r}; allowed: what where() and either() make, and tests by name")
    return Where(tuple(every), tuple(some))


def either(*others: Where, **tests: Any) -> Either:
    """Tests one of which holds, at least; as of :func:`where`. Give two of one attribute as filters of one test each:
    ``either(where(price=below(10)), where(price=above(100)))``.

    Raises:
        InvalidInputError: a filter has several tests, or a test is none.
    """
    some = [(name, item_test(name, test)) for name, test in tests.items()]
    for other in others:
        if not isinstance(other, Where) or len(other.all) != 1 or other.any:
            raise InvalidInputError(f"either: got {other}; allowed: filters of one test each, and tests by name")
        some += other.all
    return Either(tuple(some))


def below(high: float) -> ItemTest:
    """Less than a number."""
    return ItemTest(kind="range", high=high, high_open=True)


def above(low: float) -> ItemTest:
    """More than a number."""
    return ItemTest(kind="range", low=low, low_open=True)


def between(low: float, high: float, *, low_open: bool = False, high_open: bool = False) -> ItemTest:
    """From a number to a number; of an open end that number itself is left out."""
    return ItemTest(kind="range", low=low, high=high, low_open=low_open, high_open=high_open)


def without(*values: Any) -> ItemTest:
    """None of some values; a missing one passes."""
    return ItemTest(kind="none_of", values=values)


def present() -> ItemTest:
    """There is a value."""
    return ItemTest(kind="present")


def missing() -> ItemTest:
    """There is none."""
    return ItemTest(kind="present", flag=False)


def item_test(name: str, test: Any) -> ItemTest:
    """The test of an attribute, as :func:`where` takes it.

    Raises:
        InvalidInputError: it is none.
    """
    if isinstance(test, ItemTest):
        return test
    if isinstance(test, bool | np.bool_):
        return ItemTest(kind="flag", flag=bool(test))
    if isinstance(test, tuple) and len(test) == 2:
        return ItemTest(kind="range", low=test[0], high=test[1])
    if isinstance(test, str | int | np.integer):
        return ItemTest(kind="any_of", values=(test,))
    if isinstance(test, Iterable) and not isinstance(test, tuple | bytes | Mapping):
        return ItemTest(kind="any_of", values=tuple(test))
    raise InvalidInputError(
        f"{name}: got {test!r}; allowed: a value or a list of them, a range (low, high), True or False, or what "
        "below(), above(), between(), without(), present() or missing() make"
    )
