"""Pins: which pinned items a list can have. A pin gives an item a place, and lifts nothing that keeps it from the list.

``P`` pins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.serving.filters.language import Filter
from recsys.serving.filters.selection import candidates_pass
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.rules.language import Rules

PinOutcome = Literal["placed", "excluded", "seen", "unknown", "withdrawn", "filtered_out", "not_a_candidate"]
"""Ends of a pin: it has its place, or why not."""


def pin_outcomes(
    rules: Rules,
    wanted: Filter | None,
    *,
    excluded: Int64Array,
    taken: Int64Array,
    known: BoolArray,
    columns: ItemColumns | None,
) -> dict[int, PinOutcome]:
    """Say of each pin, by its rule's place, if the list can have its item.

    Args:
        rules: of the request, P of them pins.
        wanted: the filter.
        excluded: keys of items to leave out that the request named.
        taken: those and the seen ones.
        known: the retrieval model has the item, in the order of the pins; bool, [P].
        columns: values of the items; None: there are none.
    """
    keys = np.array([pin.key for pin in rules.pins.values()], dtype=np.int64)
    if not len(keys):
        return {}
    is_known = known | _stored(columns, keys)
    kept, _ = candidates_pass(columns, None, keys)
    passes = kept if wanted is None else candidates_pass(columns, wanted, keys)[0]
    checks: list[tuple[PinOutcome, BoolArray]] = [
        ("excluded", np.isin(keys, excluded)),
        ("seen", np.isin(keys, taken)),
        ("unknown", ~is_known),
        ("withdrawn", ~kept),
        ("filtered_out", ~passes),
    ]
    return {
        at: next((outcome for outcome, holds in checks if holds[place]), "placed")
        for place, at in enumerate(rules.pins)
    }


def pinned_positions(rules: Rules, keys: Int64Array) -> Mapping[int, int]:
    """Position among the candidates of each pin that is one, by its rule's place.

    Args:
        rules: of the request.
        keys: of the candidates, distinct; int64, [C].
    """
    found = {}
    for at, pin in rules.pins.items():
        positions = np.flatnonzero(keys == pin.key)
        if len(positions):
            found[at] = int(positions[0])
    return found


def _stored(columns: ItemColumns | None, keys: Int64Array) -> BoolArray:
    """True for the items of which the store has something; bool, [P]."""
    if columns is None or not columns.enabled():
        return np.zeros(len(keys), dtype=np.bool_)
    found = columns.read(lambda generation, version: generation.items.find(keys) >= 0).found
    return np.zeros(len(keys), dtype=np.bool_) if found is None else found
