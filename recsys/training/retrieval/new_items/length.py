"""Length of rows made of attributes, by which items with such rows have their share of the places in lists.

A row that is predicted from attributes is nearer to the mean than one that was learnt of events, so that items with
such rows would be in few lists, or in far too many if it were made longer by guess. So a tenth of the learnt items is
given rows as new items have them, all items are ranked for a sample of users, and that length is taken by which the
tenth has as large a share of the lists' places as it has of the training pairs. Scores are products of rows: in a list
of k, the j-th best of the tenth displaces another if its score, times the length, is above the (k - j + 1)-th best of
the others. The length is a quantile of those ratios.

Legend: ``B`` users of a block, ``G`` users, ``M`` items, ``k`` places of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.pairs import Pairs
from recsys.training.retrieval.ranking import pairs_of

HELD_OUT = 0.1
"""Share of items that are taken for new ones."""

LEAST_ITEMS = 20
"""Items that can be held out below which nothing is measured."""

USERS = 2000
"""Most users whose lists are made."""

MOST = 4.0
"""The largest length, and 1 / the smallest."""

_BLOCK = 256
_SURE = 2.0
"""Standard errors by which attributes must rank wanted items above chance."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """A length of rows, where that of learnt ones is 1.

    Attributes:
        times: the length.
        places: share of the places that held-out items have with it; of 0 items nothing was measured.
        before: with a length of 1.
        share: of the training pairs that are theirs.
        items: held out.
        users: whose lists were made.
        says_nothing: no validation pair shows that attributes rank what users take above chance: the length is 1 at
            most.
    """

    times: float = 1.0
    places: float = 0.0
    before: float = 0.0
    share: float = 0.0
    items: int = 0
    users: int = 0
    says_nothing: bool = False

    def __str__(self) -> str:
        if not self.items:
            return "nothing to measure the length of new items' rows by: it is 1"
        return (
            f"new items' rows have {self.times:.2f} times their length: {self.items:,} items that were held out have "
            f"{self.share:.1%} of the training pairs and, of the places of {self.users:,} users' lists, "
            f"{self.places:.1%} ({self.before:.1%} without it)"
            + self.says_nothing
            * "; nothing shows that attributes rank what users take above chance: it is 1 at most"
        )


def held_out(items_M: BoolArray) -> BoolArray:
    """A fixed random tenth of some items; none of fewer than ``LEAST_ITEMS``."""
    items = np.flatnonzero(items_M)
    chosen_M = np.zeros(len(items_M), dtype=np.bool_)
    if len(items) >= LEAST_ITEMS:
        chosen = np.random.Generator(np.random.PCG64(0)).permutation(items)[: max(int(len(items) * HELD_OUT), 1)]
        chosen_M[chosen] = True
    return chosen_M


def length_of_rows(
    score: Callable[[Int64Array], Tensor],
    users_G: Int64Array,
    held_M: BoolArray,
    *,
    excluded: tuple[Pairs, ...],
    list_length: int,
    share: float,
    wanted: Pairs | None = None,
) -> Length:
    """Choose the length.

    Args:
        score: of all items for some of the users, [B, M], float32, the held-out ones by their attributes; -inf: in no
            list.
        users_G: ascending.
        held_M: the held-out items.
        excluded: pairs that are in no list.
        list_length: k.
        share: of the training pairs that are of held-out items.
        wanted: what users took next; attributes must rank the held-out ones among it above other held-out items. None:
            it is not asked.
    """
    if not len(users_G) or not held_M.any() or held_M.all() or not share:
        return Length()
    ratios, ranks = list[Float32Array](), list[Float32Array]()
    held, others = torch.from_numpy(held_M), torch.from_numpy(~held_M)
    most = min(list_length, len(held_M))
    for first in range(0, len(users_G), _BLOCK):
        users_B = users_G[first : first + _BLOCK]
        scores_BM = score(users_B).clone()
        for pairs in excluded:
            row, item = pairs_of(pairs, users_B)
            scores_BM[torch.from_numpy(row), torch.from_numpy(item)] = -torch.inf
        ratios.append(_ratios(_best(scores_BM[:, held], most), _best(scores_BM[:, others], most)))
        if wanted is not None:
            row, item = pairs_of(wanted, users_B)
            ranks.append(_ranks(scores_BM[:, held], row[held_M[item]], np.cumsum(held_M)[item[held_M[item]]] - 1))
    ratio = np.sort(np.concatenate(ratios), axis=None)
    at = min(round(share * len(ratio)), len(ratio) - 1)
    times, says_nothing = float(np.clip(ratio[at], 1 / MOST, MOST)), False
    if wanted is not None:
        found = np.concatenate(ranks)
        sure = len(found) > 0 and found.mean() < 0.5 - _SURE / np.sqrt(12 * len(found))
        times, says_nothing = (times, False) if sure else (min(times, 1.0), True)
    return Length(
        times=times,
        places=float(np.mean(ratio < times)),
        before=float(np.mean(ratio < 1.0)),
        share=share,
        items=int(np.count_nonzero(held_M)),
        users=len(users_G),
        says_nothing=says_nothing,
    )


def _best(scores_BM: Tensor, count: int) -> Float32Array:
    """The highest scores, best first, [B, k]; -inf where there are fewer."""
    found_Bk = torch.full((len(scores_BM), count), -torch.inf)
    there = min(count, scores_BM.shape[1])
    found_Bk[:, :there] = scores_BM.topk(there, dim=1).values
    return found_Bk.numpy()


def _ratios(held_Bk: Float32Array, others_Bk: Float32Array) -> Float32Array:
    """Length above which the j-th best of the held-out items is in the list, for each j; 0: any, inf: none."""
    displaced_Bk = others_Bk[:, ::-1]
    positive_Bk = held_Bk > 0
    ratio_Bk = np.maximum(displaced_Bk, 0) / np.where(positive_Bk, held_Bk, 1)
    found_Bk: Float32Array = np.where(positive_Bk, ratio_Bk, np.inf)
    return found_Bk


def _ranks(scores_BH: Tensor, row_E: Int64Array, place_E: Int64Array) -> Float32Array:
    """Share of the held-out items that stand above each wanted one, [E]; 0.5 by chance."""
    scores_EH = scores_BH[torch.from_numpy(row_E)].numpy()
    own_E1 = scores_EH[np.arange(len(row_E)), place_E][:, None]
    above_E = (scores_EH > own_E1).mean(axis=1) + 0.5 * (scores_EH == own_E1).mean(axis=1)
    found_E: Float32Array = above_E[np.isfinite(own_E1[:, 0])].astype(np.float32)
    return found_E
