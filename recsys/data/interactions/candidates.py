"""Short lists of candidates, a list a user: the protocols that rank one item among sampled ones.

Legend: ``G`` users, ``C`` candidates, ``E`` pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateLists:
    """Candidates of a part of the data.

    Attributes:
        user_G: users, ascending, int64.
        item_GC: items of each, int64: first the one that came next, then the sampled ones.
    """

    user_G: Int64Array
    item_GC: Int64Array

    def of(self, user_E: Int64Array, item_E: Int64Array) -> Int64Array:
        """Lists of these ascending users, [E, C].

        Raises:
            InvalidInputError: a user has several pairs, no list, or one whose first item is not the pair's.
        """
        row_E = np.minimum(np.searchsorted(self.user_G, user_E), max(len(self.user_G) - 1, 0))
        fits = len(self.user_G) > 0 and bool((self.user_G[row_E] == user_E).all())
        if not fits or (self.item_GC[row_E, 0] != item_E).any() or (np.diff(user_E) <= 0).any():
            raise InvalidInputError(
                f"{len(user_E):,} pairs to find beside {len(self.user_G):,} lists of candidates; expected one pair of "
                "a user, who has a list that begins with its item"
            )
        return self.item_GC[row_E]
