"""Ranking all items for every user, and the metrics of it.

Legend: ``N`` users, ``M`` items, ``D`` width, ``G`` ranked users, ``k`` length of a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.pairs import Pairs
from recsys.errors import InvalidInputError
from recsys.evaluation.predictions import UserValues
from recsys.metrics import capped_recall_at_k, coverage, hit_rate_at_k, ndcg_at_k, recall_at_k

_BLOCK = 256
"""Users scored at a time: 42 MB of scores for 41,000 items."""

_STRETCH = 64
"""Items of which only the best score is looked at first. Measured on 41,000 items and one core: the top 20 of 1,024
users take 23 ms, 58 ms directly; the product into rows of whole stretches 70 ms, 133 ms into rows of 40,981."""


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Means over users with at least one relevant item, of lists of k items.

    Attributes:
        recall: hits / relevant items, the recall of NGCF and LightGCN.
        capped_recall: hits / min(k, relevant items), the recall of GraphHash.
        ndcg: see :func:`recsys.metrics.ndcg_at_k`.
        hit_rate: share of users with a hit.
        coverage: share of all items that are in a list.
        users: how many.
    """

    recall: float
    capped_recall: float
    ndcg: float
    hit_rate: float
    coverage: float
    users: int

    def __str__(self) -> str:
        return f"recall {self.recall:.4f}   NDCG {self.ndcg:.4f}   hit rate {self.hit_rate:.4f}"


def rank_all(
    users_ND: Tensor, items_MD: Tensor, *, relevant: Pairs, excluded: tuple[Pairs, ...], list_length: int
) -> RankingMetrics:
    """Metrics of ranking all items by dot product for each user of ``relevant``.

    Items of equal score, such as those of one hashed row, come in a random order that is the same in every call:
    ids are often numbered by popularity, and the order of ids would flatter a table with many shared rows.

    Args:
        users_ND, items_MD: vectors of all.
        relevant: the items to find; a user without any is left out.
        excluded: pairs that are not recommended.
        list_length: k; at most the number of items.

    Raises:
        InvalidInputError: nothing is relevant, or there are fewer items than ``list_length``.
    """
    return rank_users(users_ND, items_MD, relevant=relevant, excluded=excluded, list_length=list_length)[0]


def rank_users(
    users_ND: Tensor,
    items_MD: Tensor,
    *,
    relevant: Pairs,
    excluded: tuple[Pairs, ...],
    list_length: int,
    barred_M: BoolArray | None = None,
) -> tuple[RankingMetrics, UserValues]:
    """As :func:`rank_all`, with each user's recall, NDCG and hits, to resample users and to compare runs.

    ``barred_M`` are items that are in no list, but may be relevant.
    """
    if not len(relevant):
        raise InvalidInputError("there are no relevant items to find; expected at least one pair")
    if list_length > len(items_MD):
        raise InvalidInputError(f"list_length is {list_length}; allowed: at most the {len(items_MD)} items")
    ranked_G = np.unique(relevant.user_E)
    found_Gk = top_items(users_ND, items_MD, ranked_G, excluded=excluded, list_length=list_length, barred_M=barred_M)
    return list_metrics(found_Gk, relevant, num_items=len(items_MD))


def list_metrics(found_Gk: Int64Array, relevant: Pairs, *, num_items: int) -> tuple[RankingMetrics, UserValues]:
    """Metrics of given lists, and each user's recall, NDCG and hits.

    Args:
        found_Gk: items of the users of ``relevant``, ascending; best first; -1 for none.
        relevant: the items to find, at least one.
        num_items: of all.
    """
    ranked_G, relevant_G = np.unique(relevant.user_E, return_counts=True)
    list_length = found_Gk.shape[1]
    keys = relevant.user_E * num_items + relevant.item_E  # ascending, as pairs are sorted
    wanted = np.where(found_Gk >= 0, ranked_G[:, None] * num_items + found_Gk, -1)
    hits_Gk = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
    metrics = RankingMetrics(
        recall=recall_at_k(hits_Gk, relevant_G),
        capped_recall=capped_recall_at_k(hits_Gk, relevant_G),
        ndcg=ndcg_at_k(hits_Gk, relevant_G),
        hit_rate=hit_rate_at_k(hits_Gk, relevant_G),
        coverage=coverage(found_Gk, items=num_items),
        users=len(ranked_G),
    )
    # The same metrics of one user at a time.
    gains_k = 1.0 / np.log2(np.arange(2, list_length + 2))
    ideal_G = np.concatenate([[0.0], np.cumsum(gains_k)])[np.minimum(relevant_G, list_length)]
    values = {
        "recall": hits_Gk.sum(axis=1) / relevant_G,
        "ndcg": (hits_Gk * gains_k).sum(axis=1) / ideal_G,
        "hit_rate": hits_Gk.any(axis=1).astype(np.float64),
    }
    return metrics, UserValues(user_G=ranked_G, values=values)


