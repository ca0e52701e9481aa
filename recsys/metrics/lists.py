"""Metrics of recommendation lists: of the items retrieved from all, or of a few candidates with one positive.

Legend: ``G`` groups (users), ``k`` length of a recommendation list, ``M`` samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.errors import InvalidInputError
from recsys.metrics.checks import Array, checked


def recall_at_k(hits: Array, relevant: Array) -> float:
    """Mean over users of (relevant items in the top k) / (relevant items).

    Args:
        hits: 1 where the recommendation is relevant, [G, k], best first.
        relevant: number of relevant items of each user, 1 or more, [G].

    >>> recall_at_k(np.array([[1, 0, 1], [0, 0, 0]]), np.array([4, 1]))
    0.25
    """
    relevant = _checked_relevant(hits, relevant)
    return float(np.mean(hits.sum(axis=1) / relevant))


def capped_recall_at_k(hits: Array, relevant: Array) -> float:
    """Mean over users of (relevant items in the top k) / min(k, relevant items), so that 1 can be reached.

    The recall of GraphHash's code; never below :func:`recall_at_k`, with which it is easily confused.

    >>> capped_recall_at_k(np.array([[1, 0, 1], [0, 0, 0]]), np.array([4, 1]))  # recall_at_k: 0.25
    0.3333333333333333
    """
    relevant = _checked_relevant(hits, relevant)
    return float(np.mean(hits.sum(axis=1) / np.minimum(relevant, hits.shape[1])))


def ndcg_at_k(hits: Array, relevant: Array) -> float:
    """Mean over users of DCG@k / ideal DCG@k, with gain 1 / log2(rank + 1).

    The ideal list has min(k, relevant) hits on top, whatever was retrieved.

    >>> round(ndcg_at_k(np.array([[0, 1]]), np.array([1])), 4)
    0.6309
    """
    relevant = _checked_relevant(hits, relevant)
    length = hits.shape[1]
    gains = 1.0 / np.log2(np.arange(2, length + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(relevant, length)]
    return float(np.mean((hits * gains).sum(axis=1) / ideal))


def hit_rate_at_k(hits: Array, relevant: Array) -> float:
    """Share of users with at least one relevant item in the top k.

    >>> hit_rate_at_k(np.array([[1, 0, 1], [0, 0, 0]]), np.array([4, 1]))
    0.5
    """
    _checked_relevant(hits, relevant)
    return float(np.mean(hits.any(axis=1)))


def mrr(hits: Array, relevant: Array) -> float:
    """Mean over users of 1 / rank of the first relevant item; 0 for a user with none in the top k.

    >>> mrr(np.array([[0, 1, 1], [0, 0, 0]]), np.array([2, 1]))
    0.25
    """
    _checked_relevant(hits, relevant)
    first = hits.argmax(axis=1)
    return float(np.mean(np.where(hits.any(axis=1), 1.0 / (first + 1), 0.0)))


def coverage(recommended: Array, *, items: int) -> float:
    """Share of all items that are in at least one user's list.

    Args:
        recommended: item numbers, [G, k]; a negative one is an empty place.
        items: how many there are.

    >>> coverage(np.array([[0, 3], [3, -1]]), items=4)
    0.5

    Raises:
        InvalidInputError: there are no items, or an item number is not below their number.
    """
    recommended = np.asarray(recommended).ravel()
    if items < 1 or (len(recommended) and recommended.max() >= items):
        raise InvalidInputError(f"coverage of {items} items: found item {recommended.max(initial=-1)}; allowed: below")
    return float(len(np.unique(recommended[recommended >= 0])) / items)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnePositiveLists:
    """Place of the one positive in each list of candidates; [G].

    Attributes:
        group_M: the list of each sample, in the order of the distinct groups.
        above_G: candidates with a higher score than the positive.
        tied_G: other candidates with the same score.
    """

    group_M: Array
    above_G: Array
    tied_G: Array

    def hit_rate_G(self, k: int) -> Array:
        """Chance that the positive is in the top k."""
        chance_G: Array = np.clip((k - self.above_G) / (self.tied_G + 1), 0.0, 1.0)
        return chance_G

    def ndcg_G(self, k: int) -> Array:
        """Expected 1 / log2(rank + 1) in the top k, 0 below: with one positive the ideal is 1."""
        return self._expected(np.where(np.arange(self._longest) < k, 1.0 / np.log2(np.arange(self._longest) + 2), 0.0))

    def reciprocal_rank_G(self) -> Array:
        """Expected 1 / rank."""
        return self._expected(1.0 / (np.arange(self._longest) + 1))

    @property
    def length_G(self) -> Array:
        """Candidates of each list, the positive among them."""
        length_G: Array = np.bincount(self.group_M, minlength=len(self.above_G))
        return length_G

    @property
    def _longest(self) -> int:
        return int((self.above_G + self.tied_G).max()) + 1

    def _expected(self, gain_of_rank: Array) -> Array:
        """Mean gain over the ranks above + 1 to above + tied + 1, all equally likely."""
        sums = np.concatenate([[0.0], np.cumsum(gain_of_rank)])
        gain_G: Array = (sums[self.above_G + self.tied_G + 1] - sums[self.above_G]) / (self.tied_G + 1)
        return gain_G


def one_positive_lists(labels: Array, scores: Array, groups: Array) -> OnePositiveLists | None:
    """The lists of a protocol that ranks one positive among sampled negatives; None if these samples are not that.

    They are when every group has exactly one positive and at least one negative. A tie has no order of its own, so
    the positive is as likely at each of the tied places: a model that scores all alike hits the top 10 of 100 in a
    tenth of the lists, not in all of them.

    Args:
        labels, scores: as in :func:`recsys.metrics.auc`, [M].
        groups: which list each sample belongs to, [M].

    >>> lists = one_positive_lists(np.array([1, 0, 0, 1]), np.array([0.2, 0.9, 0.7, 0.7]), np.array([5, 5, 6, 6]))
    >>> lists.hit_rate_G(1).tolist(), lists.reciprocal_rank_G().tolist()
    ([0.0, 0.5], [0.5, 0.75])
    """
    labels, scores = checked(labels, scores)
    if len(groups) != len(labels):
        raise InvalidInputError(f"{len(groups)} groups for {len(labels)} labels")
    _, group_M = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group_M)
    if not len(sizes) or (np.bincount(group_M, weights=labels) != 1).any() or sizes.min() < 2:
        return None
    positive_G = np.empty(len(sizes), dtype=scores.dtype)
    positive_G[group_M[labels == 1]] = scores[labels == 1]
    of_list = positive_G[group_M]
    return OnePositiveLists(
        group_M=group_M,
        above_G=np.bincount(group_M, weights=scores > of_list).astype(np.int64),
        tied_G=np.bincount(group_M, weights=scores == of_list).astype(np.int64) - 1,
    )


def _checked_relevant(hits: Array, relevant: Array) -> Array:
    if hits.ndim != 2 or len(hits) != len(relevant):
        raise InvalidInputError(f"hits have shape {list(hits.shape)}; expected [{len(relevant)}, k]")
    if not len(relevant):
        raise InvalidInputError("there are no users; allowed: one or more")
    if relevant.min() < 1:
        raise InvalidInputError("every user must have at least one relevant item; leave the others out")
    return np.asarray(relevant)
