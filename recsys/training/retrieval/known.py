"""Users and items of which a model that ranks all items knows more than that they are there.

The others keep the vectors that they were given before training. Such a user is served what is popular; such an item is
in no list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.pairs import Interactions
from recsys.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Ids that a model has learnt something of.

    Attributes:
        users_N, items_M: True for those.
    """

    users_N: BoolArray
    items_M: BoolArray

    def and_those_of(self, other: Known) -> Known:
        """The ids that either knows."""
        return Known(users_N=self.users_N | other.users_N, items_M=self.items_M | other.items_M)


def drawn_pairs(interactions: Interactions) -> tuple[Int64Array, tuple[str, ...]]:
    """The places of the training pairs that steps draw, and a note on others that are left out.

    Pairs of a user who took every item are left out: nothing is left to compare them with.

    Raises:
        InvalidInputError: no pair is left.
    """
    train, items = interactions.train, interactions.num_items
    full_N = np.bincount(train.user_E, minlength=interactions.num_users) >= items
    drawn_E = ~full_N[train.user_E]
    if not drawn_E.any():
        raise InvalidInputError(
            f"{interactions.source}: every user of the training pairs took all {items:,} items: there is nothing to "
            "compare them with; expected a log in which some users left some items"
        )
    notes = tuple(interactions.notes)
    if full := int(full_N.sum()):
        first = int(np.flatnonzero(full_N)[0])
        key = first if interactions.ids is None else int(interactions.ids.user_keys_N[first])
        notes += (f"{full:,} users took all {items:,} items; their pairs are not drawn (the first is user {key})",)
    if interactions.fresh_E is not None:
        drawn_E &= interactions.fresh_E
        if not drawn_E.any():
            raise InvalidInputError(
                f"{interactions.source}: data.since leaves no pair that can be compared with another"
            )
    return np.flatnonzero(drawn_E), notes


def lost_pairs(interactions: Interactions, known_M: BoolArray) -> tuple[str, ...]:
    """A note on the test pairs whose items are in no list; empty where there are none.

    Args:
        interactions: of a run.
        known_M: items that lists can have, bool.
    """
    item_E = interactions.test.item_E
    lost = item_E[~known_M[item_E]]
    if not len(lost):
        return ()
    return (
        f"{len(lost):,} of {len(item_E):,} test pairs are of {len(np.unique(lost)):,} items of which nothing was "
        "learnt: they are in no list, and count as not found",
    )


def known_ids(interactions: Interactions, drawn: Int64Array, *, layers: int) -> Known:
    """The ids of the pairs that steps draw; with layers those of all training pairs, which reach each other."""
    train = interactions.train
    users, items = (train.user_E, train.item_E) if layers else (train.user_E[drawn], train.item_E[drawn])
    return Known(
        users_N=np.bincount(users, minlength=interactions.num_users) > 0,
        items_M=np.bincount(items, minlength=interactions.num_items) > 0,
    )
