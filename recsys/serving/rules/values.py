"""RuleValues: the candidates' values that rules read, in item columns, as they are now.

``C`` candidates, ``W`` values of an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.serving.filters.clauses import UnknownColumnError, clauses_of, unknown_values
from recsys.serving.filters.language import Condition, Filter
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.item_columns.generation import Generation
from recsys.serving.rules.language import AtMost, Boost, Rules

_TOLD_VALUES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleValues:
    """Values of the candidates. An item of which nothing is known has none.

    Attributes:
        holds: True for the candidates that pass the test of a rule, by the rule's place; bool, [C].
        codes: of an at-most of each value: a number for each value, 0 for none, by the rule's place; int32, [C, W].
        unknown_values: of the tests' sets that no item has had, as ``attribute=value``, the first 20.
        age_ms: of the values; 0 where none are read.
        degraded: they may be other than what the store has; without any all are missing.
    """

    holds: Mapping[int, BoolArray] = field(default_factory=dict)
    codes: Mapping[int, Int32Array] = field(default_factory=dict)
    unknown_values: tuple[str, ...] = ()
    age_ms: int = 0
    degraded: bool = False


def read_values(columns: ItemColumns | None, rules: Rules, keys: Int64Array) -> RuleValues:
    """Read what rules ask for.

    Args:
        columns: values of the items; None: there are none, and all are missing.
        rules: of the request.
        keys: of the candidates, int64, [C].
    """
    wanted = [(at, rule) for at, rule in enumerate(rules.rules) if isinstance(rule, AtMost | Boost)]
    if not wanted:
        return RuleValues()
    reading = None
    if columns is not None and columns.enabled():
        reading = columns.read(lambda generation, version: _read(generation, wanted, keys))
    if reading is None or reading.found is None:
        nothing = {at: np.zeros(len(keys), dtype=np.bool_) for at, rule in wanted if rule.when is not None}
        none = {at: np.zeros((len(keys), 1), dtype=np.int32) for at, rule in wanted if rule.when is None}
        return RuleValues(holds=nothing, codes=none, degraded=True)
    holds, codes, unknown = reading.found
    age_ms = int(min(reading.age_s, 1e6) * 1000)
    return RuleValues(holds=holds, codes=codes, unknown_values=unknown, age_ms=age_ms, degraded=reading.degraded)


def _read(
    generation: Generation, wanted: list[tuple[int, AtMost | Boost]], keys: Int64Array
) -> tuple[dict[int, BoolArray], dict[int, Int32Array], tuple[str, ...]] | None:
    places = generation.items.find(keys)
    known = places >= 0
    holds: dict[int, BoolArray] = {}
    codes: dict[int, Int32Array] = {}
    unknown: list[str] = []
    try:
        for at, rule in wanted:
            if rule.when is not None:
                holds[at] = _passes(rule.when, generation, places, known)
                unknown += (f"{name}={value}" for name, value in unknown_values(_filter(rule.when), generation))
            elif isinstance(rule, AtMost) and rule.attribute is not None:
                codes[at] = _codes(rule.attribute.name, generation, places, known)
    except UnknownColumnError:  # they are of before it was declared
        return None
    return holds, codes, tuple(unknown[:_TOLD_VALUES])


def _filter(when: Condition) -> Filter:
    return Filter(((when,),), b"")


def _passes(when: Condition, generation: Generation, places: Int64Array, known: BoolArray) -> BoolArray:
    (clause,) = clauses_of(_filter(when), generation)
    found = np.full(len(places), clause.missing)
    found[known] = clause.passes(places[known])
    return found


def _codes(name: str, generation: Generation, places: Int64Array, known: BoolArray) -> Int32Array:
    try:
        array = generation.columns[name].array
    except KeyError:
        raise UnknownColumnError(name) from None
    array = array.reshape(len(array), -1)
    found = np.zeros((len(places), array.shape[1]), dtype=np.int32)
    found[known] = array[places[known]]
    return found
