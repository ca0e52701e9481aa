"""Negatives for pairs: items that the user did not take, uniform, without rejection.

Of a user's taken items t(0) < t(1) < ..., the j-th has t(j) - j items below it that were not taken, a number that
never falls with j. So the r-th item not taken is r + (how many j have t(j) - j <= r), one binary search for all pairs
of a batch: exact, and no slower for users who took nearly everything.

Legend: ``N`` users, ``M`` items, ``E`` training pairs, ``B`` pairs of a batch, ``C`` draws per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor


class NegativeSampler:
    """Draws items that users did not take in training.

    Args:
        user_E, item_E: what they took: distinct pairs in order of user, then item, int64.
        num_users, num_items: indices are below these.

    Attributes:
        left_N: how many items each user did not take.
    """

    def __init__(self, user_E: Tensor, item_E: Tensor, *, num_users: int, num_items: int) -> None:
        count_N = torch.bincount(user_E, minlength=num_users)
        self._first_N = count_N.cumsum(0) - count_N
        self.left_N = num_items - count_N
        self._stride = num_items + 1
        below_E = item_E - (torch.arange(len(user_E)) - self._first_N[user_E])
        self._keys_E = user_E * self._stride + below_E

    def draw(self, user_B: Tensor, generator: torch.Generator, *, draws: int = 1) -> Tensor:
        """Items that these users did not take, uniform over all such, [B, C], int64; C is ``draws``.

        Of a user who took every item there is none: such users must not be asked for.
        """
        chance_BC = torch.rand(len(user_B), draws, generator=generator, dtype=torch.float64)
        user_B1 = user_B[:, None]
        rank_BC = (chance_BC * self.left_N[user_B1]).long()
        before_BC = torch.searchsorted(self._keys_E, user_B1 * self._stride + rank_BC, right=True)
        return rank_BC + before_BC - self._first_N[user_B1]
