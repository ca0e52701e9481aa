"""Rules: what a request asks of a list beside the scores, checked once.

They are applied in this order, whatever order they were sent in: boosts change the scores, pins take their places, the
other places are filled one by one with the best item that is left, of which no at-most keeps it, by maximal marginal
relevance if there is a diverse rule. ``R`` rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, Feature
from recsys.serving.filters.language import MOST_VALUES, Condition

MOST_RULES = 64
MOST_FACTOR = 1e6
"""Largest factor of a boost, and one over the smallest."""

MOST_ADDED = math.log(MOST_FACTOR)
"""The same on the logit."""

MOST_COMPARED = 1_000_000
"""Places of a list times candidates that a diverse rule may compare: bounds its time to some 50 ms."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AtMost:
    """At most so many items of each value of an attribute, or of those that pass a test.

    Attributes:
        count: 1 or more.
        attribute: of whose values; None: there is a test.
        when: the test; None: there is an attribute.
    """

    count: int
    attribute: Categorical | None = None
    when: Condition | None = None

    def described(self) -> str:
        """Text, short, for logs."""
        if self.when is not None:
            return f"at most {self.count} where {self.when.described()}"
        assert self.attribute is not None
        return f"at most {self.count} of a {self.attribute.name}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Boost:
    """A change of the logit of the items that pass a test.

    Attributes:
        when: the test.
        added: to the logit: the logarithm of a factor on the odds.
    """

    when: Condition
    added: float

    def described(self) -> str:
        """Text, short, for logs."""
        return f"{self.added:+.3g} where {self.when.described()}"


@dataclass(frozen=True, kw_only=True)
class Pin:
    """An item at a place of its own.

    Attributes:
        key: of the item.
        place: 1-based.
        text: the item's id, where it is a text.
    """

    key: int
    place: int
    text: str = ""

    def described(self) -> str:
        """Text, short, for logs."""
        return f"item {self.text or self.key} at {self.place}"


