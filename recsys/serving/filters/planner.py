"""Planner: finds the items that pass a filter in item columns, by the cheapest order of its clauses.

Where the items with a clause's values are listed (postings), and the lists are short, the other clauses are asked for
these items alone. Else how many items pass each clause is estimated by a sample. The most selective clauses are asked
for all items; if few are left, the others are asked for these, and the answer is a list of places; else for all, and it
is a mask. An estimate decides what it costs, never what is found. ``C`` items, ``P`` places that pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.feature_store.base import IS_WITHDRAWN
from recsys.serving.filters.clauses import Clause, clauses_of
from recsys.serving.filters.language import Filter
from recsys.serving.item_columns.generation import Generation

SAMPLE = 1_024
FEW = 0.1
"""Share of the items up to which they are listed; of more there is a mask."""

_LOOKED_UP = 6.0
"""Nanoseconds, roughly, of asking a clause for one listed item, where ``Clause.cost`` is of one of all items."""

_MASKED = 0.5
"""Nanoseconds, roughly, of making a list of what passes out of an item."""

LISTED = 10.0
"""Nanoseconds, roughly, of taking a place from lists and asking the other clauses for it."""

_BLOCK = 65_536
"""Items that are asked at a time: what is between stays in the cache."""


@dataclass(frozen=True, slots=True)
class Passing:
    """The items that pass, in one of two forms.

    Attributes:
        places: of them, ascending; int64, [P].
        mask: True for them; bool, [C].
        missing: an item of which nothing is known passes.
    """

    places: Int64Array | None
    mask: BoolArray | None
    missing: bool


def passing(wanted: Filter | None, generation: Generation) -> Passing:
    """Find the items that pass a filter and are not withdrawn; None: all that are not.

    Raises:
        UnknownColumnError: the columns lack an attribute.
    """
    count = len(generation.items)
    clauses = [] if wanted is None else clauses_of(wanted, generation)
    missing = all(clause.missing for clause in clauses)
    if generation.withdrawn:
        stored = generation.stored
        clauses.append(Clause(lambda places: stored[places] != IS_WITHDRAWN, True, 0.1))
    if not clauses:
        return Passing(None, np.ones(count, dtype=np.bool_), missing)
    if (places := _from_lists(clauses, generation)) is not None:
        return Passing(places, None, missing)
    shares = _shares(clauses, count)
    order = sorted(range(len(clauses)), key=lambda place: (shares[place], clauses[place].cost))
    scanned: list[Clause] = []
    left = 1.0
    for place in order:
        if scanned and clauses[place].cost > left * _LOOKED_UP:
            break
        scanned.append(clauses[place])
        left *= shares[place]
    others = [clauses[place] for place in order[len(scanned) :]]
    if left <= FEW and not missing:
        places = _listed(scanned, count)
        for clause in others:
            places = _those(clause, places)
        if len(places) <= 2 * FEW * count:
            return Passing(places, None, missing)
        mask = np.zeros(count, dtype=np.bool_)
        mask[places] = True
        return Passing(None, mask, missing)
    mask = np.empty(count, dtype=np.bool_)
    for part in _blocks(count):
        mask[part] = _all_pass([*scanned, *others], part)
    if not missing and np.count_nonzero(mask) <= FEW * count:
        return Passing(np.flatnonzero(mask), None, missing)
    return Passing(None, mask, missing)


def passes_at(wanted: Filter | None, generation: Generation, places: Int64Array) -> BoolArray:
    """True for items that pass a filter and are not withdrawn; of places of -1, of which nothing is known, as well.

    Args:
        wanted: the filter; None: all items pass.
        generation: the columns.
        places: of the items, int64, [P].
    """
    known = places >= 0
    clauses = [] if wanted is None else clauses_of(wanted, generation)
    found = np.full(len(places), all(clause.missing for clause in clauses), dtype=np.bool_)
    at = places[known]
    good = generation.stored[at] != IS_WITHDRAWN
    for clause in clauses:
        good &= clause.passes(at)
    found[known] = good
    return found


def _from_lists(clauses: Sequence[Clause], generation: Generation) -> Int64Array | None:
    """Places that pass all clauses, by the shortest lists of one of them; None: a scan takes less."""
    lengths = [(clause.entries, place) for place, clause in enumerate(clauses) if clause.entries is not None]
    if not lengths:
        return None
    entries, place = min(lengths)
    shortest, count = clauses[place], len(generation.items)
    changed = generation.changed(shortest.since)
    if (entries + len(changed)) * LISTED > (shortest.cost + _MASKED) * count:
        return None
    parts = shortest.listed()
    places = np.concatenate([*parts, changed])
    if len(parts) > 1 or len(changed):
        places.sort()
    if len(places):  # an item may have a value twice
        places = places[np.concatenate([[True], places[1:] != places[:-1]])]
    others = sorted((clause for clause in clauses if clause is not shortest or len(changed)), key=lambda c: c.cost)
    found = places.astype(np.int64)
    for clause in others:
        found = _those(clause, found)
    return found


def _those(clause: Clause, places: Int64Array) -> Int64Array:
    """Places of those that pass. An index of bools takes numpy three times as long."""
    return places.take(np.flatnonzero(clause.passes(places)))


def _shares(clauses: Sequence[Clause], count: int) -> list[float]:
    """Estimated share of the items that pass each clause."""
    if len(clauses) == 1 and count <= SAMPLE:
        return [1.0]
    sample = np.linspace(0, max(count - 1, 0), min(SAMPLE, count)).astype(np.int64)
    return [float(np.mean(clause.passes(sample))) if count else 0.0 for clause in clauses]


def _listed(clauses: Sequence[Clause], count: int) -> Int64Array:
    """Places of the items that pass all clauses."""
    found = [np.flatnonzero(_all_pass(clauses, part)) + part.start for part in _blocks(count)]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _all_pass(clauses: Sequence[Clause], part: slice) -> BoolArray:
    found = clauses[0].passes(part)
    for clause in clauses[1:]:
        found = found & clause.passes(part)
    return found


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))
