"""Lists by how much training had of a user and of an item; and how far they are from what everyone takes.

Legend: ``G`` ranked users, ``k`` length of a list, ``E`` pairs to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.training.retrieval.ranking import list_metrics

_OF_USERS = {"new users": (0, 0), "users of 1 to 9 pairs": (1, 9), "10 to 49": (10, 49), "50 or more": (50, None)}
_OF_ITEMS = {"new items": (0, 0), "items of 1 to 9 pairs": (1, 9), "10 to 99": (10, 99), "100 or more": (100, None)}


@dataclass(frozen=True, kw_only=True)
class ListSegment:
    """Users, or items, of so many training pairs.

    Attributes:
        name: of the segment; new ones have none.
        users, pairs: users that were ranked, and items to find.
        recall: of users their mean recall; of items the share of the pairs that was found.
        ndcg: mean of the users'; None of items.
    """

    name: str
    users: int
    pairs: int
    recall: float
    ndcg: float | None = None


@dataclass(frozen=True, kw_only=True)
class ListDetails:
    """More about lists than their metrics.

    Attributes:
        novelty: mean over the items of all lists of -log2 of the share of users who took the item in training, in bits:
            what everyone took has 0 (Zhou et al., PNAS 2010, self-information). An item of which training has no pair
            counts as one.
        segments: those with a pair to find; of users first.
    """

    novelty: float
    segments: tuple[ListSegment, ...]


def list_details(found_Gk: Int64Array, relevant: Pairs, interactions: Interactions) -> ListDetails:
    """Segments and novelty of given lists.

    Args:
        found_Gk: items of the users of ``relevant``, ascending; -1 for none.
        relevant: the items to find, at least one.
        interactions: their training pairs are counted.
    """
    train, items = interactions.train, interactions.num_items
    ranked_G = np.unique(relevant.user_E)
    of_user_G = np.bincount(train.user_E, minlength=interactions.num_users)[ranked_G]
    taken_M = np.bincount(train.item_E, minlength=items)
    segments = []
    for name, bounds in _OF_USERS.items():
        chosen_G = _within(of_user_G, *bounds)
        if chosen_G.any():
            own = relevant.where(np.isin(relevant.user_E, ranked_G[chosen_G]))
            metrics = list_metrics(found_Gk[chosen_G], own, num_items=items)[0]
            segments.append(
                ListSegment(name=name, users=metrics.users, pairs=len(own), recall=metrics.recall, ndcg=metrics.ndcg)
            )
    row_E = np.searchsorted(ranked_G, relevant.user_E)
    hit_E = (found_Gk[row_E] == relevant.item_E[:, None]).any(axis=1)
    for name, bounds in _OF_ITEMS.items():
        chosen_E = _within(taken_M[relevant.item_E], *bounds)
        if chosen_E.any():
            users = len(np.unique(relevant.user_E[chosen_E]))
            recall = float(hit_E[chosen_E].mean())
            segments.append(ListSegment(name=name, users=users, pairs=int(chosen_E.sum()), recall=recall))
    shown = found_Gk[found_Gk >= 0]
    share = np.maximum(taken_M[shown], 1) / max(len(np.unique(train.user_E)), 1)
    return ListDetails(novelty=float(-np.log2(share).mean()) if len(shown) else 0.0, segments=tuple(segments))


def _within(count: Int64Array, least: int, most: int | None) -> BoolArray:
    chosen: BoolArray = (count >= least) & (count <= (count.max(initial=0) if most is None else most))
    return chosen
