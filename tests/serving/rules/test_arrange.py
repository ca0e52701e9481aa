"""Lists by rules, against their definitions: plain orders, caps, boosts, pins, and maximal marginal relevance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.feature_set import Categorical
from recsys.serving.filters.language import Condition
from recsys.serving.handlers.candidates import best_of
from recsys.serving.rules.arrange import Arranged, arrange
from recsys.serving.rules.language import AtMost, Boost, Diverse, Pin, Rule, Rules
from recsys.serving.rules.report import report
from recsys.serving.rules.values import RuleValues

BRAND = Categorical(name="brand", filterable=True)
TEST = Condition(feature=BRAND, test="present")

logits_of = st.lists(st.integers(-6, 6), min_size=1, max_size=30)
"""Small integers, for there to be ties."""


def listed(
    logits: list[float], *rules: Rule, top_k: int = 10, brands: Any = None, holds: Any = None, rows: Any = None
) -> Arranged:
    """A list of candidates 0, 1, 2 and so on, which are their own keys. ``brands`` are of every at-most of each value,
    0 for none, ``holds`` the outcome of every test."""
    made = Rules(rules)
    codes = np.array(np.zeros(len(logits)) if brands is None else brands, dtype=np.int32)
    codes = codes if codes.ndim == 2 else codes[:, None]
    passes = np.array(np.zeros(len(logits)) if holds is None else holds, dtype=np.bool_)
    tests = {at for at, rule in enumerate(rules) if isinstance(rule, AtMost | Boost) and rule.when is not None}
    caps = {at for at, rule in enumerate(rules) if isinstance(rule, AtMost) and rule.when is None}
    return arrange(
        np.array(logits, dtype=np.float32),
        made,
        top_k=top_k,
        values=RuleValues(holds=dict.fromkeys(tests, passes), codes=dict.fromkeys(caps, codes)),
        pinned={at: pin.key for at, pin in made.pins.items()},
        rows_CD=None if rows is None else np.array(rows, dtype=np.float32),
    )


@given(logits_of, st.integers(1, 40))
def test_without_a_rule_that_acts_the_list_is_the_plain_one(logits: list[float], top_k: int) -> None:
    plain = best_of(np.array(logits, dtype=np.float32), top_k).tolist()
    rows = np.random.default_rng(0).standard_normal((len(logits), 3))
    for rules in (
        (),
        (Diverse(relevance=1.0),),
        (Boost(when=TEST, added=1.0),),
        (AtMost(count=len(logits), attribute=BRAND),),
        (AtMost(count=1, attribute=BRAND), Boost(when=TEST, added=0.0)),
    ):
        found = listed(logits, *rules, top_k=top_k, rows=rows)
        assert found.positions.tolist() == plain
        assert found.places_by_score.tolist() == list(range(1, len(plain) + 1))
        assert found.lacking == top_k - len(plain) and not any(found.acted)


@given(logits_of, st.data(), st.integers(1, 12))
def test_a_cap_is_the_greedy_list_and_holds_for_every_prefix(
    logits: list[float], data: st.DataObject, top_k: int
) -> None:
    count = data.draw(st.integers(1, 3))
    size = len(logits)
    brands = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=size, max_size=size))
    found = listed(logits, AtMost(count=count, attribute=BRAND), top_k=top_k, brands=brands)
    expected: list[int] = []
    taken: Counter[int] = Counter()
    for position in best_of(np.array(logits, dtype=np.float32), size).tolist():
        values = {*brands[position]} - {0}
        if len(expected) < top_k and all(taken[value] < count for value in values):
            expected.append(position)
            taken.update(values)
    assert found.positions.tolist() == expected
    assert all(total <= count for total in taken.values())
    assert found.lacking == top_k - len(expected)
    last = found.places_by_score.max()
    if not found.lacking:  # all that stand before the last item, and are not in the list, were left out
        assert len(found.left_out) == last - len(expected)


@given(logits_of, st.data())
def test_a_boost_is_a_stable_sort_by_logits_with_what_is_added(logits: list[float], data: st.DataObject) -> None:
    size = len(logits)
    holds = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    added = data.draw(st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0]))
    found = listed(logits, Boost(when=TEST, added=added), Boost(when=TEST, added=1.0), top_k=size, holds=holds)
    plain = best_of(np.array(logits, dtype=np.float32), size).tolist()
    expected = sorted(plain, key=lambda position: -(logits[position] + (added + 1.0) * holds[position]))
    assert found.positions.tolist() == expected
    assert found.acted == [(0, 1) if holds[position] else () for position in expected]
    assert [plain[place - 1] for place in found.places_by_score] == expected


def by_definition(logits: list[float], rows: np.ndarray, weight: float, top_k: int, pins: list[int]) -> list[int]:
    """Maximal marginal relevance as it is written, with the pinned items in the list from the start."""
    scores = 1.0 / (1.0 + np.exp(-np.array(logits, dtype=np.float64)))
    lengths = np.linalg.norm(rows, axis=1)
    order = [p for p in best_of(np.array(logits, dtype=np.float32), len(logits)).tolist() if p not in pins]
    chosen, taken = [], list(pins)

    def cosine(a: int, b: int) -> float:
        return float(rows[a] @ rows[b] / (lengths[a] * lengths[b])) if lengths[a] and lengths[b] else 0.0

    while order and len(chosen) < top_k - len(pins):
        worth = [
            weight * scores[i] / scores.max() - (1 - weight) * (max(cosine(i, j) for j in taken) if taken else 0.0)
            for i in order
        ]
        best = next(place for place, value in enumerate(worth) if value >= max(worth) - 1e-6)
        taken.append(order[best])
        chosen.append(order.pop(best))
    return chosen


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]), st.integers(0, 2))
def test_diversity_is_maximal_marginal_relevance_by_brute_force(seed: int, weight: float, pins: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(3, 25))
    logits = random.normal(-3, 1, size).astype(np.float32).tolist()
    rows = random.standard_normal((size, 4)).astype(np.float32)
    rows[random.integers(size)] = 0.0  # an item without a vector
    pinned = [Pin(key=key, place=place) for place, key in enumerate(random.permutation(size)[:pins].tolist(), 1)]
    found = listed(logits, *pinned, Diverse(relevance=weight), top_k=8, rows=rows)
    keys = [pin.key for pin in pinned]
    others = by_definition(logits, rows.astype(np.float64), weight, min(8, size), keys)
    assert found.positions.tolist() == keys + others


def test_a_diverse_list_takes_another_item_before_one_that_is_alike() -> None:
    twins = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    found = listed([2.0, 1.9, 0.0], Diverse(relevance=0.5), top_k=3, rows=twins)
    assert found.positions.tolist() == [0, 2, 1]
    assert found.acted == [(), (0,), (0,)], "the third was taken before the second, which is better"
    assert listed([2.0, 1.9, 0.0], Diverse(relevance=0.95), top_k=3, rows=twins).positions.tolist() == [0, 1, 2]


def test_diversity_does_not_depend_on_the_base_rate() -> None:
    random = np.random.default_rng(1)
    rows, shares = random.standard_normal((20, 4)), random.uniform(0.1, 1.0, 20)
    lists = []
    for best in (1e-3, 1e-9, 1e-15):
        logits = np.log(best * shares / (1 - best * shares)).tolist()
        lists.append(listed(logits, Diverse(relevance=0.6), rows=rows).positions.tolist())
    assert lists[0] == lists[1] == lists[2]


def test_an_item_without_a_vector_is_like_no_other() -> None:
    rows = [[1.0, 0.0], [1.0, 0.1], [0.0, 0.0]]
    assert listed([2.0, 1.9, 1.0], Diverse(relevance=0.5), top_k=2, rows=rows).positions.tolist() == [0, 2]
    assert listed([1.0, 3.0, 2.0], Diverse(relevance=0.5), rows=np.zeros((3, 2))).positions.tolist() == [1, 2, 0]
    assert listed([1.0, 3.0, 2.0], Diverse(relevance=0.5), rows=np.zeros((3, 0))).positions.tolist() == [1, 2, 0]


def test_a_pin_has_its_place_and_the_others_close_ranks() -> None:
    found = listed([5.0, 4.0, 3.0, 2.0, 1.0], Pin(key=4, place=2), Pin(key=0, place=4), top_k=4)
    assert found.positions.tolist() == [1, 4, 2, 0]
    assert found.places_by_score.tolist() == [2, 5, 3, 1]
    assert found.acted == [(), (0,), (), (1,)]


def test_pins_behind_the_end_of_a_short_list_move_up() -> None:
    found = listed([5.0, 4.0, 3.0], Pin(key=2, place=9), Pin(key=1, place=7), top_k=10)
    assert found.positions.tolist() == [0, 1, 2] and found.lacking == 7


def test_pins_count_to_a_cap_and_are_never_left_out_by_it() -> None:
    brands = [1, 1, 2, 2, 3]
    cap = AtMost(count=1, attribute=BRAND)
    found = listed([5.0, 4.0, 3.0, 2.0, 1.0], cap, Pin(key=1, place=3), top_k=5, brands=brands)
    assert found.positions.tolist() == [2, 4, 1] and found.left_out == {0: 0, 3: 0}
    found = listed([5.0, 4.0, 3.0, 2.0, 1.0], cap, Pin(key=0, place=1), Pin(key=1, place=2), brands=brands)
    assert found.positions.tolist() == [0, 1, 2, 4], "both pins stay, though the cap allows one of the brand"


def test_a_cap_by_a_test_counts_those_that_pass_alone() -> None:
    found = listed([5.0, 4.0, 3.0, 2.0], AtMost(count=1, when=TEST), holds=[1, 1, 0, 0], top_k=3)
    assert found.positions.tolist() == [0, 2, 3] and found.left_out == {1: 0}


def test_missing_values_are_not_capped() -> None:
    assert listed([3.0, 2.0, 1.0], AtMost(count=1, attribute=BRAND), brands=[0, 0, 0]).positions.tolist() == [0, 1, 2]


def test_an_item_of_two_values_counts_to_both_and_one_value_twice_is_one() -> None:
    found = listed([3.0, 2.0, 1.0, 0.0], AtMost(count=1, attribute=BRAND), brands=[[1, 2], [2, 0], [3, 3], [0, 1]])
    assert found.positions.tolist() == [0, 2]


def test_boosts_come_before_caps_and_pins_before_both_whatever_order_they_are_sent_in() -> None:
    logits, brands, holds = [3.0, 2.0, 1.0, 0.0], [1, 1, 2, 2], [0, 1, 0, 0]
    rules: list[Rule] = [AtMost(count=1, attribute=BRAND), Boost(when=TEST, added=2.0), Pin(key=3, place=1)]
    for order in (rules, rules[::-1], rules[1:] + rules[:1]):
        found = listed(logits, *order, brands=brands, holds=holds, top_k=3)
        assert found.positions.tolist() == [3, 1], "1 is above 0 by its boost, 2 is of the pinned item's brand"


def test_caps_hold_beside_diversity() -> None:
    rows = np.eye(6)
    found = listed([6, 5, 4, 3, 2, 1], AtMost(count=1, attribute=BRAND), Diverse(relevance=0.9), top_k=3,
                   brands=[1, 1, 1, 2, 2, 3], rows=rows)  # fmt: skip
    assert found.positions.tolist() == [0, 3, 5] and found.left_out == {1: 0, 2: 0, 4: 0}
    assert not any(found.acted), "what a cap kept away was not passed over"


def test_a_report_says_why_a_list_is_short_and_what_each_rule_did() -> None:
    rules = Rules((AtMost(count=1, attribute=BRAND), Pin(key=9, place=1), Pin(key=2, place=2)))
    values = RuleValues(codes={0: np.array([[1], [1], [2]], dtype=np.int32)})
    arranged = arrange(np.array([3, 2, 1], np.float32), rules, top_k=5, values=values, pinned={2: 2})
    made = report(rules, arranged, values=values, pinned={2: 2}, outcomes={1: "seen"}, without_vector=0,
                  keys=np.array([7, 8, 2]))  # fmt: skip
    assert made.lacking == 3
    assert made.detail == (
        "the candidates ran out at 2 of 5 items, 3 were ranked: at most 1 of a brand (rules[0]) left out 1"
    )
    assert made.kept_out == {8: 0}
    cap, lost, placed = made.effects
    assert (cap.left_out, cap.pin) == (1, "") and (lost.pin, lost.place) == ("seen", 0)
    assert (placed.pin, placed.place, placed.acted) == ("placed", 2, 1)
    late = made.of_items(np.array([False, True]))
    assert late.effects[2].place == 1 and late.acted == [(2,)] and late.places_by_score.tolist() == [3]
    gone = made.of_items(np.array([True, False]))
    assert gone.effects[2] == replace(placed, pin="withdrawn", place=0)


@pytest.mark.parametrize("rules", [(Diverse(relevance=0.5),), (AtMost(count=1, attribute=BRAND),), ()])
def test_no_candidates_are_an_empty_list(rules: tuple[Rule, ...]) -> None:
    found = listed([], *rules, rows=np.zeros((0, 3)))
    assert found.positions.tolist() == [] and found.lacking == 10
