"""ListPlace: an item's place in a list, what moved it there or kept it away, in words that name the rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.serving.handlers.candidates import best_of
from recsys.serving.handlers.queries import RecommendQuery, RecommendResult

_PINS = {
    "excluded": "the request excludes it",
    "seen": "the user has seen it",
    "unknown": "neither the retrieval model nor the store knows it",
    "withdrawn": "it is withdrawn",
    "filtered_out": "it does not pass the filter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPlace:
    """The place of an item.

    Attributes:
        place: 1-based; 0: it is not in the list.
        place_by_score: among all that were ranked, by the model's score alone; 0: it was not ranked.
        rules: places of the rules that moved it, or kept it from the list.
        why: the reason in words.
    """

    place: int
    place_by_score: int
    rules: tuple[int, ...]
    why: str


def place_of(item_key: int, query: RecommendQuery, result: RecommendResult) -> ListPlace:
    """Say where an item is in a list, and why.

    Args:
        item_key: key of the item.
        query: asked for the list.
        result: the list.
    """
    ranked, report, rules = result.ranked, result.rules, query.rules
    by_score = 0
    if ranked is not None:
        order = ranked.keys[best_of(ranked.logits, len(ranked.keys))]
        by_score = int(np.argmax(order == item_key)) + 1 if (order == item_key).any() else 0
    found = np.flatnonzero(result.items == item_key)
    place = int(found[0]) + 1 if len(found) else 0
    acted: tuple[int, ...] = ()
    if report is not None and rules is not None:
        if place:
            acted = report.acted[place - 1]
        elif item_key in report.kept_out:
            acted = (report.kept_out[item_key],)
        else:
            acted = tuple(at for at, pin in rules.pins.items() if pin.key == item_key)
    named = "; ".join(f"rules[{at}]: {rules.rules[at].described()}" for at in acted) if rules is not None else ""
    if place:
        why = named or ("its score" if place == by_score else "others were moved, or left out, before it")
    elif by_score and acted and report is not None and item_key in report.kept_out:
        why = f"kept from the list by {named}"
    elif acted and report is not None:
        why = f"{named}, but {_PINS.get(report.effects[acted[0]].pin, 'it has no place')}"
    elif by_score:
        why = f"not among the best {query.top_k:,}: place {by_score:,} of {result.candidates:,} by its score"
    else:
        why = f"not among the {result.candidates:,} candidates: seen, excluded, filtered out, or not retrieved"
    return ListPlace(place=place, place_by_score=by_score, rules=acted, why=why)
