"""RulesReport: what became of rules, for an answer and for counts. ``K`` items of the list, ``R`` rules, ``C``
candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.serving.rules.arrange import Arranged
from recsys.serving.rules.language import KINDS, Pin, Rules
from recsys.serving.rules.pins import PinOutcome
from recsys.serving.rules.values import RuleValues
from recsys.serving.telemetry.label_counts import LabelCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEffect:
    """The effect of a rule.

    Attributes:
        acted: items of the list that it acted on, see ``Arranged.acted``.
        left_out: candidates that it kept from the list.
        pin: what became of a pin; empty: it is none.
        place: of the pinned item, 1-based; 0: it has none.
    """

    acted: int = 0
    left_out: int = 0
    pin: PinOutcome | str = ""
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesReport:
    """The outcome of a request's rules.

    Attributes:
        effects: of each rule, in the order in which they were sent; [R].
        lacking: places of the list that stay empty.
        detail: why, in words.
        without_vector: candidates that a diverse rule knows no vector of; they are like no other.
        unknown_values, age_ms, degraded: as of :class:`RuleValues`.
        places_by_score, acted: of each item, as of ``Arranged``; [K].
        kept_out: place of the at-most, by key, of each candidate that one kept from the list.
    """

    effects: Sequence[RuleEffect]
    lacking: int
    detail: str
    without_vector: int
    unknown_values: Sequence[str]
    age_ms: int
    degraded: bool
    places_by_score: Int64Array
    acted: Sequence[tuple[int, ...]]
    kept_out: Mapping[int, int] = field(default_factory=dict)

    def of_items(self, kept: BoolArray) -> RulesReport:
        """The same of those items of the list for which ``kept`` is True; bool, [K]."""
        places = np.cumsum(kept)
        effects = []
        for effect in self.effects:
            place = 0 if not effect.place or not kept[effect.place - 1] else int(places[effect.place - 1])
            lost = effect.place > 0 and place == 0
            effects.append(replace(effect, place=place, pin="withdrawn" if lost else effect.pin))
        acted = [rules for rules, keep in zip(self.acted, kept.tolist(), strict=True) if keep]
        return replace(self, effects=effects, places_by_score=self.places_by_score[kept], acted=acted)


def report(
    rules: Rules,
    arranged: Arranged,
    *,
    values: RuleValues,
    pinned: Mapping[int, int],
    outcomes: Mapping[int, PinOutcome],
    without_vector: int,
    keys: Int64Array,
) -> RulesReport:
    """Say what became of rules.

    Args:
        rules: of the request.
        arranged: the list.
        values: that were read for it.
        pinned: position of each pinned candidate, by its rule's place.
        outcomes: of pins; one without is placed if it is a candidate.
        without_vector: see :class:`RulesReport`.
        keys: of the candidates, int64, [C].
    """
    place_of = {position: place for place, position in enumerate(arranged.positions.tolist(), start=1)}
    acted = Counter(at for of_item in arranged.acted for at in of_item)
    left_out = Counter(arranged.left_out.values())
    effects = []
    for at, rule in enumerate(rules.rules):
        effect = RuleEffect(acted=acted[at], left_out=left_out[at])
        if isinstance(rule, Pin):
            if at in pinned:
                effect = replace(effect, pin="placed", place=place_of[pinned[at]])
            else:
                effect = replace(effect, pin=outcomes.get(at, "not_a_candidate"))
        effects.append(effect)
    return RulesReport(
        effects=effects,
        lacking=arranged.lacking,
        detail=_detail(rules, arranged, left_out, len(keys)) if arranged.lacking else "",
        without_vector=without_vector,
        unknown_values=values.unknown_values,
        age_ms=values.age_ms,
        degraded=values.degraded,
        places_by_score=arranged.places_by_score,
        acted=arranged.acted,
        kept_out={int(keys[position]): at for position, at in arranged.left_out.items()},
    )


def _detail(rules: Rules, arranged: Arranged, left_out: Mapping[int, int], candidates: int) -> str:
    total = len(arranged.positions) + arranged.lacking
    each = [f"{rules.rules[at].described()} (rules[{at}]) left out {by:,}" for at, by in sorted(left_out.items())]
    why = f": {', '.join(each)}" if each else ""
    return f"the candidates ran out at {len(arranged.positions):,} of {total:,} items, {candidates:,} were ranked{why}"


def count(rules: Rules, made: RulesReport, counts: LabelCounts) -> None:
    """Add what rules did to counts by kind and outcome, see ``families.RULE_OUTCOMES``."""
    for label, by in _counted(rules, made):
        if by:
            counts.add(label, by=by)


def _counted(rules: Rules, made: RulesReport) -> Iterator[tuple[str, int]]:
    for rule, effect in zip(rules.rules, made.effects, strict=True):
        kind = KINDS[type(rule)]
        yield f"{kind}_acted", effect.acted
        yield f"{kind}_left_out", effect.left_out
        yield f"{kind}_not_placed", int(effect.pin not in ("", "placed"))
