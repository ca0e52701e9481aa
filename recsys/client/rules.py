"""Rules in Python: how a list is made of ranked items, beyond their scores. Import them from :mod:`recsys.client`.

>>> print(at_most(2, "brand"), boost("new", 1.2), pin(7, 1), diverse(0.7), sep="; ")
at most 2 of a brand; x 1.2 where new is set; 7 at 1; diverse 0.7
>>> print(at_most(1, "price", (100, None)), boost("brand", 0.5, ["acme"]), boost("margin", add=0.3), sep="; ")
at most 1 where 100 <= price; x 0.5 where brand in ['acme']; +0.3 where margin is set
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recsys.client.filters import ItemTest, item_test
from recsys.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """At most so many items, made by :func:`at_most`.

    Attributes:
        count: how many.
        attribute: its name.
        test: of it; None: each of its values.
    """

    count: int
    attribute: str
    test: ItemTest | None = None

    def __str__(self) -> str:
        of = f"of a {self.attribute}" if self.test is None else f"where {self.test.shown(self.attribute)}"
        return f"at most {self.count} {of}"


@dataclass(frozen=True, kw_only=True)
class Boost:
    """A change of scores, made by :func:`boost`.

    Attributes:
        attribute, test: of the items.
        multiply: the odds by this; None: ``add`` to the logit.
        add: see there.
    """

    attribute: str
    test: ItemTest
    multiply: float | None = None
    add: float | None = None

    def __str__(self) -> str:
        what = f"x {self.multiply}" if self.multiply is not None else f"+{self.add}"
        return f"{what} where {self.test.shown(self.attribute)}"


@dataclass(frozen=True, kw_only=True)
class Pin:
    """An item at a place, made by :func:`pin`."""

    item: int | str
    place: int

    def __str__(self) -> str:
        return f"{self.item} at {self.place}"


@dataclass(frozen=True, kw_only=True)
class Diverse:
    """Maximal marginal relevance, made by :func:`diverse`."""

    relevance: float

    def __str__(self) -> str:
        return f"diverse {self.relevance}"


Rule = AtMost | Boost | Pin | Diverse


def at_most(count: int, attribute: str, test: Any = None) -> AtMost:
    """At most ``count`` items of each value of an attribute; with a test, of those that pass it.

    Args:
        count: 1 or more.
        attribute: its name.
        test: as of :func:`recsys.client.where`: a value or a list of them, a range, True or False, or what
            :func:`recsys.client.below` and its like make; None: each value by itself.

    Raises:
        InvalidInputError: the test is none of these.
    """
    return AtMost(count=count, attribute=attribute, test=None if test is None else item_test(attribute, test))


def boost(attribute: str, multiply: float | None = None, test: Any = True, *, add: float | None = None) -> Boost:
    """Multiply the odds of the scores of items that pass a test; below 1 for a penalty.

    Args:
        attribute: its name.
        multiply: the factor.
        test: as of :func:`at_most`; default: it is set.
        add: in place of a factor: added to the logit of the score.

    Raises:
        InvalidInputError: neither or both of ``multiply`` and ``add`` are given, or the test is none.
    """
    if (multiply is None) == (add is None):
        raise InvalidInputError(f"boost: got multiply={multiply!r}, add={add!r}; allowed: one of the two")
    return Boost(attribute=attribute, test=item_test(attribute, test), multiply=multiply, add=add)


def pin(item: int | str, place: int) -> Pin:
    """An item at a place of its own, 1 for the first."""
    return Pin(item=item, place=place)


def diverse(relevance: float) -> Diverse:
    """Items that are less like each other, by maximal marginal relevance; ``relevance`` is its lambda, up to 1."""
    return Diverse(relevance=relevance)
