"""Shapley values: the one division of a game's worth among its players that is fair by four rules.

A player's value is what it adds to the worth of those who came before it, in the mean over all orders of coming
(Shapley, 1953; for the features of a model Lundberg and Lee, NeurIPS 2017, arXiv 1705.07874). So the values of all
players add up to the worth of all less the worth of none; players that add the same to every coalition have the same
value; one that adds nothing has 0.

Legend: ``P`` players, ``K`` coalitions, ``N`` orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np

from recsys.arrays import BoolArray, Float64Array

Worth = Callable[[BoolArray], Float64Array]
"""Worth of coalitions: [K, P], True where a player is in, to [K]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shapley values of a game.

    Attributes:
        values: of each player; [P].
        errors: their standard errors, 0 if they are exact; [P].
        nothing, everything: worth of no player, and of all.
        orders: orders they are the means of; 0: of all there are.
    """

    values: Float64Array
    errors: Float64Array
    nothing: float
    everything: float
    orders: int


def all_coalitions(players: int) -> BoolArray:
    """Every coalition once, [2^P, P]: number n has the players whose bits are set in n."""
    return ((np.arange(1 << players)[:, None] >> np.arange(players)) & 1).astype(np.bool_)


def exact_shares(worth: Worth, players: int) -> Shares:
    """Shapley values from the worth of every coalition.

    >>> shares = exact_shares(lambda has: 2.0 * has[:, 0] + 6.0 * (has[:, 1] & has[:, 2]), 3)
    >>> shares.values.round(9).tolist()
    [2.0, 3.0, 3.0]
    """
    coalitions = all_coalitions(players)
    worths = worth(coalitions)
    sizes, numbers = coalitions.sum(axis=1), np.arange(len(coalitions))
    # Share of the orders in which just such a coalition of this size comes before a player.
    shares = np.array([factorial(size) * factorial(players - size - 1) / factorial(players) for size in range(players)])
    values = np.zeros(players)
    for player in range(players):
        without = numbers[~coalitions[:, player]]
        values[player] = shares[sizes[without]] @ (worths[without | (1 << player)] - worths[without])
    return Shares(
        values=values,
        errors=np.zeros(players),
        nothing=float(worths[0]),
        everything=float(worths[-1]),
        orders=0,
    )


def sampled_shares(worth: Worth, players: int, *, pairs: int, seed: int = 0) -> Shares:
    """Estimate Shapley values from some orders; they add up as exact ones do.

    Orders come in pairs, one the reverse of the other: what a player adds early and late then varies less in the mean.

    Args:
        worth: of coalitions; asked once, for each distinct one.
        players: P, at least 1.
        pairs: of orders, at least 2.
        seed: of the orders: the same seed gives the same answer.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = [random.permutation(players) for _ in range(pairs)]
    orders = np.array([order for one in drawn for order in (one, one[::-1])])
    # After step t of an order, those are in whose place in it is before t.
    places = np.argsort(orders, axis=1)
    steps = np.arange(players + 1)
    has = places[:, None, :] < steps[None, :, None]
    coalitions, number = np.unique(has.reshape(-1, players), axis=0, return_inverse=True)
    worths = worth(coalitions)[number.reshape(len(orders), players + 1)]
    added = np.empty((len(orders), players))
    np.put_along_axis(added, orders, np.diff(worths, axis=1), axis=1)
    of_pairs = added.reshape(pairs, 2, players).mean(axis=1)
    return Shares(
        values=of_pairs.mean(axis=0),
        errors=of_pairs.std(axis=0, ddof=1) / np.sqrt(pairs),
        nothing=float(worths[0, 0]),
        everything=float(worths[0, -1]),
        orders=len(orders),
    )
