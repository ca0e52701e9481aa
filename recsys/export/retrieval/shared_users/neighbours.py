"""Items that share most users: of each item the n others with the largest Jaccard similarity of their sets of users.

The search is exact: from an item to its users, to their items, counting how many users lead to each (Deshpande and
Karypis, "Item-Based Top-N Recommendation Algorithms", 2004, section 4). MinHash with LSH (Broder 1997; Indyk and
Motwani 1998) finds fewer and takes longer where similarities are as low as between items (docs/adr/0042).

Legend: ``E`` pairs, ``M`` items, ``N`` users, ``L`` items that a list may have, ``Z`` entries of all lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from recsys.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from recsys.errors import BundleError

MOST_ITEMS = 5_000
"""Users with more items than that are no one's neighbours: a crawler's say nothing, and cost the square of them."""

_WORK = 4_000_000  # ways from an item over its users to their items that are walked at once: some 200 MB
_CERTIFIED = 32
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class NeighbourLists:
    """Lists of all items, one behind another, each nearest first, equal ones by their place.

    Attributes:
        begins: where each item's list begins, and where the last ends; int64, [M + 1].
        items: int64, [Z].
        scores: Jaccard similarities, above 0 to 1; float32, [Z].
    """

    begins: Int64Array
    items: Int64Array
    scores: Float32Array


def left_out_users(user_E: Int64Array, users: int) -> BoolArray:
    """Say which users have more than ``MOST_ITEMS`` items; bool, [N]."""
    return np.asarray(np.bincount(user_E, minlength=users) > MOST_ITEMS)


def neighbour_lists(
    user_E: Int64Array, item_E: Int64Array, *, users: int, items: int, listed_M: BoolArray, most: int
) -> NeighbourLists:
    """Find of each item the ``most`` nearest others that may be listed; fewer where fewer share a user with it.

    Args:
        user_E, item_E: distinct pairs, each below ``users`` and ``items``; users with too many items among them
            (:func:`left_out_users`) do not count.
        users, items: how many there are.
        listed_M: which items a list may have; bool, [M].
        most: entries of a list.

    >>> found = neighbour_lists(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]), users=3, items=3,
    ...                         listed_M=np.ones(3, dtype=bool), most=2)
    >>> found.begins.tolist(), found.items.tolist(), found.scores.round(2).tolist()
    ([0, 1, 2, 2], [1, 0], [0.6700000166893005, 0.6700000166893005])
    """
    kept_E = ~left_out_users(user_E, users)[user_E]
    user_E, item_E = user_E[kept_E], item_E[kept_E]
    ones_E = np.ones(len(user_E), dtype=np.float32)
    users_of = scipy.sparse.csr_matrix((ones_E, (item_E, user_E)), shape=(items, users))
    listed = np.flatnonzero(listed_M)
    items_of = users_of[listed].T.tocsr()  # [N, L]
    count_M = np.bincount(item_E, minlength=items)
    ways_M = np.bincount(item_E, weights=np.diff(items_of.indptr)[user_E], minlength=items)
    lengths_M = np.zeros(items, dtype=np.int64)
    found_items, found_scores = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for begin, end in _blocks(ways_M):
        shared = (users_of[begin:end] @ items_of).tocsr()
        item_C = np.repeat(np.arange(begin, end), np.diff(shared.indptr))
        other_C = listed[shared.indices]
        shared_C = shared.data.astype(np.float64)
        score_C = shared_C / (count_M[item_C] + count_M[other_C] - shared_C)
        score_C[item_C == other_C] = 0.0
        able = score_C >= np.repeat(_least(score_C, shared.indptr, most), np.diff(shared.indptr))
        item_C, other_C, score_C = item_C[able], other_C[able], score_C[able]
        order = np.lexsort((other_C, -score_C, item_C))
        item_C = item_C[order]
        place_C = np.arange(len(order)) - np.searchsorted(item_C, item_C)
        best = order[place_C < most]
        found_items.append(other_C[best])
        found_scores.append(score_C[best].astype(np.float32))
        lengths_M += np.bincount(item_C[place_C < most], minlength=items)
    begins = np.concatenate([[0], np.cumsum(lengths_M)])
    return NeighbourLists(begins, np.concatenate(found_items), np.concatenate(found_scores))


def _least(score_C: Float64Array, begins: Int64Array, most: int) -> Float64Array:
    """The least score above 0 that each list can have: all others need not be sorted, which took most of the time."""
    least = np.full(len(begins) - 1, np.nextafter(0.0, 1.0))
    for place in np.flatnonzero(np.diff(begins) > most).tolist():
        scores = score_C[begins[place] : begins[place + 1]]
        least[place] = max(least[place], np.partition(scores, len(scores) - most)[len(scores) - most])
    return least


def certify_neighbours(
    lists: NeighbourLists, user_E: Int64Array, item_E: Int64Array, *, users: int, listed_M: BoolArray, most: int
) -> None:
    """Compare the lists of up to 32 items with a pass over all pairs.

    Args:
        lists: made of the rest.
        user_E, item_E, users, listed_M, most: as of :func:`neighbour_lists`.

    Raises:
        BundleError: a list differs.
    """
    kept_E = ~left_out_users(user_E, users)[user_E]
    user_E, item_E = user_E[kept_E], item_E[kept_E]
    items = len(listed_M)
    count_M = np.bincount(item_E, minlength=items)
    some = np.random.Generator(np.random.PCG64(0)).permutation(np.flatnonzero(count_M))[:_CERTIFIED]
    for item in some.tolist():
        has_N = np.zeros(users, dtype=np.bool_)
        has_N[user_E[item_E == item]] = True
        shared_M = np.bincount(item_E[has_N[user_E]], minlength=items)
        score_M = shared_M / np.maximum(count_M + count_M[item] - shared_M, 1)
        score_M[~listed_M] = score_M[item] = 0.0
        best = np.argsort(-score_M, kind="stable")[:most]
        best = best[score_M[best] > 0]
        mine = slice(*lists.begins[item : item + 2])
        same = np.array_equal(lists.items[mine], best)
        if not same or not np.allclose(lists.scores[mine], score_M[best], rtol=0, atol=_TOLERANCE):
            raise BundleError(
                f"certificate: the items that share most users with item {item} are not those of all pairs. The bundle "
                "was not written"
            )


def _blocks(ways_M: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of items whose ways are no more than ``_WORK``, or one item."""
    ends = np.concatenate([[0.0], np.cumsum(ways_M)])
    begin = 0
    while begin < len(ways_M):
        end = max(begin + 1, int(np.searchsorted(ends, ends[begin] + _WORK, side="right")) - 1)
        yield begin, end
        begin = end