def top_items(
    users_ND: Tensor,
    items_MD: Tensor,
    ranked_G: Int64Array,
    *,
    excluded: tuple[Pairs, ...],
    list_length: int,
    barred_M: BoolArray | None = None,
) -> Int64Array:
    """The items with the highest scores, best first, [G, k], int64; -1 where all others are excluded.

    Args:
        users_ND, items_MD: vectors of all.
        ranked_G: ascending users, int64.
        excluded, list_length: as in :func:`rank_all`.
        barred_M: items that are in no list.
    """
    items_DM = items_MD[torch.from_numpy(_shuffled(len(items_MD)))].t()

    def write(block_B: Int64Array, scores_BM: Tensor) -> None:
        torch.mm(users_ND[torch.from_numpy(block_B)], items_DM, out=scores_BM)

    return _best(
        write,
        ranked_G,
        num_items=len(items_MD),
        dtype=items_MD.dtype,
        excluded=excluded,
        list_length=list_length,
        barred_M=barred_M,
    )


def _shuffled(num_items: int) -> Int64Array:
    """The items in the order in which their scores are written: a random one, the same in every call."""
    return np.random.Generator(np.random.PCG64(0)).permutation(num_items)


def _best(
    write: Callable[[Int64Array, Tensor], None],
    ranked_G: Int64Array,
    *,
    num_items: int,
    dtype: torch.dtype,
    excluded: tuple[Pairs, ...],
    list_length: int,
    barred_M: BoolArray | None = None,
) -> Int64Array:
    """As :func:`top_items`; ``write`` puts the scores of some users into a tensor, items in :func:`_shuffled` order."""
    shuffled_M = _shuffled(num_items)
    place_M = np.empty_like(shuffled_M)
    place_M[shuffled_M] = np.arange(num_items)
    width = -(-num_items // _STRETCH) * _STRETCH
    scores = torch.full((min(_BLOCK, len(ranked_G)), width), -torch.inf, dtype=dtype)
    item_of_place = np.concatenate([shuffled_M, np.full(width - num_items, -1)])
    barred = torch.from_numpy(place_M[barred_M] if barred_M is not None else place_M[:0])
    found = np.empty((len(ranked_G), list_length), dtype=np.int64)
    for first in range(0, len(ranked_G), _BLOCK):
        block = ranked_G[first : first + _BLOCK]
        of_block = scores[: len(block)]
        write(block, of_block[:, :num_items])
        of_block[:, barred] = -torch.inf
        for pairs in excluded:
            row, item = _pairs_of(pairs, block)
            of_block[torch.from_numpy(row), torch.from_numpy(place_M[item])] = -torch.inf
        values, places = _top_places(of_block, list_length)
        found[first : first + _BLOCK] = np.where(values.numpy() == -np.inf, -1, item_of_place[places.numpy()])
    return found


def _top_places(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each row and where they are: they lie in the k stretches with the highest maxima."""
    stretches = scores.view(len(scores), -1, _STRETCH)
    likely = stretches.amax(dim=2).topk(min(k, stretches.shape[1]), dim=1, sorted=False).indices
    candidates = stretches.gather(1, likely[:, :, None].expand(-1, -1, _STRETCH)).flatten(1)
    values, index = candidates.topk(k, dim=1)
    return values, likely.gather(1, index // _STRETCH) * _STRETCH + index % _STRETCH


def _pairs_of(pairs: Pairs, users: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The pairs of some ascending users, each with its user's place among them."""
    begin = np.searchsorted(pairs.user_E, users, side="left")
    count = np.searchsorted(pairs.user_E, users, side="right") - begin
    row = np.repeat(np.arange(len(users)), count)
    first = np.cumsum(count) - count
    return row, pairs.item_E[np.arange(len(row)) - first[row] + begin[row]]


def sample_users(pairs: Pairs, users: int) -> Pairs:
    """The pairs of a fixed random sample of users; all of them for 0."""
    distinct = np.unique(pairs.user_E)
    if not 0 < users < len(distinct):
        return pairs
    chosen = np.isin(pairs.user_E, np.random.Generator(np.random.PCG64(0)).choice(distinct, users, replace=False))
    return Pairs(pairs.user_E[chosen], pairs.item_E[chosen])


def rank_scored(
    score: Callable[[Int64Array], Tensor],
    *,
    num_items: int,
    relevant: Pairs,
    excluded: tuple[Pairs, ...],
    list_length: int,
) -> tuple[RankingMetrics, UserValues]:
    """As :func:`rank_users`, for a model whose scores are more than products of two vectors.

    Args:
        score: scores of all items for some ascending users, [B, M], float32; -inf: in no list.
        num_items: M.
        relevant, excluded, list_length: as of :func:`rank_users`.
    """
    if not len(relevant):
        raise InvalidInputError("there are no relevant items to find; expected at least one pair")
    ranked_G = np.unique(relevant.user_E)
    found_Gk = top_scored(score, ranked_G, num_items=num_items, excluded=excluded, list_length=list_length)
    return list_metrics(found_Gk, relevant, num_items=num_items)


def top_scored(
    score: Callable[[Int64Array], Tensor],
    ranked_G: Int64Array,
    *,
    num_items: int,
    excluded: tuple[Pairs, ...],
    list_length: int,
) -> Int64Array:
    """As :func:`top_items`, by the scores of :func:`rank_scored`."""
    shuffled = torch.from_numpy(_shuffled(num_items))

    def write(block_B: Int64Array, scores_BM: Tensor) -> None:
        scores_BM.copy_(score(block_B)[:, shuffled])

    return _best(write, ranked_G, num_items=num_items, dtype=torch.float32, excluded=excluded, list_length=list_length)
