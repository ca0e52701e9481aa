"""Ranking all items for every user, and the metrics of it.

Legend: ``N`` users, ``M`` items, ``D`` width, ``G`` ranked users, ``k`` length of a list, ``C`` candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.pairs import Pairs
from recsys.errors import InvalidInputError
from recsys.evaluation.evaluate import LIST_LENGTH
from recsys.evaluation.predictions import UserValues
from recsys.metrics import (
    COUNTS,
    OnePositiveLists,
    capped_recall_at_k,
    coverage,
    hit_rate_at_k,
    ndcg_at_k,
    recall_at_k,
)

_OF_CANDIDATES = ("hit_rate_at_10", "ndcg_at_10")

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
        hit_rate_at_10, ndcg_at_10: of the relevant item among each user's candidates alone; None where the data has no
            lists of candidates.
        candidates: items of such a list; 0 without.
    """

    recall: float
    capped_recall: float
    ndcg: float
    hit_rate: float
    coverage: float
    users: int
    hit_rate_at_10: float | None = None
    ndcg_at_10: float | None = None
    candidates: int = 0

    def __str__(self) -> str:
        return f"recall {self.recall:.4f}   NDCG {self.ndcg:.4f}   hit rate {self.hit_rate:.4f}"


def metric_values(metrics: RankingMetrics) -> dict[str, float]:
    """The metrics by name; those of candidates only where there are some."""
    found = dataclasses.asdict(metrics)
    if not metrics.candidates:
        found = {name: value for name, value in found.items() if name not in (*_OF_CANDIDATES, "candidates")}
    return found


def metric_means(metrics: RankingMetrics) -> dict[str, float]:
    """The same without what is no mean: numbers of users and of candidates."""
    return {name: float(value) for name, value in metric_values(metrics).items() if name not in COUNTS}


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
        InvalidInputError: nothing is relevant, ``list_length`` is below 1 or above the number of items, or a score is
            NaN.
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
    candidates: CandidateLists | None = None,
) -> tuple[RankingMetrics, UserValues]:
    """As :func:`rank_all`, with each user's recall, NDCG and hits, to resample users and to compare runs.

    Args:
        users_ND, items_MD, relevant, excluded, list_length: as there.
        barred_M: items that are in no list, but may be relevant.
        candidates: lists of the users of ``relevant``, by which the relevant item is ranked, too.
    """
    return _measured(
        _products(users_ND, items_MD),
        num_items=len(items_MD),
        dtype=items_MD.dtype,
        relevant=relevant,
        excluded=excluded,
        list_length=list_length,
        barred_M=barred_M,
        candidates=candidates,
    )


def _measured(
    write: Callable[[Int64Array, Tensor], None],
    *,
    num_items: int,
    dtype: torch.dtype,
    relevant: Pairs,
    excluded: tuple[Pairs, ...],
    list_length: int,
    barred_M: BoolArray | None = None,
    candidates: CandidateLists | None = None,
) -> tuple[RankingMetrics, UserValues]:
    if not len(relevant):
        raise InvalidInputError("there are no relevant items to find; expected at least one pair")
    listed_GC = None if candidates is None else candidates.of(relevant.user_E, relevant.item_E)
    found_Gk, score_GC = _best(
        write,
        np.unique(relevant.user_E),
        num_items=num_items,
        dtype=dtype,
        excluded=excluded,
        list_length=list_length,
        barred_M=barred_M,
        listed_GC=listed_GC,
    )
    metrics, of_users = list_metrics(found_Gk, relevant, num_items=num_items)
    return (metrics, of_users) if score_GC is None else _with_candidates(metrics, of_users, score_GC)


def _with_candidates(
    metrics: RankingMetrics, of_users: UserValues, score_GC: Float32Array
) -> tuple[RankingMetrics, UserValues]:
    """The same with the metrics of each user's first candidate among the others; a tie counts as the mean over its
    orders."""
    rows, width = score_GC.shape
    first_G1 = score_GC[:, :1]
    lists = OnePositiveLists(
        group_M=np.repeat(np.arange(rows), width),
        above_G=(score_GC[:, 1:] > first_G1).sum(axis=1),
        tied_G=(score_GC[:, 1:] == first_G1).sum(axis=1),
    )
    values = dict(zip(_OF_CANDIDATES, (lists.hit_rate_G(LIST_LENGTH), lists.ndcg_G(LIST_LENGTH)), strict=True))
    means = {name: float(value_G.mean()) for name, value_G in values.items()}
    return (
        dataclasses.replace(
            metrics, hit_rate_at_10=means["hit_rate_at_10"], ndcg_at_10=means["ndcg_at_10"], candidates=width
        ),
        dataclasses.replace(of_users, values={**of_users.values, **values}),
    )


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
    return _best(
        _products(users_ND, items_MD),
        ranked_G,
        num_items=len(items_MD),
        dtype=items_MD.dtype,
        excluded=excluded,
        list_length=list_length,
        barred_M=barred_M,
    )[0]