@dataclass(frozen=True, kw_only=True)
class Diverse:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    Attributes:
        relevance: its lambda: 1 is the order by scores; above 0.
    """

    relevance: float

    def described(self) -> str:
        """Text, short, for logs."""
        return f"diverse {self.relevance:g}"


Rule = AtMost | Boost | Pin | Diverse

KINDS: dict[type[Rule], str] = {AtMost: "at_most", Boost: "boost", Pin: "pin", Diverse: "diverse"}
"""Names of the kinds, as the proto file has them."""


@dataclass(frozen=True, eq=False)
class Rules:
    """Rules of a request.

    Attributes:
        rules: in the order in which they were sent; [R].
        reasons: say of each item what moved it.
    """

    rules: tuple[Rule, ...]
    reasons: bool = False

    @property
    def pins(self) -> dict[int, Pin]:
        """The pins by their place among the rules."""
        return {at: rule for at, rule in enumerate(self.rules) if isinstance(rule, Pin)}

    @property
    def texts(self) -> dict[int, str]:
        """Ids of pinned items that are texts, by their keys."""
        return {pin.key: pin.text for pin in self.pins.values() if pin.text}

    @property
    def diverse(self) -> tuple[int, float] | None:
        """Place among the rules, and lambda, of the diverse rule; None: there is none."""
        return next(((at, rule.relevance) for at, rule in enumerate(self.rules) if isinstance(rule, Diverse)), None)

    def described(self) -> str:
        """Text, short, for logs.

        >>> Rules((Pin(key=7, place=1), Diverse(relevance=0.7))).described()
        'item 7 at 1; diverse 0.7'
        """
        return "; ".join(rule.described() for rule in self.rules)


def make_rules(rules: Sequence[Rule], *, top_k: int, candidates: int, reasons: bool = False) -> Rules | None:
    """Make rules of one list of checked ones; None of none.

    Args:
        rules: each.
        top_k: places of the list; 0: none was asked for.
        candidates: most that it is made of.
        reasons: say of each item what moved it.

    Raises:
        InvalidInputError: there are too many, or no list, or two of them exclude each other; it names the rule.
    """
    if not rules:
        if reasons:
            raise InvalidInputError("reasons is set, but there are no rules; allowed: with rules")
        return None
    if len(rules) > MOST_RULES:
        raise InvalidInputError(f"rules: got {len(rules):,}; allowed: up to {MOST_RULES}")
    if top_k < 1:
        raise InvalidInputError("rules: top_k is 0; rules make a list: set top_k to its length")
    tests = [rule.when for rule in rules if isinstance(rule, AtMost | Boost) and rule.when is not None]
    if (count := sum(len(when.keys) for when in tests)) > MOST_VALUES:
        raise InvalidInputError(f"rules: got {count:,} values; allowed: up to {MOST_VALUES:,} in all of their sets")
    places: dict[int, int] = {}
    items: dict[int, int] = {}
    diverse = None
    for at, rule in enumerate(rules):
        if isinstance(rule, Pin):
            if not 1 <= rule.place <= top_k:
                raise InvalidInputError(f"rules[{at}].pin.place is {rule.place:,}; allowed: 1 to top_k, {top_k:,}")
            for what, key, first in (("place", rule.place, places), ("item", rule.key, items)):
                if key in first:
                    raise InvalidInputError(
                        f"rules[{at}].pin.{what}: rules[{first[key]}] has a pin of the same {what}; allowed: one"
                    )
                first[key] = at
        elif isinstance(rule, Diverse):
            if diverse is not None:
                raise InvalidInputError(f"rules[{at}].diverse: rules[{diverse}] is another one; allowed: one")
            diverse = at
            if (compared := top_k * candidates) > MOST_COMPARED:
                raise InvalidInputError(
                    f"rules[{at}].diverse: top_k times candidates is {compared:,}; allowed: up to {MOST_COMPARED:,}"
                )
    return Rules(tuple(rules), reasons)


def at_most(where: str, count: int, *, attribute: Feature | None = None, when: Condition | None = None) -> AtMost:
    """Check a cap.

    Raises:
        InvalidInputError: the count is 0, or the attribute is a number, or there is none, or a test as well.
    """
    if count < 1:
        raise InvalidInputError(f"{where}.count is 0; allowed: 1 or more; a filter leaves all of them out")
    if (attribute is None) == (when is None):
        raise InvalidInputError(f"{where}: {'both' if when else 'neither'} of attribute and when is set; allowed: one")
    if attribute is not None and not isinstance(attribute, Categorical):
        raise InvalidInputError(
            f"{where}.attribute: {attribute.name!r} is a number; allowed: an attribute of ids, or a test of a range"
        )
    return AtMost(count=count, attribute=attribute, when=when)


def boost(where: str, when: Condition, *, multiply: float | None = None, add: float | None = None) -> Boost:
    """Check a boost, or a penalty: a factor on the odds of the score, or what is added to its logit.

    Raises:
        InvalidInputError: neither is given, or it is no number, or out of range.
    """
    if multiply is not None:
        if not 1 / MOST_FACTOR <= multiply <= MOST_FACTOR:  # not of a NaN, either
            raise InvalidInputError(
                f"{where}.multiply is {multiply:g}; allowed: {1 / MOST_FACTOR:g} to {MOST_FACTOR:,.0f}, below 1 for a "
                "penalty; a filter leaves items out"
            )
        return Boost(when=when, added=math.log(multiply))
    if add is None:
        raise InvalidInputError(f"{where}: no effect; set multiply or add")
    if not -MOST_ADDED <= add <= MOST_ADDED:
        raise InvalidInputError(f"{where}.add is {add:g}; allowed: {-MOST_ADDED:.2f} to {MOST_ADDED:.2f}")
    return Boost(when=when, added=add)


def diverse(where: str, relevance: float) -> Diverse:
    """Check a diverse rule.

    Raises:
        InvalidInputError: its lambda is not above 0 and up to 1.
    """
    if not 0.0 < relevance <= 1.0:
        raise InvalidInputError(
            f"{where}.relevance is {relevance:g}; allowed: above 0 and up to 1, which is the order by scores"
        )
    return Diverse(relevance=relevance)
