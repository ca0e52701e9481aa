"""Arrange: scores, values and vectors of candidates to a list by rules, and what each rule did.

``C`` candidates, ``K`` items of the list, ``W`` values of an item, ``D`` columns of a vector, ``P`` pinned items.
Positions are places among the candidates; ranks are places in the order by boosted scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from recsys.serving.rules.language import AtMost, Boost, Rules
from recsys.serving.rules.values import RuleValues
from recsys.serving.rules.vectors import unit_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """A list made by rules.

    Attributes:
        positions: of its items among the candidates, in its order; int64, [K].
        places_by_score: 1-based place of each by its score alone; int64, [K].
        acted: places of the rules that acted on each: boosts whose test it passes, its pin, the diverse rule if the
            item was taken before one of a higher score, or after one of a lower; [K].
        left_out: place of the rule, by position, of each candidate that an at-most kept from the list before it was
            full.
        lacking: places that stay empty, as no candidate is left for them.
    """

    positions: Int64Array
    places_by_score: Int64Array
    acted: Sequence[tuple[int, ...]]
    left_out: Mapping[int, int] = field(default_factory=dict)
    lacking: int = 0


def arrange(
    logits: Float32Array,
    rules: Rules,
    *,
    top_k: int,
    values: RuleValues,
    pinned: Mapping[int, int],
    rows_CD: Float32Array | None = None,
) -> Arranged:
    """Make a list.

    Boosts are added to the logits. Pinned items have their places, and count to what at-mosts allow; none of these
    leaves them out. Each other place has the best candidate that is left and allowed, all candidates being looked at:
    the one of the highest boosted logit, or with a diverse rule of the highest

        lambda p / p_best - (1 - lambda) max cosine to the items taken before and to the pinned ones

    (Carbonell and Goldstein, SIGIR 1998, section 2), where p is the boosted score and p_best the largest: as a share of
    the best, relevance is of one size whatever the base rate is. Of equal ones the first in the order by boosted logits
    is taken, there the first by logits, there the first candidate. Places for which nothing is left stay empty: the
    pinned items behind them move up.

    Args:
        logits: of the candidates, float32, [C].
        rules: of the request.
        top_k: places of the list.
        values: of the candidates.
        pinned: position of each pinned candidate, by its rule's place.
        rows_CD: vectors of the candidates, needed for a diverse rule; zeros for one that has none.
    """
    by_score = np.argsort(-logits, kind="stable")
    boosted = _boosted(logits, rules, values)
    ranked = by_score[np.argsort(-boosted[by_score], kind="stable")]
    caps = _Caps(rules, values)
    for position in pinned.values():
        caps.take(position)
    wanted = top_k - len(pinned)
    if rules.diverse is None or rules.diverse[1] == 1.0 or rows_CD is None:
        taken, moved = _best(ranked, caps, set(pinned.values()), wanted), set[int]()
    else:
        unit_CD = unit_rows(rows_CD)
        pins = np.fromiter(pinned.values(), dtype=np.int64)
        others = ranked[~np.isin(ranked, pins)]
        margins = _Margins(unit_CD[others], unit_CD[pins], _relevance(boosted)[others], rules.diverse[1])
        taken, moved = _diverse(others, caps, margins, wanted)
    places = {rule.place: pinned[at] for at, rule in rules.pins.items() if at in pinned}
    positions = np.fromiter(_merged(taken, places), dtype=np.int64, count=len(taken) + len(places))
    place_of = np.empty(len(logits), dtype=np.int64)
    place_of[by_score] = np.arange(1, len(logits) + 1)
    return Arranged(
        positions=positions,
        places_by_score=place_of[positions],
        acted=_acted(positions, rules, values, pinned, moved),
        left_out=caps.left_out,
        lacking=top_k - len(positions),
    )


def _boosted(logits: Float32Array, rules: Rules, values: RuleValues) -> Float64Array:
    boosted = logits.astype(np.float64)
    for at, rule in enumerate(rules.rules):
        if isinstance(rule, Boost):
            boosted[values.holds[at]] += rule.added
    return boosted


def _relevance(boosted: Float64Array) -> Float64Array:
    """Boosted scores as a share of the largest; of logits far below 0, too, whose scores are no numbers but 0."""
    logs = -np.logaddexp(0.0, -boosted)
    shares: Float64Array = np.exp(logs - logs.max(initial=-np.inf))
    return shares


class _Caps:
    """Room that at-mosts still leave."""

    def __init__(self, rules: Rules, values: RuleValues) -> None:
        self.left_out: dict[int, int] = {}
        self._caps: list[tuple[int, int, Int32Array, dict[int, int]]] = []
        for at, rule in enumerate(rules.rules):
            if isinstance(rule, AtMost):
                codes_CW = values.codes[at] if rule.when is None else values.holds[at].astype(np.int32)[:, None]
                self._caps.append((at, rule.count, codes_CW, {}))

    def allow(self, position: int) -> bool:
        """Say if a candidate may be in the list; if not it never may, and the rule that says so is noted."""
        for at, count, codes_CW, taken in self._caps:
            if any(taken.get(code, 0) >= count for code in codes_CW[position].tolist()):
                self.left_out[position] = at
                return False
        return True

    def take(self, position: int) -> None:
        """Count a candidate that is in the list."""
        for _, _, codes_CW, taken in self._caps:
            for code in {*codes_CW[position].tolist()} - {0}:
                taken[code] = taken.get(code, 0) + 1


def _best(ranked: Int64Array, caps: _Caps, gone: set[int], wanted: int) -> list[int]:
    """Positions of the best that are left and allowed."""
    taken: list[int] = []
    for position in ranked.tolist():
        if len(taken) == wanted:
            break
        if position not in gone and caps.allow(position):
            caps.take(position)
            taken.append(position)
    return taken


class _Margins:
    """Marginal relevance of candidates, in the order by boosted scores.

    Args:
        unit_CD: their vectors, of length 1 or 0.
        pins_PD: those of the items that are in the list from the start.
        relevance_C: of each, up to 1.
        weight: lambda.
    """

    def __init__(self, unit_CD: Float32Array, pins_PD: Float32Array, relevance_C: Float64Array, weight: float) -> None:
        self._unit_CD, self._weight = unit_CD, weight
        self._relevance_C = weight * relevance_C
        self._largest_C: Float32Array | None = None
        self._margin_C = self._relevance_C.copy()
        for pin_D in pins_PD:
            self._add(pin_D)

    def best(self) -> int:
        """Rank of the candidate with the largest that is left, of equal ones the first; -1: none is."""
        rank = int(self._margin_C.argmax()) if len(self._margin_C) else 0
        return rank if len(self._margin_C) and self._margin_C[rank] > -np.inf else -1

    def is_left(self, rank: int) -> bool:
        """Say if a candidate was not dropped."""
        return bool(self._relevance_C[rank] > -np.inf)

    def drop(self, rank: int) -> None:
        """Leave a candidate out from now on."""
        self._relevance_C[rank] = self._margin_C[rank] = -np.inf

    def take(self, rank: int) -> None:
        """Have an item in the list, whose vector others are compared with."""
        self._add(self._unit_CD[rank])

    def _add(self, unit_D: Float32Array) -> None:
        cosines_C = self._unit_CD @ unit_D
        self._largest_C = cosines_C if self._largest_C is None else np.maximum(self._largest_C, cosines_C)
        self._margin_C = self._relevance_C - (1.0 - self._weight) * self._largest_C


def _diverse(ranked: Int64Array, caps: _Caps, margins: _Margins, wanted: int) -> tuple[list[int], set[int]]:
    """Positions by maximal marginal relevance, and those among them that another order than by scores moved."""
    position_of = ranked.tolist()
    taken: list[int] = []
    moved: set[int] = set()
    first, last = 0, -1  # ranks: of the best that is left, of the worst that was taken
    while len(taken) < wanted and (rank := margins.best()) >= 0:
        margins.drop(rank)
        if not caps.allow(position_of[rank]):
            continue
        while first < rank and not (margins.is_left(first) and caps.allow(position_of[first])):
            margins.drop(first)  # what is kept from all places is not passed over for another
            first += 1
        if first < rank or rank < last:
            moved.add(position_of[rank])
        last = max(last, rank)
        caps.take(position_of[rank])
        margins.take(rank)
        taken.append(position_of[rank])
    return taken, moved


def _merged(taken: Sequence[int], places: Mapping[int, int]) -> Iterator[int]:
    """Positions in the order of the list: pinned ones by their places, 1-based, the others between."""
    others = iter(taken)
    for place in range(1, len(taken) + max(places, default=0) + 1):
        if place in places:
            yield places[place]
        elif (position := next(others, None)) is not None:
            yield position


def _acted(
    positions: Int64Array, rules: Rules, values: RuleValues, pinned: Mapping[int, int], moved: set[int]
) -> list[tuple[int, ...]]:
    acted: list[list[int]] = [[] for _ in positions]
    listed = positions.tolist()
    for at, rule in enumerate(rules.rules):
        if isinstance(rule, Boost):
            of_rule = values.holds[at][positions].tolist() if rule.added else [False] * len(listed)
        elif at in pinned:
            of_rule = [position == pinned[at] for position in listed]
        elif rules.diverse is not None and at == rules.diverse[0]:
            of_rule = [position in moved for position in listed]
        else:
            continue
        for of_item, does in zip(acted, of_rule, strict=True):
            if does:
                of_item.append(at)
    return [tuple(of_item) for of_item in acted]