def _products(users_ND: Tensor, items_MD: Tensor) -> Callable[[Int64Array, Tensor], None]:
    items_DM = items_MD[torch.from_numpy(_shuffled(len(items_MD)))].t()

    def write(block_B: Int64Array, scores_BM: Tensor) -> None:
        torch.mm(users_ND[torch.from_numpy(block_B)], items_DM, out=scores_BM)

    return write


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
    listed_GC: Int64Array | None = None,
) -> tuple[Int64Array, Float32Array | None]:
    """As :func:`top_items`, and the scores of ``listed_GC``, [G, C], whatever is excluded; ``write`` puts the scores of
    some users into a tensor, items in :func:`_shuffled` order."""
    if not 1 <= list_length <= num_items:
        raise InvalidInputError(f"list_length is {list_length}; allowed: at least 1, at most the {num_items} items")
    shuffled_M = _shuffled(num_items)
    place_M = np.empty_like(shuffled_M)
    place_M[shuffled_M] = np.arange(num_items)
    width = -(-num_items // _STRETCH) * _STRETCH
    scores = torch.full((min(_BLOCK, len(ranked_G)), width), -torch.inf, dtype=dtype)
    item_of_place = np.concatenate([shuffled_M, np.full(width - num_items, -1)])
    barred = torch.from_numpy(place_M[barred_M] if barred_M is not None else place_M[:0])
    found = np.empty((len(ranked_G), list_length), dtype=np.int64)
    score_GC = None if listed_GC is None else np.empty(listed_GC.shape, dtype=np.float32)
    for first in range(0, len(ranked_G), _BLOCK):
        block = ranked_G[first : first + _BLOCK]
        of_block = scores[: len(block)]
        write(block, of_block[:, :num_items])
        of_block[:, barred] = -torch.inf
        if listed_GC is not None and score_GC is not None:
            listed = torch.from_numpy(place_M[listed_GC[first : first + _BLOCK]])
            of_listed = of_block.gather(1, listed)
            _refuse_nan(of_listed, block)
            score_GC[first : first + _BLOCK] = of_listed.numpy()
        for pairs in excluded:
            row, item = pairs_of(pairs, block)
            of_block[torch.from_numpy(row), torch.from_numpy(place_M[item])] = -torch.inf
        values, places = _top_places(of_block, list_length)
        _refuse_nan(values, block)
        found[first : first + _BLOCK] = np.where(values.numpy() == -np.inf, -1, item_of_place[places.numpy()])
    return found, score_GC


def _refuse_nan(scores: Tensor, users: Int64Array) -> None:
    """Raise for scores that are no numbers: no order has a place for them, and a comparison puts them anywhere."""
    nan = scores.isnan().any(dim=1).numpy()
    if nan.any():
        raise InvalidInputError(
            f"scores of user {users[nan][0]} are NaN; allowed: numbers, or -inf for an item in no list; a "
            "training that went to NaN needs a smaller train.learning_rate"
        )


def _top_places(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each row and where they are: they lie in the k stretches with the highest maxima. NaN
    counts as the highest of all, so that one anywhere in a row is among its values."""
    stretches = scores.view(len(scores), -1, _STRETCH)
    likely = stretches.amax(dim=2).topk(min(k, stretches.shape[1]), dim=1, sorted=False).indices
    candidates = stretches.gather(1, likely[:, :, None].expand(-1, -1, _STRETCH)).flatten(1)
    values, index = candidates.topk(k, dim=1)
    return values, likely.gather(1, index // _STRETCH) * _STRETCH + index % _STRETCH


def pairs_of(pairs: Pairs, users: Int64Array) -> tuple[Int64Array, Int64Array]:
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
    candidates: CandidateLists | None = None,
) -> tuple[RankingMetrics, UserValues]:
    """As :func:`rank_users`, for a model whose scores are more than products of two vectors.

    Args:
        score: scores of all items for some ascending users, [B, M], float32; -inf: in no list.
        num_items: M.
        relevant, excluded, list_length, candidates: as of :func:`rank_users`.

    Raises:
        InvalidInputError: as of :func:`rank_all`.
    """
    return _measured(
        _scores(score, num_items),
        num_items=num_items,
        dtype=torch.float32,
        relevant=relevant,
        excluded=excluded,
        list_length=list_length,
        candidates=candidates,
    )


def top_scored(
    score: Callable[[Int64Array], Tensor],
    ranked_G: Int64Array,
    *,
    num_items: int,
    excluded: tuple[Pairs, ...],
    list_length: int,
) -> Int64Array:
    """As :func:`top_items`, by the scores of :func:`rank_scored`."""
    return _best(
        _scores(score, num_items),
        ranked_G,
        num_items=num_items,
        dtype=torch.float32,
        excluded=excluded,
        list_length=list_length,
    )[0]


def _scores(score: Callable[[Int64Array], Tensor], num_items: int) -> Callable[[Int64Array, Tensor], None]:
    shuffled = torch.from_numpy(_shuffled(num_items))

    def write(block_B: Int64Array, scores_BM: Tensor) -> None:
        scores_BM.copy_(score(block_B)[:, shuffled])

    return write
