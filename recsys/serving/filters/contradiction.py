"""Contradictions: filters that no item can pass, whatever its values are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.features.feature_set import Categorical, Feature
from recsys.serving.filters.language import Condition, Filter


def contradiction(wanted: Filter) -> str:
    """Say why no item can pass a filter; empty: one may.

    Looks at the clauses of one condition, attribute by attribute; what else excludes itself shows as an empty list.
    """
    by_attribute: dict[str, list[Condition]] = {}
    for clause in wanted.clauses:
        if len(clause) == 1:
            by_attribute.setdefault(clause[0].attribute, []).append(clause[0])
    for name, conditions in by_attribute.items():
        if len(conditions) == 1 and conditions[0].test != "range":
            continue
        for why in _conflicts(conditions[0].feature, conditions):
            told = " and ".join(condition.described() for condition in conditions)
            return f"{name}: {why}: {told}"
    return ""


def _conflicts(feature: Feature, conditions: list[Condition]) -> Iterator[str]:
    others = [each for each in conditions if not _is_absent(each)]
    if len(others) < len(conditions) and any(each.test != "none_of" for each in others):
        yield "a value that is missing passes none of the others"
    if len({each.flag for each in conditions if each.test == "flag"}) > 1:
        yield "it cannot be set and not set"
    ranges = [each.range for each in conditions if each.test == "range"]
    low = max(((r.low, r.low_open) for r in ranges if r.low is not None), default=None)
    high = min(((r.high, not r.high_open) for r in ranges if r.high is not None), default=None)
    if low is not None and high is not None:
        if low[0] > high[0] or (low[0] == high[0] and (low[1] or not high[1])):
            yield "no number is in all of its ranges"
    if not isinstance(feature, Categorical) or feature.max_values > 1:
        return
    sets = [each.keys for each in conditions if each.test == "any_of"]
    if sets:
        left = sets[0]
        for keys in sets[1:]:
            left = np.intersect1d(left, keys, assume_unique=True)
        if not len(left):
            yield "no value is in all of its sets"
        for each in conditions:
            if each.test == "none_of":
                left = np.setdiff1d(left, each.keys, assume_unique=True)
        if not len(left):
            yield "no value is left"


def _is_absent(condition: Condition) -> bool:
    return condition.test == "present" and not condition.flag
