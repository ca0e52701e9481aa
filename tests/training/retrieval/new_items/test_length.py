"""The length by which items with rows of attributes have the share of places that they have of the training pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.arrays import Float32Array, Int64Array
from recsys.data.interactions.pairs import Pairs, make_pairs
from recsys.training.retrieval.new_items.length import MOST, Length, held_out, length_of_rows
from recsys.training.retrieval.ranking import top_scored

USERS, ITEMS, K = 400, 200, 10
HELD = np.arange(ITEMS) < 20
NOTHING = make_pairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def scores(seed: int, of_held: float) -> Float32Array:
    """Random scores, those of the held-out items shorter or longer."""
    random = np.random.default_rng(seed).normal(size=(USERS, ITEMS)).astype(np.float32)
    return np.where(HELD, np.float32(of_held) * random, random).astype(np.float32)


def chosen(scores_NM: Float32Array, *, share: float, excluded: Pairs = NOTHING, wanted: Pairs | None = None) -> Length:
    def score(users_B: Int64Array) -> Tensor:
        return torch.from_numpy(scores_NM[users_B])

    return length_of_rows(
        score, np.arange(USERS), HELD, excluded=(excluded,), list_length=K, share=share, wanted=wanted
    )


def places(scores_NM: Float32Array, times: float, excluded: Pairs = NOTHING) -> float:
    """The definition: the share of all lists' places that held-out items have when their scores are multiplied."""
    longer_NM = np.where(HELD, np.float32(times) * scores_NM, scores_NM)
    found = top_scored(
        lambda users_B: torch.from_numpy(longer_NM[users_B]),
        np.arange(USERS),
        num_items=ITEMS,
        excluded=(excluded,),
        list_length=K,
    )
    return float(HELD[found].mean())


@pytest.mark.parametrize("of_held", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_held_out_items_have_their_share_of_the_places(of_held: float, share: float) -> None:
    scores_NM = scores(1, of_held)
    excluded = make_pairs(np.arange(USERS), np.arange(USERS) % ITEMS)
    found = chosen(scores_NM, share=share, excluded=excluded)
    assert places(scores_NM, found.times, excluded) == pytest.approx(share, abs=0.001)
    assert found.places == pytest.approx(share, abs=0.001)
    assert found.before == pytest.approx(places(scores_NM, 1.0, excluded), abs=1e-6)
    assert found.items == 20 and found.users == USERS


def test_it_does_not_depend_on_the_length_that_rows_had() -> None:
    short, long = (chosen(scores(2, of_held), share=0.1).times for of_held in (0.5, 1.5))
    assert short / long == pytest.approx(3.0, rel=1e-4)


def test_rows_are_never_much_longer_or_shorter() -> None:
    assert chosen(scores(3, 0.01), share=0.3).times == MOST
    assert chosen(scores(3, 100.0), share=0.01).times == 1 / MOST
    opposite = np.where(HELD, np.float32(-1.0), np.float32(1.0)) * np.abs(scores(3, 1.0))
    assert chosen(opposite, share=0.1).times == MOST, "no length brings a score below 0 into a list"


def test_rows_of_attributes_that_rank_nothing_are_not_made_longer() -> None:
    scores_NM, random = scores(4, 0.4), np.random.default_rng(5)
    by_chance = make_pairs(np.arange(USERS), random.integers(0, 20, USERS))
    best = make_pairs(np.arange(USERS), scores_NM[:, HELD].argmax(axis=1))
    assert chosen(scores_NM, share=0.1).times > 1.5
    assert chosen(scores_NM, share=0.1, wanted=best) == chosen(scores_NM, share=0.1)
    for wanted in (by_chance, NOTHING, make_pairs(np.arange(USERS), np.full(USERS, ITEMS - 1))):
        found = chosen(scores_NM, share=0.1, wanted=wanted)
        assert found.times == 1.0 and found.says_nothing and "1 at most" in str(found)
    too_long = scores(4, 3.0)
    assert chosen(too_long, share=0.1, wanted=by_chance).times < 1.0, "what comes too often is shorter all the same"


def test_where_nothing_can_be_measured_the_length_is_1_and_that_is_said() -> None:
    assert chosen(scores(1, 1.0), share=0.0) == Length()
    assert str(Length()) == "nothing to measure the length of new items' rows by: it is 1"
    assert not held_out(np.ones(19, dtype=np.bool_)).any()
    assert np.count_nonzero(held_out(np.ones(20, dtype=np.bool_))) == 2
    some = np.arange(1000) % 3 == 0
    assert not (held_out(some) & ~some).any() and np.array_equal(held_out(some), held_out(some))


def test_lists_longer_than_the_catalogue_are_no_trouble() -> None:
    few = np.abs(scores(6, 1.0))[:, :25]
    found = length_of_rows(
        lambda users_B: torch.from_numpy(few[users_B]),
        np.arange(USERS),
        HELD[:25],
        excluded=(NOTHING,),
        list_length=100,
        share=0.8,
    )
    assert 1 / MOST <= found.times <= MOST
