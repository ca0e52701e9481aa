"""Shapley values are what their definition says, and estimates of them say how sure they are."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from recsys.arrays import BoolArray, Float64Array
from recsys.serving.handlers.explain.shapley import Worth, all_coalitions, exact_shares, sampled_shares


def random_game(players: int, seed: int = 0) -> Worth:
    """A worth of its own for every coalition."""
    worths = np.random.Generator(np.random.PCG64(seed)).normal(size=1 << players)

    def worth(coalitions: BoolArray) -> Float64Array:
        found: Float64Array = worths[coalitions @ (1 << np.arange(players))]
        return found

    return worth


def by_definition(worth: Worth, players: int) -> Float64Array:
    """The mean, over all orders, of what a player adds to those who came before."""
    added = np.zeros(players)
    orders = list(permutations(range(players)))
    for order in orders:
        has = np.zeros(players, dtype=np.bool_)
        for player in order:
            before = worth(has[None])[0]
            has[player] = True
            added[player] += worth(has[None])[0] - before
    return added / len(orders)


@pytest.mark.parametrize("players", range(1, 7))
def test_exact_values_are_the_means_over_all_orders(players: int) -> None:
    worth = random_game(players, seed=players)
    shares = exact_shares(worth, players)
    np.testing.assert_allclose(shares.values, by_definition(worth, players), atol=1e-12)
    assert shares.orders == 0 and not shares.errors.any()


def test_values_add_up_to_the_worth_of_all_less_that_of_none_exact_or_not() -> None:
    for players in (0, 1, 2, 5, 9):
        worth = random_game(players, seed=players)
        none, every = worth(np.zeros((1, players), np.bool_))[0], worth(np.ones((1, players), np.bool_))[0]
        every_share = [exact_shares(worth, players)]
        if players:
            every_share += [sampled_shares(worth, players, pairs=pairs) for pairs in (2, 7)]
        for shares in every_share:
            assert (shares.nothing, shares.everything) == (none, every)
            assert abs(shares.nothing + shares.values.sum() - shares.everything) < 1e-12


def test_players_that_add_the_same_have_the_same_value_and_one_that_adds_nothing_has_0() -> None:
    game = random_game(3)

    def worth(has: BoolArray) -> Float64Array:
        """Players 0 and 3 count alike, 4 never counts."""
        alike = has[:, 0].astype(int) + has[:, 3]
        return game(np.stack([alike == 1, alike == 2, has[:, 1] & has[:, 2]], axis=1))

    values = exact_shares(worth, 5).values
    assert values[0] == pytest.approx(values[3], abs=1e-12) and abs(values[0]) > 1e-3
    assert values[4] == 0.0 and sampled_shares(worth, 5, pairs=3).values[4] == 0.0


def test_a_game_whose_worth_is_a_sum_has_its_terms_as_values_after_any_number_of_orders() -> None:
    terms = np.array([0.5, -2.0, 0.0, 3.25, 1.0])
    for shares in (exact_shares(lambda has: has @ terms, 5), sampled_shares(lambda has: has @ terms, 5, pairs=2)):
        np.testing.assert_allclose(shares.values, terms, atol=1e-12)
        np.testing.assert_allclose(shares.errors, 0.0, atol=1e-12)


def test_estimates_are_within_their_errors_of_the_values_and_nearer_with_more_orders() -> None:
    worth = random_game(8)
    exact = exact_shares(worth, 8).values
    few, many = (sampled_shares(worth, 8, pairs=pairs, seed=3) for pairs in (20, 2_000))
    for shares in (few, many):
        z = (shares.values - exact) / shares.errors
        assert np.abs(z).max() < 4.0 and shares.orders in (40, 4_000)
    assert np.abs(z).mean() > 0.2, "errors that are not far too large"
    np.testing.assert_allclose(few.errors / many.errors, 10.0, rtol=0.5)


def test_the_same_seed_gives_the_same_estimate_and_each_coalition_is_asked_for_once() -> None:
    game, asked = random_game(10), list[bytes]()

    def worth(has: BoolArray) -> Float64Array:
        asked.extend(row.tobytes() for row in has)
        return game(has)

    first = sampled_shares(worth, 10, pairs=5)
    assert len(asked) == len(set(asked)) <= 10 * 9 + 2
    assert (sampled_shares(game, 10, pairs=5).values == first.values).all()
    assert (sampled_shares(game, 10, pairs=5, seed=1).values != first.values).any()


def test_coalitions_are_all_there_are() -> None:
    assert len({row.tobytes() for row in all_coalitions(6)}) == 64
    assert all_coalitions(0).shape == (1, 0)
